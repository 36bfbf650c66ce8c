"""`finetune backbones fetch`: many at once, continued, past failures, against a server that misbehaves."""

import io
import json
import shlex
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from checkpoints.catalog.lookup import CATALOG
from checkpoints.download import resumable
from checkpoints.errors import UnknownBackbone
from checkpoints.fetching import select
from finetune.cli import main
from tests.support.misbehaving_server import Server, say, serve


@pytest.fixture(autouse=True)
def mirrored(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_MIRROR", server.address)
    monkeypatch.setattr(resumable.tenacity.nap.time, "sleep", lambda _: None)


def typed(line: str) -> Result:
    return CliRunner().invoke(main, ["backbones", "fetch", *shlex.split(line)], prog_name="finetune")


def archive(name: str = "model.ckpt") -> bytes:
    """A published archive: an index that ends as one does, and its shard."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=0) as tar:
        for ending, content in (
            (".index", bytes.fromhex("57fb808b247547db")),
            (".data-00000-of-00001", bytes(range(256)) * 8),
        ):
            info = tarfile.TarInfo(name + ending)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def test_several_are_fetched_and_found_again(server: Server, cache: Path) -> None:
    server.script = [serve(archive())]
    line = "slim/mobilenet_v1_0.5 slim/mobilenet_v1_0.25 resnet_v1_demo --json"
    first = typed(line)
    assert first.exit_code == 0, first.output
    rows = json.loads(first.stdout)["backbones"]
    assert [(row["name"], row["status"]) for row in rows] == [
        ("slim/mobilenet_v1_0.5", "fetched"),
        ("slim/mobilenet_v1_0.25", "fetched"),
        ("bundled/resnet_v1_demo", "bundled"),
    ]
    file = cache / "weights" / "slim" / "mobilenet_v1_0.5_224.tgz"
    assert (rows[0]["path"], rows[0]["size"]) == (str(file), len(archive()))
    again = json.loads(typed(line).stdout)["backbones"]
    assert [row["status"] for row in again] == ["cached", "cached", "bundled"]
    assert len(server.requests) == 2
    listed = json.loads(CliRunner().invoke(main, ["backbones", "list", "--json"]).stdout)
    assert {row["name"]: row["cached"] for row in listed}["slim/mobilenet_v1_0.5"] == str(file)


def test_a_failure_is_passed_and_told_at_the_end(server: Server) -> None:
    server.script = [serve(archive()), say(404), serve(archive())]
    result = typed("mobilenet_v1_1.0 mobilenet_v1_0.75 mobilenet_v1_0.5")
    assert result.exit_code == 1
    assert [line.split()[:2] for line in result.stdout.splitlines()[1:]] == [
        ["slim/mobilenet_v1_1.0", "fetched"],
        ["slim/mobilenet_v1_0.75", "failed"],
        ["slim/mobilenet_v1_0.5", "fetched"],
    ]
    assert "Error: 1 of 3 could not be fetched:\n  slim/mobilenet_v1_0.75: cannot fetch http" in result.stderr
    assert "the server answered 404" in result.stderr
    assert result.stderr.count("Error:") == 1


def test_a_cut_body_is_continued_by_the_next_command(server: Server) -> None:
    body = archive()
    server.script = [serve(body, cut=50)]
    assert typed("mobilenet_v1_0.5").exit_code == 1
    tries = len(server.requests)
    server.script = [serve(body)]
    result = typed("mobilenet_v1_0.5 --json")
    assert json.loads(result.stdout)["backbones"][0]["status"] == "fetched"
    assert server.ranges()[tries:] == [f"bytes={50 * tries}-"]


def test_an_archive_that_is_none_is_a_failure(server: Server) -> None:
    server.script = [serve(archive()[:-40], etag=None)]
    result = typed("mobilenet_v1_0.5 --json")
    row = json.loads(result.stdout)["backbones"][0]
    assert (result.exit_code, row["status"], row["path"]) == (1, "failed", None)
    assert "mobilenet_v1_0.5_224.tgz" in row["error"]


@pytest.mark.parametrize(("option", "file"), [("", "mobilenet_2_5_224_tf.h5"), ("--no-head", "_tf_no_top.h5")])
def test_the_file_with_or_without_the_head(server: Server, option: str, file: str) -> None:
    server.script = [serve(b"\x89HDF\r\n\x1a\n and more")]
    result = typed(f"keras/mobilenet_0.25 {option}")
    assert result.exit_code == 0, result.output
    assert server.requests[0][0].endswith(file)


def test_patterns_mean_what_is_published() -> None:
    chosen = select(["slim/resnet_v?_50", "*/densenet1*", "slim/resnet_v1_200"])
    assert [(one.spec.id, one.named) for one in chosen] == [
        ("slim/resnet_v1_50", False),
        ("slim/resnet_v2_50", False),
        *((f"slim/densenet{depth}", False) for depth in (121, 161, 169)),
        *((f"keras/densenet{depth}", False) for depth in (121, 169)),
        ("slim/resnet_v1_200", True),
    ]
    assert [one.spec for one in select([], everything=True)] == list(CATALOG)
    assert select(["mobilenet_v1_0.5", "slim/mobilenet_v1_0.5", "slim/mobilenet_v1_0.5*"]) == select(
        ["mobilenet_v1_0.5"]
    )
    with pytest.raises(UnknownBackbone, match=r"no backbone fits the pattern 'vit\*'"):
        select(["slim/*", "vit*"])


def test_what_nobody_publishes_fails_where_it_was_asked_for_only(server: Server) -> None:
    server.script = [serve(archive())]
    passed = typed("'slim/densenet121*' mobilenet_v1_0.5 --json")
    assert (passed.exit_code, json.loads(passed.stdout)["backbones"][0]["status"]) == (0, "skipped")
    assert typed("slim/densenet121 mobilenet_v1_0.5").exit_code == 1
    nothing = typed("'slim/densenet*' --json")
    assert nothing.exit_code == 1
    assert "nothing was fetched: no weights of slim/densenet121, slim/densenet161" in nothing.stderr
    assert "no weights are published for scratch/cifar_resnet" in typed("cifar_resnet").stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "nothing to fetch: give the NAME"),
        ("mobilenet_v1_0.5 resnet_v1_51", "unknown backbone 'resnet_v1_51': did you mean"),
        ("'zz*'", "no backbone fits the pattern 'zz*'"),
    ],
)
def test_wrong_use_fetches_nothing(server: Server, line: str, words: str) -> None:
    result = typed(line)
    assert (result.exit_code, server.requests) == (2, [])
    assert words in result.stderr
