"""What a user may name as a backbone."""

from checkpoints import catalog
from checkpoints.catalog import BackboneSpec


def find(name: str) -> BackboneSpec:
    """The spec of a backbone: a catalogue name.

    Raises UnknownBackbone with the nearest name.
    """
    return catalog.find(name)
