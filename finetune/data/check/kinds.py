"""The kinds of findings about images. No NumPy: the command line lists them in its help."""

from typing import Literal

Kind = Literal[
    "unreadable",
    "duplicate",
    "near-duplicate",
    "conflicting-labels",
    "flat",
    "blurred",
    "dark",
    "bright",
    "odd-size",
    "odd-aspect",
    "suspect-label",
]
"""A kind of finding."""
WORDS: dict[Kind, str] = {
    "unreadable": "cannot be decoded",
    "duplicate": "equal to another image, pixel by pixel",
    "near-duplicate": "looks the same as another image: scaled, compressed, brighter, or a little moved",
    "conflicting-labels": "the same image has several labels, here or in another split",
    "flat": "shows nothing: one grey value all over",
    "blurred": "far less sharp than the other images",
    "dark": "even its bright parts are dark",
    "bright": "even its dark parts are bright",
    "odd-size": "far more or far fewer pixels than the other images",
    "odd-aspect": "far wider or far taller than the other images",
    "suspect-label": "a classifier that was not fitted to it is sure of another class",
}
"""What each kind means, in the order of a report."""
CERTAIN: tuple[Kind, ...] = ("unreadable", "duplicate", "conflicting-labels")
"""Findings that are a matter of fact. The others are a matter of judgement: look at them first."""
