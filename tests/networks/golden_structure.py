"""Every variable's slim name and shape, as a text file keeps it for networks that tf_slim does not have.

The files were written from the graph that the source in their first line builds with tf_slim, not from ours.
`python tests/networks/golden_structure.py NAME` writes one anew from ours: compare it with that source first.
"""

import json
import sys
from pathlib import Path

from checkpoints.catalog.lookup import BackboneSpec, find_row
from finetune.backbone import networks
from finetune.backbone.networks.names import slim_variables
from finetune.backbone.networks.network import Network

GOLDEN = Path(__file__).parent / "golden"


def build(spec: BackboneSpec) -> Network:
    """At the least size, with the published head."""
    return networks.build(spec.family, image_size=spec.least_size, outputs=spec.outputs, arguments=spec.arguments)


def of_network(network: Network) -> dict[str, list[int]]:
    """Name -> sides."""
    return {name: list(variable.shape) for name, variable in slim_variables(network.model).items()}


def of_file(spec: BackboneSpec) -> dict[str, list[int]]:
    """Name -> sides, as the golden file has them."""
    lines = (line.split(" ", 1) for line in _path(spec).read_text().splitlines()[1:])
    return {name: json.loads(sides) for name, sides in lines}


def assert_golden(network: Network, spec: BackboneSpec) -> None:
    """Compare our network, as `build` makes it, with its golden file."""
    ours, golden = of_network(network), of_file(spec)
    differing = sorted(name for name in {*ours, *golden} if ours.get(name) != golden.get(name))
    assert not differing, (
        f"{len(differing)} variables of {spec.id} differ from {_path(spec)}: {differing[:10]}. "
        f"If that is meant: python tests/networks/golden_structure.py {spec.id} writes the file anew."
    )


def _path(spec: BackboneSpec) -> Path:
    return GOLDEN / f"{spec.name}.txt"


if __name__ == "__main__":
    for row in map(find_row, sys.argv[1:]):
        first = _path(row).read_text().splitlines()[:1]
        lines = [f"{name} {sides}" for name, sides in sorted(of_network(build(row)).items())]
        _path(row).write_text("\n".join([*first, *lines]) + "\n")
