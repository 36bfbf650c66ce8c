"""Mutated files in every reader: our own error or a correct read, in time and memory, with nothing done beside it.

The long form (`make soak`) reads some 2,600 files; the short one a few of each kind.
"""

import random
from pathlib import Path

import pytest

from tests.soak import corpus, fuzzing, mutations
from tests.soak.hostile_process import Reading

SHORT, LONG = 1, 46


def require_clean(tally: fuzzing.Tally) -> None:
    print(tally.table())
    assert not tally.findings, "\n\n".join(tally.findings)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_few_mutations_of_every_file(reading: Reading, trees: dict[str, Path]) -> None:
    tally = fuzzing.fuzz(reading, trees, each=SHORT, seed=7)
    require_clean(tally)
    assert tally.files >= 60


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_thousands_of_mutations(reading: Reading, trees: dict[str, Path], tmp_path: Path) -> None:
    tally = fuzzing.fuzz(reading, trees, each=LONG, seed=20240, keep=tmp_path)
    require_clean(tally)
    assert tally.files >= 2000


def test_mutations_repeat_by_their_seed_and_change_the_file() -> None:
    content = bytes(range(256)) * 8
    first, again = (mutations.plain(random.Random(5), content, [content]) for _ in range(2))
    assert first == again
    changed = sum(mutations.plain(random.Random(seed), content, [content[::-1]])[1] != content for seed in range(200))
    assert changed > 180


def test_checksums_are_right_after_a_sealed_mutation(tmp_path: Path) -> None:
    """Otherwise the long form would test TensorFlow's checksums and nothing behind them."""
    import tensorflow as tf

    corpus.SEEDS[1].make(tmp_path)
    whole = (tmp_path / "model.ckpt.index").read_bytes()
    said = []
    for seed in range(30):
        (tmp_path / "model.ckpt.index").write_bytes(mutations.sealed_table(random.Random(seed), whole))
        from checkpoints.errors import CheckpointError
        from checkpoints.formats import open_checkpoint

        try:
            opened = open_checkpoint(tmp_path / "model.ckpt")
            said += ["read" for name in opened.shapes if opened.read(name) is not None][:1]
        except (CheckpointError, tf.errors.OpError) as error:
            said.append(str(error))
    # Where the place of a block was changed, other bytes lie, and not their checksum.
    assert sum("block checksum mismatch" in one for one in said) <= 10
    assert "read" in said
    assert sum("no index of a checkpoint" in one for one in said) >= 5
