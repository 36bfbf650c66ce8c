"""Small CIFAR-10 folders and archives as they are published, written for the tests."""

import pickle
import tarfile
from pathlib import Path

import numpy as np

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def batch(number: int, examples: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """(pixels uint8 `[examples, 3072]` plane by plane, labels int64) of batch `number`; 0 is the test batch."""
    rng = np.random.default_rng([7, number])
    return rng.integers(0, 256, (examples, 3072), np.uint8), np.arange(examples) % 10


def images(number: int) -> np.ndarray:
    """What a reader must make of it, written out pixel by pixel: red plane first, rows from the top."""
    pixels, _ = batch(number)
    expected = np.empty((len(pixels), 32, 32, 3), np.uint8)
    for row in range(32):
        for column in range(32):
            for channel in range(3):
                expected[:, row, column, channel] = pixels[:, 1024 * channel + 32 * row + column]
    return expected


def write_pickled(place: Path, *, training: tuple[int, ...] = (1, 2, 3, 4, 5), test: bool = True) -> Path:
    folder = place / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number in (*training, *((0,) if test else ())):
        pixels, labels = batch(number)
        content = {b"data": pixels, b"labels": labels.tolist(), b"batch_label": b"a batch"}
        (folder / (f"data_batch_{number}" if number else "test_batch")).write_bytes(pickle.dumps(content, protocol=2))
    meta = {b"label_names": [name.encode() for name in NAMES], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder


def write_binary(place: Path, *, training: tuple[int, ...] = (1, 2, 3, 4, 5), test: bool = True) -> Path:
    folder = place / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for number in (*training, *((0,) if test else ())):
        pixels, labels = batch(number)
        records = np.concatenate([labels.astype(np.uint8)[:, None], pixels], axis=1)
        (folder / (f"data_batch_{number}.bin" if number else "test_batch.bin")).write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    return folder


def write_archive(place: Path, folder: Path, name: str) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place / name, "w:gz") as archive:
        archive.add(folder, folder.name)
    return place / name
