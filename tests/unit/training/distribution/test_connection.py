"""How the workers meet, and what they agree on."""

import socket
import threading

import pytest

from finetune.errors import FinetuneError, WrongUse
from finetune.training.distribution import cluster as clusters
from finetune.training.distribution.connection import meet
from tests.unit.training.distribution.test_cluster import tf_config


def both(chief_offer, other_offer, *, other_rank=1, workers=2):
    """What the two get from meeting: an offer, or the error."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        addresses = [f"127.0.0.1:{one.getsockname()[1]}", f"127.0.0.1:{two.getsockname()[1]}"][:workers]
    found = {}

    def come(rank, offer):
        own = clusters.parse(tf_config({"worker": addresses}, {"type": "worker", "index": rank}))
        try:
            found[rank] = meet(own, offer, lambda text: None)
        except FinetuneError as error:
            found[rank] = str(error)

    threads = [threading.Thread(target=come, args=pair) for pair in ((0, chief_offer), (other_rank, other_offer))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def offer(**changed):
    return {"command": "run", "version": "1", "gpus": 0, "settings": {"seed": 0, "data_dir": "/a"}} | changed


def test_workers_agree_on_the_chiefs_settings(monkeypatch):
    monkeypatch.setenv("FINETUNE_WAIT", "20")
    found = both(offer(), offer(settings={"seed": 0, "data_dir": "/b"}))
    assert found == {0: offer(), 1: offer()}
    assert both(offer(), offer(settings=None)) == {0: offer(), 1: offer()}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"settings": {"seed": 1}}, "--seed is 1 there and 0 here"),
        ({"version": "2"}, "the programs differ, 2 there and 1 here"),
        ({"gpus": 4}, "the numbers of GPUs differ, 4 there and 0 here"),
        ({"command": "run --resume"}, "the commands differ"),
    ],
)
def test_workers_that_disagree_hear_why(monkeypatch, changed, words):
    monkeypatch.setenv("FINETUNE_WAIT", "20")
    found = both(offer(), offer(**changed))
    assert found[0] == found[1]
    assert words in found[0]


def test_a_worker_that_does_not_come_is_named(monkeypatch):
    monkeypatch.setenv("FINETUNE_WAIT", "0.7")
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    for index, words in (
        (0, "worker 1 (localhost:1) did not come within 0.7 s"),
        (1, "worker 0 (localhost:1) was not"),
    ):
        addresses = [f"127.0.0.1:{port}", "localhost:1"][:: -1 if index else 1]
        own = clusters.parse(tf_config({"worker": addresses}, {"type": "worker", "index": index}))
        with pytest.raises(FinetuneError, match="start the same command there") as caught:
            meet(own, offer(), lambda text: None)
        assert words in str(caught.value)


def test_a_port_in_use_is_named(monkeypatch):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        own = clusters.parse(tf_config({"worker": [f"a:{port}", "b:1"]}, {"type": "worker", "index": 0}))
        with pytest.raises(FinetuneError, match=rf"port {port} of worker 0 \(a:{port}\) cannot be opened"):
            meet(own, offer(), lambda text: None)
    monkeypatch.setenv("FINETUNE_WAIT", "soon")
    with pytest.raises(WrongUse, match="FINETUNE_WAIT is 'soon'"):
        meet(own, offer(), lambda text: None)
