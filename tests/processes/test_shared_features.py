"""Processes that want the same features at once share the work, and what one leaves when it is killed is sound."""

import json
import signal

import numpy as np
import pytest

from finetune.training.feature_cache import feature_store
from tests.support.small_features import CONFIG, classifier, generated, trained
from tests.support.warm_process import WarmProcess

IMAGES = 1550
ROWS = IMAGES + 32  # and the test images in whole batches

PROGRAM = """
import json, sys, time
from tests.support.small_features import CONFIG, classifier, generated, cached_feed, Progress
from finetune.training.feature_cache.extraction import Network
own, patient = Network.__call__, float(sys.argv[1])

def slow(self, images):
    time.sleep(patient)
    return own(self, images)

Network.__call__ = slow
print("ready", flush=True)
sys.stdin.readline()
done = lambda count, total: print(count, total, flush=True)
progress = Progress(print, done, lambda: False, print)
with cached_feed(classifier(), generated(count=1550), CONFIG, progress) as (feed, about):
    print(json.dumps(about), flush=True)
"""


def started(patient):
    return WarmProcess(PROGRAM, str(patient))


@pytest.mark.slow
def test_two_at_once_and_one_killed_in_the_midst(home):
    first, second = started(0.05), started(0.15)
    try:
        for process in (first, second):
            assert process.stdout.readline() == "ready\n"
        for process in (first, second):
            process.stdin.write("\n")
            process.stdin.flush()
        for line in first.stdout:
            if int(line.split()[0]) > 400:
                break
        first.send_signal(signal.SIGKILL)
        first.wait()
        said = second.stdout.read()
        assert second.wait() == 0
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
            process.close()
    about = json.loads(said.splitlines()[-1])
    # Neither did all of it, and nothing is there twice but what a killed process had just written.
    assert 100 < about["read"] < ROWS - 100
    assert about["computed"] + about["read"] == ROWS
    entries = {one.about["statistics"]: one for one in feature_store.entries()}
    assert (entries["moving"].images, entries["batch"].images) == (IMAGES, 32)
    shared = trained(classifier(), generated(count=IMAGES), CONFIG)
    assert shared.about["computed"] == 0
    feature_store.clear()
    alone = trained(classifier(), generated(count=IMAGES), CONFIG)
    assert alone.about["read"] == 0
    assert shared.losses == alone.losses
    for a, b in zip(shared.weights, alone.weights, strict=True):
        np.testing.assert_array_equal(a, b)
