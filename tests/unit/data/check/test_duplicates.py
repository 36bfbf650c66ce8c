"""Groups of equal and of similar images, against a comparison of every pair."""

import numpy as np
import pytest

from finetune.data.check import duplicates


def hashes_near_each_other(count, seed):
    """Hashes of 32 random ones, and copies of some with a few bits changed."""
    rng = np.random.default_rng(seed)
    known = rng.integers(0, 2**63, count, np.uint64)
    for place in range(0, count - 1, 3):
        bits = rng.permutation(64)[: rng.integers(0, 10)]
        known[place + 1] = known[place] ^ np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64), initial=0)
    return known


def all_pairs(hashes):
    return {
        (one, other)
        for one in range(len(hashes))
        for other in range(one + 1, len(hashes))
        if int(hashes[one] ^ hashes[other]).bit_count() <= duplicates.FURTHEST
    }


def found_pairs(hashes):
    links = [np.stack(pair, axis=1) for pair in duplicates._near(hashes)]
    return {tuple(pair) for pair in np.concatenate(links).tolist()}


def test_no_near_pair_is_missed_and_none_is_made_up(monkeypatch):
    hashes = hashes_near_each_other(400, 0)
    wanted = all_pairs(hashes)
    assert len(wanted) > 60
    assert found_pairs(hashes) == wanted
    monkeypatch.setattr(duplicates, "_CHUNK", 7)
    assert found_pairs(hashes) == wanted


def test_many_equal_hashes_are_compared_in_chunks(monkeypatch):
    monkeypatch.setattr(duplicates, "_CHUNK", 50)
    assert len(found_pairs(np.full(40, 5, np.uint64))) == 40 * 39 // 2


@pytest.mark.slow
def test_a_pair_among_a_hundred_thousand_is_found():
    hashes = np.random.default_rng(1).integers(0, 2**63, 100_000, np.uint64)
    hashes[70_000] = hashes[3] ^ np.uint64(0b10100000000000000001)
    assert (3, 70_000) in found_pairs(hashes)


def test_similar_images_need_similar_thumbnails():
    rng = np.random.default_rng(2)
    thumbnails = rng.integers(0, 256, (200, 16, 16), np.uint8)
    thumbnails[17] = np.clip(thumbnails[4].astype(int) // 2 + 60, 0, 255)  # darker, with less contrast
    hashes = rng.integers(0, 2**63, 200, np.uint64)
    hashes[17], hashes[30] = hashes[4], hashes[5]  # 30 has the hash of 5 by chance, and other pixels
    groups = duplicates.similar_groups(hashes, thumbnails, np.arange(200))
    assert [group.tolist() for group in groups] == [[4, 17]]
    without = np.delete(np.arange(200), 4)
    assert duplicates.similar_groups(hashes, thumbnails, without) == []
    assert duplicates.similar_groups(hashes, thumbnails, np.arange(0)) == []


def test_exact_groups():
    digests = np.array([b"a" * 16, b"b" * 16, b"a" * 16, b"c" * 16, b"b" * 16, b"a" * 16], "V16")
    groups = duplicates.exact_groups(digests, np.arange(6))
    assert sorted(group.tolist() for group in groups) == [[0, 2, 5], [1, 4]]
    assert [group.tolist() for group in duplicates.exact_groups(digests, np.array([0, 1, 3, 5]))] == [[0, 5]]
