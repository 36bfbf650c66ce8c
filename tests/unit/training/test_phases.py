"""Gradual unfreezing: which stages when, resumed to the bit across phases, and each phase proved."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from finetune.backbone import freezing
from finetune.backbone.freezing import HEAD, LayerInfo, resolve
from finetune.backbone.head import attach_head
from finetune.batchnorm.policy import Rule
from finetune.batchnorm.surgery import adopt
from finetune.errors import Interrupted, WrongUse
from finetune.runs import request
from finetune.runs.directory import RunDir
from finetune.training.display import Display
from finetune.training.loop.state import State
from finetune.training.loop.train import ImageFeed, train
from finetune.training.phases import Prepared, gradual
from finetune.training.proof import Phases
from tests.unit.training.loop.test_train import CONFIG, Listener, dataset, untimed

STAGES = {"low": ["conv1", "bn1"], "middle": ["conv2", "bn2"], "high": ["conv3", "bn3"]}
GRADUAL = dataclasses.replace(CONFIG, epochs=4, unfreeze_epochs=2, dropout=0.0, hidden=None, layer_decay=0.5)


def layers(names=STAGES):
    found = [LayerInfo(name, stage, name.startswith("bn")) for stage, inside in names.items() for name in inside]
    return [*found, LayerInfo("head.logits", HEAD, False)]


def planned(over, names=STAGES, **rules):
    return gradual(
        resolve(layers(names), **rules), lambda locked: resolve(layers(names), locked=locked, **rules), over=over
    )


def trains(phase):
    return [stage for stage in phase.plan.training_stages if stage != HEAD]


@pytest.mark.parametrize(
    ("over", "rules", "expected"),
    [
        (1, {}, [(0, []), (1, ["low", "middle", "high"])]),
        (2, {}, [(0, []), (1, ["middle", "high"]), (2, ["low", "middle", "high"])]),
        (3, {}, [(0, []), (1, ["high"]), (2, ["middle", "high"]), (3, ["low", "middle", "high"])]),
        (7, {}, [(0, []), (2, ["high"]), (4, ["middle", "high"]), (7, ["low", "middle", "high"])]),
        (2, {"freeze_until": "low"}, [(0, []), (1, ["high"]), (2, ["middle", "high"])]),
        (2, {"bn": [Rule("*", "freeze")]}, [(0, []), (1, ["middle", "high"]), (2, ["low", "middle", "high"])]),
    ],
)
def test_the_head_then_ever_more_from_the_top(over, rules, expected):
    found = planned(over, **rules)
    assert [(phase.first_epoch, trains(phase)) for phase in found] == expected
    assert found[-1].plan.layers == resolve(layers(), **rules).layers
    opens = {stage: epoch for epoch, stages in reversed(expected) for stage in stages}
    assert dict(found[-1].plan.opens) == opens
    assert [row["from_epoch"] for row in found[-1].plan.stages()] == [
        *(opens[stage] + 1 if stage in opens else None for stage in STAGES),
        1,
    ]


@pytest.mark.parametrize("over", range(1, 20))
@pytest.mark.parametrize("stages", [1, 2, 5, 14])
def test_every_phase_is_part_of_the_next_and_groups_are_equal(over, stages):
    names = {f"s{number}": [f"conv{number}"] for number in range(stages)}
    found = [phase.first_epoch for phase in planned(over, names)]
    assert found[0] == 0
    assert found[-1] == over
    assert found == sorted(set(found))
    sizes = [len(trains(phase)) for phase in planned(over, names)]
    assert sizes[0] == 0
    assert sizes[-1] == stages
    assert np.ptp(np.diff(sizes)) <= 1
    assert min(np.diff(sizes)) >= 1


def test_bn_rules_stand_above_phases():
    first = planned(2, bn=[Rule("low", "train")])[0]
    assert [one.bn.name for one in first.plan.layers if one.bn] == ["train", "freeze", "freeze"]


def test_nothing_to_unfreeze_is_wrong_use():
    with pytest.raises(WrongUse, match="only the head trains"):
        planned(2, freeze=[Rule("*", "freeze")])


def test_the_preset_takes_half_of_the_epochs_and_decay_suits_what_opens_last():
    from checkpoints.catalog.lookup import find_row

    def complete(**settings):
        config = dataclasses.replace(CONFIG, bn_decay="auto", **settings)
        spec = find_row("resnet_v1_demo")
        return request.complete(config, spec, examples=1600, source_size=8, photos=False, everything=True)

    assert complete(epochs=10, preset="gradual").unfreeze_epochs == 5
    assert complete(epochs=3, preset="gradual").unfreeze_epochs == 1
    assert complete(epochs=10, preset="gradual", unfreeze_epochs=8).unfreeze_epochs == 8
    # 100 steps an epoch: 200 are left for what opens after eight of ten epochs, and 10 of them forget half.
    assert complete(epochs=10, unfreeze_epochs=8).bn_decay == complete(epochs=2).bn_decay
    for settings, words in (({"epochs": 1, "preset": "gradual"}, "1 of 1 epoch "), ({"unfreeze_epochs": 3}, "3 of 3")):
        with pytest.raises(WrongUse, match=f"unfreezing takes {words}.*leaves none for all layers together"):
            complete(**settings)


def prepared():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3))
    for number in (1, 2, 3):
        x = keras.layers.Conv2D(4, 3, padding="same", name=f"conv{number}")(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(name=f"bn{number}")(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = attach_head(adopt(keras.Model(inputs, x), unbiased=True), 3)
    infos = freezing.layer_infos(model, STAGES, "")

    def plan(locked=()):
        return freezing.resolve(infos, locked=locked, layer_decay=GRADUAL.layer_decay)

    return Prepared(GRADUAL, dataset(), None, model, gradual(plan(), plan, over=GRADUAL.unfreeze_epochs))


def started(path):
    """(Phases, Prepared) of a run in `path`, as `finetune.training.start` begins or resumes it."""
    ready = prepared()
    return Phases(RunDir(path), ready, Display(), resumed=(path / "freeze.json").exists()), ready


def trained(path, **options):
    stages, ready = started(path)
    listener = Listener(stop_at=options.pop("stop_at", None), path=path / "state.npz")
    rates = freezing.rates_by_variable(ready.model, ready.plan)
    history = train(
        ImageFeed(ready.model, ready.dataset, GRADUAL), GRADUAL, listener, phases=stages, rates=rates, **options
    )
    return ready.model, untimed(history), listener.losses, stages.close()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    path = tmp_path_factory.mktemp("unbroken")
    return (*trained(path), json.loads((path / "freeze.json").read_text())["phases"])


@pytest.mark.slow
def test_each_phase_moves_its_own_layers_and_proves_it(unbroken):
    _, history, _, proofs, kept = unbroken
    assert [(one["first_epoch"], one["holds"]) for one in proofs] == [(1, True), (2, True), (3, True)]
    start, second, third = (one["digests"] for one in kept)
    assert {path.split("/")[-2] for path in start if start[path] != second[path]} == {"head.logits"}
    assert {path.split("/")[-2] for path in second if second[path] != third[path]} == {
        *("conv2", "bn2", "conv3", "bn3", "head.logits")
    }
    assert [one["frozen_variables"] for one in proofs] == [18, 6, 0]
    # A schedule of its own for each: at the end of each phase the rate is down.
    assert [row["step"] for row in history] == [3, 6, 9, 12]
    assert [row["learning_rate"] < 0.001 for row in history] == [True, True, False, True]


# 3 steps an epoch; phases begin at steps 0, 3 and 6: within two, at the very end of one and at that of the run.
@pytest.mark.slow
@pytest.mark.parametrize("stops", [(1,), (4, 2), (6,), (12,)])
def test_resumed_equals_unbroken_across_phases(unbroken, tmp_path, stops):
    model, history, losses, proofs, kept = unbroken
    state = None
    for stop in stops:
        with pytest.raises(Interrupted):
            trained(tmp_path, stop_at=stop, resume_from=state)
        state = State.load(tmp_path / "state.npz")
    again, resumed, rest, proved = trained(tmp_path, resume_from=state)
    assert resumed == history
    assert rest == losses[len(losses) - len(rest) :]
    assert proved == proofs
    assert json.loads((tmp_path / "freeze.json").read_text())["phases"] == kept
    for a, b in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b), err_msg=a.path)


def test_a_frozen_variable_that_moves_in_one_phase_fails_that_phase(tmp_path):
    stages, ready = started(tmp_path)
    stages.enter(0)
    kernel = ready.model.get_layer("conv1").kernel
    stages.enter(1)
    kernel.assign_add(np.full(kernel.shape, 1e-6, np.float32))
    stages.enter(2)
    found = stages.close()
    assert [one["holds"] for one in found] == [True, False, True]
    assert found[1]["moved_though_frozen"] == [kernel.path]


def test_updates_are_those_of_what_opened_last(tmp_path):
    _, ready = started(tmp_path)
    # 3 steps an epoch; BN begins with epoch 2, that of the lowest stage with epoch 3.
    assert [ready.updates(epochs) for epochs in range(5)] == [0, 0, 3, 3, 6]
    assert [ready.plan_of(epoch).uses_batch_statistics for epoch in (1, 2, 3, 4)] == [False, True, True, True]


def test_phases_noted_after_the_state_that_a_killed_run_goes_on_from_are_noted_anew(tmp_path):
    stages, ready = started(tmp_path)
    stages.enter(0)
    state = [np.array(variable) for variable in ready.model.variables]
    stages.enter(1)
    stages.enter(2)
    # Killed here, and resumed from a state of the first phase; the same steps end in other bits.
    stages, ready = started(tmp_path)
    for variable, value in zip(ready.model.variables, state, strict=True):
        variable.assign(value)
    stages.enter(0)
    head = ready.model.get_layer("head.logits").kernel
    head.assign_add(np.full(head.shape, 1e-6, np.float32))
    stages.enter(1)
    kernel = ready.model.get_layer("conv3").kernel
    kernel.assign_add(np.full(kernel.shape, 1e-6, np.float32))
    stages.enter(2)
    assert [(one["first_epoch"], one["moved_though_frozen"]) for one in stages.close()] == [(1, []), (2, []), (3, [])]
