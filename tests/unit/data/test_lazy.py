"""Photos that stay encoded until a batch needs them, and random parts of them."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from finetune.data import decoding, lazy, pipeline
from finetune.data.augmentation import Augmentation
from finetune.data.dataset import Dataset, Split
from finetune.data.decoding import BadImage
from finetune.data.lazy import LazyImages
from finetune.data.preprocessing import find_preprocessing
from tests.support.written_photos import encoded, photo

RAW = find_preprocessing("raw")
CROPS = Augmentation(crop_padding=0, flip=True, resized_crop=True)


class Kept(lazy.Photos):
    """Photos in memory that count how often each is opened."""

    def __init__(self, contents):
        self.contents, self.opened = contents, Counter()

    def __len__(self):
        return len(self.contents)

    def open(self, number):
        self.opened[number] += 1
        return decoding.opened(self.contents[number], self.place(number))

    def name(self, number):
        return f"{number}.png"

    def place(self, number):
        return f"/photos/{number}.png"

    def content(self, number):
        return self.contents[number]

    def bytes_of(self, number):
        return len(self.contents[number])


def kept(count=13):
    return Kept([encoded(photo(n % 3, 30 + n, 24 + n % 5, seed=n), "PNG") for n in range(count)])


def split_of(photos, side=20):
    numbers = np.arange(len(photos))
    return Split(LazyImages(photos, numbers, side), numbers % 3)


def pixels_of(photos, number, side):
    with Image.open(__import__("io").BytesIO(photos.contents[number])) as image:
        return decoding.centre(image, (side, side))


def test_they_index_as_an_array_of_their_squares_does():
    photos = kept()
    images = LazyImages(photos, np.arange(13), 20)
    assert (images.shape, images.dtype, images.ndim, len(images)) == ((13, 20, 20, 3), np.uint8, 4, 13)
    expected = np.stack([pixels_of(photos, n, 20) for n in range(13)])
    for key in (slice(2, 7), slice(10, 99), slice(0, 0), np.array([5, 0, 5]), np.array([12])):
        np.testing.assert_array_equal(images[key], expected[key])
    np.testing.assert_array_equal(images.at(9)[:2], np.stack([pixels_of(photos, n, 9) for n in (0, 1)]))


def test_taking_a_part_reads_nothing():
    photos = kept()
    part = split_of(photos).take(np.array([3, 1, 7])).at(8)
    assert not photos.opened
    assert part.images.shape == (3, 8, 8, 3)
    assert part.labels.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(part.images[np.array([2])][0], pixels_of(photos, 7, 8))
    assert photos.opened == {7: 1}


def test_evaluation_takes_every_square_at_the_size_of_the_run():
    photos = kept()
    batches = pipeline.eval_batches(split_of(photos), batch_size=5, image_size=12, preprocessing=RAW)
    seen = [(images.numpy(), counted.numpy()) for images, _, counted in batches]
    found = np.concatenate([images[counted] for images, counted in seen])
    np.testing.assert_array_equal(found, np.stack([pixels_of(photos, n, 12) for n in range(13)]).astype(np.float32))


def train(photos, *, augmentation=CROPS, batch_size=4, epoch=0, start=0, seed=0, side=12):
    split = photos if isinstance(photos, Split) else split_of(photos)
    one = pipeline.Epoch(seed, epoch, augmentation, start)
    made = pipeline.train_batches(split, one, batch_size=batch_size, image_size=side, preprocessing=RAW)
    return [(images.numpy(), labels.numpy()) for images, labels in made]


def test_a_crop_is_a_function_of_seed_epoch_and_image_alone():
    photos = kept()
    once, again, whole = train(photos), train(photos), train(photos, batch_size=13)
    for (a, _), (b, _) in zip(once, again, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.concatenate([images for images, _ in once]), whole[0][0][:12])
    np.testing.assert_array_equal(train(photos, start=2)[0][0], once[2][0])
    order = np.random.default_rng([0, 0]).permutation(13)
    straight = lazy.random_crops(split_of(photos).images, order[:4], 12, (0, 0))
    np.testing.assert_array_equal(once[0][0], straight.astype(np.float32))
    assert not np.array_equal(once[0][0], train(photos, seed=1)[0][0])


def test_images_in_memory_are_cropped_alike():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 24, 24, 3), np.uint8)
    photos = Kept([encoded(Image.fromarray(one), "PNG") for one in images])
    (in_memory, _), (on_disk, _) = train(Split(images, np.arange(6) % 3))[0], train(split_of(photos))[0]
    np.testing.assert_array_equal(in_memory, on_disk)
    assert in_memory.shape == (4, 12, 12, 3)


def test_crops_without_flip_are_the_same_crops():
    photos, numbers = split_of(kept()).images, np.arange(13)
    mirrored, plain = (lazy.random_crops(photos, numbers, 12, (0, 0), flip=flip) for flip in (True, False))
    flipped = [not np.array_equal(one, other) for one, other in zip(mirrored, plain, strict=True)]
    assert 2 < sum(flipped) < 11
    for one, other, turned in zip(mirrored, plain, flipped, strict=True):
        np.testing.assert_array_equal(one, other[:, ::-1] if turned else other)
    augmentation = Augmentation(crop_padding=0, flip=False, resized_crop=True)
    unshuffled = train(kept(), augmentation=augmentation, batch_size=13)[0][0]
    assert {one.astype(np.uint8).tobytes() for one in unshuffled} == {one.tobytes() for one in plain}


def test_other_augmentations_move_the_centre_square():
    photos = kept()
    plain = train(photos, augmentation=Augmentation(crop_padding=0, flip=False), batch_size=13)[0]
    squares = {pixels_of(photos, n, 12).tobytes() for n in range(13)}
    assert {image.astype(np.uint8).tobytes() for image in plain[0]} == squares
    with pytest.raises(pipeline.WrongUse, match="--crop-padding 12 is too much for images of 12 px"):
        train(photos, augmentation=Augmentation(crop_padding=12, flip=False))


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (40, 40), (1000, 10), (3, 200), (1, 1)])
def test_crops_lie_within_the_photo_and_have_the_areas_and_shapes_of_inception(size):
    drawn = [lazy.draw_crop(size, (0, 0, n)) for n in range(400)]
    for (left, top, right, bottom), _ in drawn:
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
    assert 150 < sum(mirrored for _, mirrored in drawn) < 250
    if min(size) > 100:
        areas = np.array([(r - l) * (b - t) for (l, t, r, b), _ in drawn]) / (size[0] * size[1])  # noqa: E741
        shapes = np.array([(r - l) / (b - t) for (l, t, r, b), _ in drawn])  # noqa: E741
        assert (areas > 0.07).all()
        # Uniform from 0.08 to 1 before what does not fit is drawn again, which the largest often do not.
        assert 0.4 < areas.mean() < 0.54
        assert (shapes > 0.72).all()
        assert (shapes < 1.37).all()
        assert abs(np.log(shapes).mean()) < 0.05


def test_a_photo_that_fails_while_it_is_decoded_is_named():
    photos = kept()
    photos.contents[7] = photos.contents[7][:300]
    with pytest.raises(BadImage, match=r"^/photos/7.png: it is damaged .*--skip-bad-images"):
        list(pipeline.eval_batches(split_of(photos), batch_size=4, image_size=12, preprocessing=RAW))
    with pytest.raises(BadImage, match=r"/photos/7.png"):
        train(photos, batch_size=13)


def test_other_failures_of_the_pipeline_stay_what_they_are():
    class Broken(Kept):
        def open(self, number):
            raise ZeroDivisionError

    import tensorflow as tf

    broken = Broken(kept().contents)
    with pytest.raises((tf.errors.OpError, BadImage)):
        list(pipeline.eval_batches(split_of(broken), batch_size=4, image_size=12, preprocessing=RAW))


def fingerprint(photos, take=None):
    split = split_of(photos) if take is None else split_of(photos).take(take)
    return Dataset("some", ("a", "b", "c"), split, None, split, "some").fingerprint()


def test_the_fingerprint_is_by_name_and_content_and_not_by_size_in_the_run():
    before = fingerprint(kept())
    assert before == fingerprint(kept())
    assert before != fingerprint(kept(), np.arange(12))
    changed = kept()
    changed.contents[4] = changed.contents[4][:-1] + b"\0"
    assert before != fingerprint(changed)
    one, other = hashlib.sha256(), hashlib.sha256()
    split_of(kept()).images.update(one)
    split_of(kept()).images.at(3).update(other)
    assert one.digest() == other.digest()


def test_a_fingerprint_of_many_photos_reads_some_and_knows_all_names(monkeypatch):
    monkeypatch.setattr(lazy, "_READ_WHOLE", 4)
    read = []
    monkeypatch.setattr(Kept, "content", lambda self, number: read.append(number) or self.contents[number])
    before = fingerprint(kept())
    assert read == [0, 3, 6, 9] * 2
    monkeypatch.setattr(Kept, "name", lambda self, number: f"{number}{'x' * (number == 5)}.png")
    assert fingerprint(kept()) != before
