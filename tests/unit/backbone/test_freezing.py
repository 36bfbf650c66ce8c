"""Rules resolve in order; nothing is left undecided; what matches nothing is an error."""

import pytest

from finetune.backbone.freezing import HEAD, LayerInfo, parse_freeze_rule, resolve
from finetune.batchnorm.policy import Rule, parse_bn_rule
from finetune.errors import WrongUse

SCOPE = "resnet_v1_50"
LAYERS = [
    LayerInfo(f"{SCOPE}.conv1", "conv1", False, SCOPE),
    LayerInfo(f"{SCOPE}.conv1.BatchNorm", "conv1", True, SCOPE),
    LayerInfo(f"{SCOPE}.block1.unit_1.conv1", "block1", False, SCOPE),
    LayerInfo(f"{SCOPE}.block1.unit_1.conv1.BatchNorm", "block1", True, SCOPE),
    LayerInfo(f"{SCOPE}.block4.unit_1.conv1", "block4", False, SCOPE),
    LayerInfo(f"{SCOPE}.block4.unit_1.conv1.BatchNorm", "block4", True, SCOPE),
    LayerInfo("head.logits", HEAD, False, SCOPE),
]


def outcome(freeze=(), bn=(), until=None):
    """One letter per layer: T trains, - frozen; a BN layer's is its policy's first letter."""
    plan = resolve(
        LAYERS,
        freeze=[parse_freeze_rule(text) for text in freeze],
        bn=[parse_bn_rule(text) for text in bn],
        freeze_until=until,
    )
    return "".join(p.bn.name[0] if p.bn else "T" if p.trains else "-" for p in plan.layers)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, "TtTtTtT"),
        ({"freeze": ["*"]}, "-f-f-fT"),
        ({"until": "block1"}, "-f-fTtT"),
        ({"freeze": ["block1/*"]}, "Tt-fTtT"),
        ({"freeze": ["block1"]}, "Tt-fTtT"),
        ({"freeze": ["resnet_v1_50/block4/*"]}, "TtTt-fT"),
        ({"freeze": ["block4=train", "*"]}, "-f-fTtT"),
        ({"until": "block1", "freeze": ["conv1=train"]}, "Tt-fTtT"),
        ({"freeze": ["*"], "bn": ["block4/*=train", "freeze"]}, "-f-f-tT"),
        ({"bn": ["freeze"]}, "TfTfTfT"),
        ({"bn": ["block4=affine", "conv1=stats"]}, "TsTtTaT"),
        ({"bn": ["*/BatchNorm=affine"]}, "TaTaTaT"),
    ],
)
def test_first_match_wins(rules, expected):
    assert outcome(**rules) == expected


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"freeze": ["block9/*"]}, ["block9/*", "conv1, block1, block4"]),
        ({"bn": ["block9/*=train"]}, ["--bn", "block9/*"]),
        ({"bn": ["block4/unit_1/conv1=frozen"]}, ["frozen", "did you mean freeze?", "train|freeze|affine|stats"]),
        ({"freeze": ["conv1=frozen"]}, ["frozen", "PATTERN=train"]),
        ({"until": "block2"}, ["block2", "conv1, block1, block4"]),
        ({"freeze": ["head"]}, ["head"]),
    ],
)
def test_what_matches_nothing_is_an_error_that_says_what_would(rules, words):
    with pytest.raises(WrongUse) as error:
        outcome(**rules)
    for word in words:
        assert word in str(error.value)


def test_stage_rows_count_layers_and_policies():
    plan = resolve(LAYERS, freeze=[Rule("block1", "freeze")], bn=[Rule("block4", "affine")])
    assert plan.stages() == [
        {"stage": "conv1", "layers": 1, "training": 1, "bn": {"train": 1}},
        {"stage": "block1", "layers": 1, "training": 0, "bn": {"freeze": 1}},
        {"stage": "block4", "layers": 1, "training": 1, "bn": {"affine": 1}},
        {"stage": "head", "layers": 1, "training": 1, "bn": {}},
    ]
    assert plan.uses_batch_statistics


def test_layer_decay_multiplies_once_for_every_stage_from_the_top():
    plan = resolve(LAYERS, freeze_until="conv1", layer_decay=0.5)
    assert plan.rates == {"head": 1.0, "block4": 0.5, "block1": 0.25, "conv1": 0.125}
    # What is frozen has no rate to read.
    assert [row["learning_rate"] for row in plan.stages()] == [None, 0.25, 0.5, 1.0]
