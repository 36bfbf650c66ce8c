"""Every row of the catalogue says of its network what the network says of itself; docs/backbones.md says the same."""

import math
from fnmatch import fnmatchcase

import keras
import pytest
from click.testing import CliRunner

from checkpoints.catalog.lookup import CATALOG, BackboneSpec
from checkpoints.matching.structures import structures
from finetune.backbone import networks
from finetune.backbone.networks.names import keras_variables, slim_variables
from finetune.backbone.networks.network import HEAD, Network, layers_by_stage
from finetune.cli import main
from finetune.data.preprocessing import PREPROCESSINGS
from tests.support.places import ROOT

UNPADDED = {"inception_v3", "inception_v4", "inception_resnet_v2", "densenet", "vgg"}
"""Families that somewhere round a map down."""


CHEAP = [spec for spec in CATALOG if (spec.parameters or 0) < 1_000_000]
PAGE = ROOT / "docs" / "backbones.md"


def builds(spec: BackboneSpec, image_size: int) -> bool:
    try:
        networks.build(spec.family, image_size=image_size, outputs=None, arguments=spec.arguments)
    except ValueError:
        return False
    return True


def map_at_the_end(network: Network) -> tuple[int | None, ...]:
    """The shape of what is pooled, or of what a head without pooling takes."""
    kinds = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
    pooled = [layer.input for layer in network.model.layers if isinstance(layer, kinds)]
    return tuple((pooled or [network.model.get_layer(network.stages[-1].end).output])[-1].shape)


def problems(spec: BackboneSpec) -> list[str]:
    """What the row says that its network, built at the least size, does not."""
    keras.backend.clear_session(free_memory=True)
    outputs = spec.outputs or 7  # without published weights there is no published head
    network = networks.build(spec.family, image_size=spec.least_size, outputs=outputs, arguments=spec.arguments)
    stages = layers_by_stage(network)
    has_weights = {layer.name: bool(layer.weights) for layer in network.model.layers}
    names = keras_variables(network.model) if spec.source == "keras" else slim_variables(network.model)
    head = {name for name in names if any(fnmatchcase(name, pattern) for pattern in spec.head)}
    ignored = [name for name in names if any(fnmatchcase(name, pattern) for pattern in spec.auxiliary)]
    parameters = sum(variable.value.shape.num_elements() for name, variable in names.items() if name not in head)
    norms = [layer for layer in network.model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    last_map = map_at_the_end(network)
    checks = {
        f"{parameters} parameters, not {spec.parameters}": parameters == spec.parameters,
        f"{sorted(head)} are not the head's variables": len(head) == 2 * len(spec.head) or len(head) == 2,
        f"the head stage is {stages.get(HEAD)}": any(has_weights[name] for name in stages.get(HEAD, ())),
        f"{ignored} would be ignored": not ignored,
        f"its output is {network.model.output_shape}": network.model.output_shape == (None, outputs),
        "BatchNorm has another epsilon": {layer.epsilon for layer in norms} == {spec.bn_epsilon} - {None},
        # The decay of a row to train from scratch is advice for training, not what the network was made with.
        "BatchNorm has another decay": spec.unpublished
        or {layer.momentum for layer in norms} == {spec.bn_decay} - {None},
        f"the last map at the least size is {last_map}": last_map[1:3] == (1, 1)
        or spec.bundled is not None
        or spec.name == "xception",  # Keras itself refuses images that would leave a smaller map
        "a layer is not of Keras's stock": all(
            type(layer).__module__.startswith("keras.") for layer in network.model.layers
        ),
        "a stage has no variables": all(any(has_weights[name] for name in layers) for layers in stages.values()),
        "a layer is in no stage or in two": sorted(name for layers in stages.values() for name in layers)
        == sorted(has_weights),
    }
    # Where all padding is SAME no map vanishes; the least size is then the stride of the whole network.
    if spec.family in UNPADDED:
        checks["it builds below its least size"] = not builds(spec, spec.least_size - 1)
    return [f"{spec.id}: {what}" for what, holds in checks.items() if not holds]


def written_problems(spec: BackboneSpec) -> list[str]:
    """What the row says that the recorded structure of its network does not (test_structures.py holds that true)."""
    names = {entry.name: entry.shape for entry in structures().get(spec.id, ())}
    head = [name for name in names if any(fnmatchcase(name, pattern) for pattern in spec.head)]
    parameters = sum(math.prod(shape) for name, shape in names.items() if name not in head)
    width = {names[name][-1] for name in head[-2:]}  # the logits come last
    checks = {
        f"{parameters} parameters, not {spec.parameters}": parameters == spec.parameters,
        f"{head} are not the head's variables": len(head) == 2 * len(spec.head) or len(head) == 2,
        f"the logits are {width}, not {spec.outputs}": width == {spec.outputs or 1},
        "an auxiliary pattern takes a variable of the network": not any(
            fnmatchcase(name, pattern) for name in names for pattern in spec.auxiliary
        ),
        f"no preprocessing is called {spec.preprocessing!r}": spec.preprocessing in PREPROCESSINGS,
        f"{spec.least_size} px is more than the published {spec.image_size}": spec.least_size <= spec.image_size,
        f"label offset {spec.label_offset} with {spec.outputs} outputs": spec.label_offset == int(spec.outputs == 1001),
        "it has no reference": bool(spec.reference),
        f"top-1 {spec.top1}, top-5 {spec.top5}": spec.top1 is None or 0 < spec.top1 < (spec.top5 or 100) <= 100,
    }
    return [f"{spec.id}: {what}" for what, holds in checks.items() if not holds]


def test_every_row_is_what_its_network_was_when_it_was_recorded() -> None:
    found = [problem for spec in CATALOG for problem in written_problems(spec)]
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_small_rows_build_what_they_say() -> None:
    assert len(CHEAP) > 4
    found = [problem for spec in CHEAP for problem in problems(spec)]
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [spec for spec in CATALOG if spec not in CHEAP], ids=lambda spec: spec.id)
def test_every_row_builds_what_it_says(spec: BackboneSpec) -> None:
    found = problems(spec)
    assert not found, "\n".join(found)


def test_the_page_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(main, ["backbones", "list", "--markdown"])
    assert printed.exit_code == 0, printed.output
    assert printed.stdout == PAGE.read_text(encoding="utf-8"), "'make docs' writes docs/backbones.md anew"
    assert all(f"| `{spec.name}` | {spec.source} |" in printed.stdout for spec in CATALOG)
