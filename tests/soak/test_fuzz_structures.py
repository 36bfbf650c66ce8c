"""Structures that are well-formed and absurd: what hypothesis makes of configs, jobs, results, archives and pickles."""

import contextlib
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoints.cache import archive
from checkpoints.errors import CheckpointError
from checkpoints.formats import open_checkpoint
from finetune.batch.jobs import read_jobs
from finetune.config import SETTINGS, from_mapping
from finetune.data.sources.restricted_pickle import read_pickle
from finetune.data.sources.tfrecord_example import Example, Malformed, tensor_of
from finetune.errors import FinetuneError, UserError
from finetune.runs.directory import read_config_file

some = settings(max_examples=60, deadline=None, derandomize=True,
                suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # fmt: skip
many = settings(some, max_examples=2000)

texts = st.text(max_size=12) | st.sampled_from(["", "*", "../x", "a=b", "\x1b[2J", "nan", "-1", "0", "freeze"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from([*SETTINGS, "backbone", "format_version", "nonsense", "learning-rate"])


def _config(content: dict[str, Any], place: Path) -> None:
    path = place / "config.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with contextlib.suppress(UserError):
        from_mapping(read_config_file(path), where=str(path))


@given(content=st.dictionaries(names, values, max_size=5))
@some
def test_any_json_is_a_config_or_one_error(content: dict[str, Any], tmp_path: Path) -> None:
    _config({"backbone": "resnet_v1_demo", **content}, tmp_path)


@pytest.mark.soak
@given(content=st.dictionaries(names, values, max_size=5))
@many
def test_very_much_json_is_a_config_or_one_error(content: dict[str, Any], tmp_path: Path) -> None:
    _config({"backbone": "resnet_v1_demo", **content}, tmp_path)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if value is None:
        return '"none"'
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


def _jobs(defaults: dict[str, Any], matrix: dict[str, Any], job: dict[str, Any], place: Path) -> None:
    tables = (("[defaults]", defaults), ("[matrix]", matrix), ("[[job]]", job))
    lines = [
        f"{head}\n" + "".join(f"{json.dumps(k)} = {_toml(v)}\n" for k, v in table.items()) for head, table in tables
    ]
    (place / "jobs.toml").write_text("\n".join(lines), encoding="utf-8", errors="replace")
    with contextlib.suppress(UserError):
        for one in read_jobs(place / "jobs.toml"):
            assert set(one.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")


tables = st.dictionaries(names | st.sampled_from(["name", "exclude", "seeds"]), values, max_size=3)


@given(defaults=tables, matrix=tables, job=tables)
@some
def test_any_toml_is_jobs_or_one_error(defaults: Any, matrix: Any, job: Any, tmp_path: Path) -> None:
    _jobs({"backbone": "resnet_v1_demo", **defaults}, matrix, job, tmp_path)


@pytest.mark.soak
@given(defaults=tables, matrix=tables, job=tables)
@many
def test_very_much_toml_is_jobs_or_one_error(defaults: Any, matrix: Any, job: Any, tmp_path: Path) -> None:
    _jobs({"backbone": "resnet_v1_demo", **defaults}, matrix, job, tmp_path)


parts = st.sampled_from(["a", "b.ckpt", "..", ".", "", "/", "C:", "con", "x" * 300, "ü", "\n", "\0", "\\", "~"])
paths = st.lists(parts, min_size=1, max_size=4).map("/".join)
kinds = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"Z"])


@given(members=st.lists(st.tuples(paths, kinds, paths, st.binary(max_size=20)), max_size=6))
@some
def test_an_archive_writes_below_its_directory_or_nothing(members: Any, tmp_path_factory: Any) -> None:
    place = tmp_path_factory.mktemp("tar")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, kind, link, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(content))
    (place / "x.tar.gz").write_bytes(packed.getvalue())
    try:
        archive.extract(place / "x.tar.gz", place / "into" / "here")
    except CheckpointError:
        assert not (place / "into" / "here").exists()
    assert {path.name for path in place.iterdir()} <= {"x.tar.gz", "into"}
    assert {path.name for path in (place / "into").iterdir()} <= {"here"}
    assert not any(path.is_symlink() for path in place.rglob("*"))


@given(names=st.lists(paths, max_size=5), config=values)
@some
def test_a_zip_that_calls_itself_keras_is_one_error(names: list[str], config: Any, tmp_path_factory: Any) -> None:
    place = tmp_path_factory.mktemp("zip")
    with zipfile.ZipFile(place / "x.keras", "w") as packed:
        packed.writestr("config.json", json.dumps(config))
        for name in dict.fromkeys(names):
            packed.writestr(name.replace("\0", "") or "e", b"x")
    with pytest.raises(CheckpointError):
        open_checkpoint(place / "x.keras")
    assert {path.name for path in place.iterdir()} == {"x.keras"}


plain = st.recursive(st.none() | st.integers() | st.binary(max_size=8) | texts,
                     lambda inner: st.lists(inner, max_size=3) | st.tuples(inner), max_leaves=5)  # fmt: skip


@given(content=plain | st.dictionaries(texts | st.binary(max_size=4), plain, max_size=4), protocol=st.integers(0, 5))
@some
def test_plain_values_are_unpickled_as_they_were(content: Any, protocol: int) -> None:
    try:
        found = read_pickle(pickle.dumps(content, protocol), "x")
    except FinetuneError:
        assert not isinstance(content, dict)
    else:
        assert len(found) <= len(content)


OPCODES = [
    bytes([code]) for code in b"(.0125FINKJLSTUVXabdehgjlopqrstuvw}])\x80\x81\x8a\x8c\x90\x92\x93\x94\x95\x96\x97"
]


@given(
    program=st.lists(
        st.sampled_from(OPCODES)
        | st.binary(min_size=1, max_size=6)
        | st.sampled_from([b"cos\nsystem\n", b"cnumpy\ndtype\n", b"S'touch x'\n"]),
        max_size=20,
    )
)
@settings(some, max_examples=300)
def test_any_pickle_program_is_refused_or_a_dict(program: list[bytes]) -> None:
    with contextlib.suppress(FinetuneError):
        assert isinstance(read_pickle(b"".join(program) + b".", "x"), dict)


@given(content=st.binary(max_size=200))
@settings(some, max_examples=300)
def test_any_bytes_are_an_example_or_malformed(content: bytes) -> None:
    with contextlib.suppress(Malformed):
        example = Example(content)
        for key in example.features:
            example.first_bytes(key)
            example.first_int(key)
            example.values(key)
            tensor_of(example.content(key))
