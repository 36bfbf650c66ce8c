"""What a CIFAR pickle may ask for, and that nothing else happens."""

import contextlib
import os
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest

from finetune.data.sources.restricted_pickle import LARGEST, check_size, read_bytes, read_pickle
from finetune.errors import FinetuneError

BATCH = {"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": [0, 1, 2], "name": "a", "raw": b"\x00\xff"}


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "f4", "?"])
def test_arrays_of_every_protocol_are_read(protocol, dtype):
    data = (np.arange(12).reshape(3, 4) % 2).astype(dtype)
    read = read_pickle(pickle.dumps({**BATCH, "data": data}, protocol=protocol), "data_batch_1")
    np.testing.assert_array_equal(read["data"], data)
    assert read["data"].dtype == data.dtype
    assert (read["labels"], read["raw"]) == (BATCH["labels"], BATCH["raw"])


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_in_column_order_are_read(protocol):
    data = np.asfortranarray(BATCH["data"])
    np.testing.assert_array_equal(read_pickle(pickle.dumps({"data": data}, protocol), "b")["data"], data)


def test_both_spellings_of_numpy_are_read():
    new = pickle.dumps(BATCH, protocol=2)
    assert b"numpy._core.multiarray" in new or b"numpy.core.multiarray" in new
    for spelling in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        content = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray").replace(
            b"numpy.core.multiarray", spelling
        )
        np.testing.assert_array_equal(read_pickle(content, "b")["data"], BATCH["data"])


def test_text_of_python_2_comes_as_bytes_except_in_keys():
    # {'data': 'ab\xff'} as Python 2 pickles it.
    content = b"\x80\x02}U\x04dataU\x03ab\xffs."
    assert [op.name for op, _, _ in pickletools.genops(content)][2] == "SHORT_BINSTRING"
    assert read_pickle(content, "b") == {"data": b"ab\xff"}


REFUSED = {
    "os.system": b"cos\nsystem\n(S'touch {}'\ntR.",
    "builtins.eval": b'cbuiltins\neval\n(S\'open("{}", "w")\'\ntR.',
    "builtins.getattr": b"cbuiltins\ngetattr\n(S'{}'\ntR.",
    "numpy.load": b"cnumpy\nload\n(S'{}'\ntR.",
    "numpy.core.multiarray.scalar": b"cnumpy.core.multiarray\nscalar\n(S'{}'\ntR.",
    "_codecs.open": b"c_codecs\nopen\n(S'{}'\ntR.",
}


@pytest.mark.parametrize("function", REFUSED)
def test_functions_are_refused_by_name_and_not_run(function, tmp_path):
    touched = tmp_path / "touched"
    with pytest.raises(FinetuneError, match=f"^refused: data_batch_1 asks to run {function} while being unpickled"):
        read_pickle(REFUSED[function].replace(b"{}", str(touched).encode()), "data_batch_1")
    assert not touched.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_function_hidden_deep_in_a_batch_is_refused(protocol, tmp_path):
    touched = tmp_path / "touched"
    content = pickle.dumps({**BATCH, "labels": [1, [Calls(os.system, f"touch {touched}")]]}, protocol)
    with pytest.raises(FinetuneError, match=rf"{os.system.__module__}\.system"):
        read_pickle(content, "data_batch_1")
    assert not touched.exists()


def damaged():
    whole = pickle.dumps(BATCH, protocol=2)
    yield "empty", b""
    yield "no pickle", b"<html>not found</html>"
    yield "cut off", whole[: len(whole) // 2]
    yield "no dict", pickle.dumps([1, 2])
    yield "another codec", b"\x80\x02}X\x01\x00\x00\x00ac_codecs\nencode\nX\x01\x00\x00\x00bX\x03\x00\x00\x00hex\x86Rs."
    yield "array of objects", pickle.dumps({"data": np.array([{}], object)}, protocol=2)
    yield "array of another size", whole.replace(b"K\x03K\x04\x86", b"K\x03K\x05\x86")
    yield "array without content", b"}S'data'\ncnumpy.core.multiarray\n_reconstruct\n)Rs."
    yield "huge memo", b"\x80\x02}r\xff\xff\xff\xff."
    yield "class called", b"}S'data'\ncnumpy\nndarray\n(I8\ntRs."
    yield "class changed", b"cnumpy\nndarray\n(N(S'shape'\nI1\ndtb."
    yield "list within itself", b"}S'data'\n](h\x00l0."


@pytest.mark.parametrize(("case", "content"), [pytest.param(*one, id=one[0]) for one in damaged()])
def test_damaged_files_are_named(case, content):
    with pytest.raises(FinetuneError, match=r"^test_batch is damaged.*download or unpack it again$"):
        read_pickle(content, "test_batch")


def test_every_truncation_and_many_flips_end_in_an_error_or_a_dict():
    whole = pickle.dumps(BATCH, protocol=2)
    rng = np.random.default_rng(0)
    for cut in range(len(whole) - 1):
        with pytest.raises(FinetuneError):
            read_pickle(whole[:cut], "b")
    for _ in range(2000):
        content = bytearray(whole)
        content[rng.integers(len(whole))] = rng.integers(256)
        with contextlib.suppress(FinetuneError):
            assert isinstance(read_pickle(bytes(content), "b"), dict)


def test_a_file_that_is_too_large_is_not_opened(tmp_path: Path):
    path = tmp_path / "data_batch_1"
    with path.open("wb") as file:
        file.truncate(LARGEST + 2**20)
    with pytest.raises(FinetuneError, match=r"data_batch_1 has 257 MiB: expected at most 256"):
        read_bytes(path)
    check_size(LARGEST, "b")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(FinetuneError, match=r"gone cannot be read \(No such file"):
        read_bytes(tmp_path / "gone")
