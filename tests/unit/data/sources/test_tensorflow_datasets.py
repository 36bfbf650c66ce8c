"""`tfds:NAME`, on data sets of tensorflow_datasets that are built here."""

import re
import sys
import warnings

import numpy as np
import pytest

from finetune._version import install_line
from finetune.config import RunConfig
from finetune.data.load_data import load_data
from finetune.errors import FinetuneError, WrongUse
from tests.support.written_photos import CLASSES, COLOURS, photo

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    tfds = pytest.importorskip("tensorflow_datasets", reason="the extra 'tfds' is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")


class TinyPhotos(tfds.core.GeneratorBasedBuilder):
    """Three colours."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=CLASSES), "id": np.int64}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(9), "test": self._generate_examples(6)}

    def _generate_examples(self, count):
        for n in range(count):
            yield n, {"image": np.asarray(photo(n % 3, 40, 32, seed=n)), "label": n % 3, "id": n}


class TinyTexts(tfds.core.GeneratorBasedBuilder):
    """No images."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

    def _split_generators(self, dl_manager):
        return {"train": iter([(0, {"text": "a"})])}

    def _generate_examples(self):
        raise NotImplementedError


def load(name, place):
    return load_data(RunConfig("any", data=name, data_dir=str(place), validation=0.0))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    place = tmp_path_factory.mktemp("tfds")
    for file_format in ("tfrecord", "array_record"):
        builder = TinyPhotos(data_dir=place / file_format, file_format=file_format)
        builder.download_and_prepare()
    return place


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_a_prepared_data_set_is_read_at_random_access(file_format, prepared):
    dataset = load("tfds:tiny_photos", prepared / file_format)
    assert (dataset.name, dataset.class_names) == ("tiny_photos", CLASSES)
    assert (len(dataset.train), len(dataset.test)) == (9, 6)
    assert dataset.source == "tfds:tiny_photos/1.0.0: train, test"
    for split in (dataset.train, dataset.test):
        found = split.images[:][:, 8:24, 24:].mean((1, 2))
        assert np.abs(found - np.array(COLOURS)[split.labels]).max() < 12
    some = dataset.train.take(np.array([7, 2])).images
    np.testing.assert_array_equal(some[:], dataset.train.images[np.array([7, 2])])
    assert dataset.fingerprint() == load("tfds:tiny_photos", prepared / file_format).fingerprint()


def test_what_is_not_there_is_prepared(tmp_path):
    assert len(load("tfds:tiny_photos:1.0.0", tmp_path).train) == 9
    assert (tmp_path / "tiny_photos" / "1.0.0").is_dir()


def test_no_images_and_no_name(tmp_path):
    with pytest.raises(FinetuneError, match="has the features text: expected one image and one class label"):
        load("tfds:tiny_texts", tmp_path)
    with pytest.raises(WrongUse, match="names no data set: expected tfds:NAME"):
        load("tfds:", tmp_path)
    with pytest.raises(WrongUse, match=r"unknown data 'tfds:tiny_photo': did you mean tfds:tiny_photos?"):
        load("tfds:tiny_photo", tmp_path)
    with pytest.raises(FinetuneError, match=r"tfds:tiny_photos:9.9.9 cannot be opened"):
        load("tfds:tiny_photos:9.9.9", tmp_path)


def test_a_data_set_that_cannot_be_fetched(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(TinyPhotos, "_split_generators", offline)
    with pytest.raises(
        FinetuneError, match=r"could not be fetched: ConnectionError: no network; prepare it with 'tfds build"
    ):
        load("tfds:tiny_photos", tmp_path)


def test_without_the_extra_it_is_said_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(WrongUse, match=re.escape(f"needs tensorflow_datasets: {install_line('tfds')}")):
        load("tfds:tiny_photos", tmp_path)
