"""Images with other channels than the network takes: grey to RGB, RGB to grey, with and without alpha.

The rules are those of photos (`decoding.converted`), so that an array and the same picture in a file give one image.
"""

from typing import Any

LUMA = (0.299, 0.587, 0.114)
"""The share of R, G and B in grey (ITU-R 601-2)."""
_SUMMANDS = (19595.0, 38470.0, 7471.0)
"""The same times 2^16, as Pillow adds them for mode L. Every sum is a whole number below 2^24: exact in float32."""


def in_channels(images: Any, channels: int) -> Any:
    """Whole numbers from 0 to 255, `[batch, height, width, 1 | 3 | 4]`, with 1, 3 or 4 channels; symbolic ones too.

    RGB to grey as Pillow's mode L, to the bit. Grey is repeated. Alpha is laid over white, or added opaque. The dtype
    stays.
    """
    from keras import ops  # here, so that the words are read without it

    found, dtype = images.shape[-1], images.dtype
    if found == channels:
        return images
    if found == 1:
        images = ops.concatenate([images] * 3, axis=-1)
    elif found == 4:
        images = ops.cast(images, "float32")
        share = images[..., 3:] / 255.0
        images = ops.floor(images[..., :3] * share + 255.0 * (1.0 - share) + 0.5)
    if channels == 4:
        images = ops.concatenate([images, ops.full_like(images[..., :1], 255)], axis=-1)
    elif channels == 1:
        pixels = ops.cast(images, "float32")
        weighted = sum(pixels[..., one : one + 1] * factor for one, factor in enumerate(_SUMMANDS))
        images = ops.floor((weighted + 2.0**15) / 2.0**16)
    return ops.cast(images, dtype)


def words(found: int, channels: int) -> str | None:
    """A sentence on what `in_channels` does, for users; None where it does nothing."""
    if found == channels:
        return None
    how = {
        (3, 1): "RGB images become grey, 0.299 R + 0.587 G + 0.114 B",
        (4, 1): "transparent parts are laid over white, and images become grey, 0.299 R + 0.587 G + 0.114 B",
        (1, 3): "grey images are repeated three times",
        (4, 3): "transparent parts are laid over white, and alpha is left out",
        (1, 4): "grey images are repeated three times and get an opaque alpha",
        (3, 4): "RGB images get an opaque alpha",
    }[found, channels]
    return f"{how}: the network takes {channels} channel{'s' if channels > 1 else ''}"
