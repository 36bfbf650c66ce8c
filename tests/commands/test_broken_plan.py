"""A run whose frozen variables move fails, whoever moved them, and says so wherever one would look."""

import json

import numpy as np
import pytest
from PIL import Image

from finetune.training import start as runs
from finetune.training.loop import train
from finetune.training.phases import Prepared
from tests.support.commands import typed

RUN = "run TINY --epochs 1 --validation 0 --quiet --cache-features off"


def after_each_step(monkeypatch, change):
    """Training steps, and after each one `change(model)`: what a step that updates too much would do."""
    build = train.TrainStep.traced

    def traced(self):
        step = build(self)

        def stepped(images, labels):
            result = step(images, labels)
            change(self.model)
            return result

        return stepped

    monkeypatch.setattr(train.TrainStep, "traced", traced)


def last_bit(variable):
    """The smallest change there is, to one number."""
    value = np.array(variable)
    value.flat[0] = np.nextafter(value.flat[0], np.inf, dtype=value.dtype)
    variable.assign(value)


def undone(monkeypatch):
    """The plan is made, shown and set; then the layers' switches change (Lightning#13902)."""
    apply = Prepared.apply

    def applied(self, plan):
        apply(self, plan)
        model = self.model
        model.get_layer("conv1").trainable = True
        bn = model.get_layer("bn1")
        bn.statistics, bn.updates = "batch", True

    monkeypatch.setattr(Prepared, "apply", applied)


def optimizer_takes_it(monkeypatch):
    """The step is given a frozen weight among those to train, as with a list of variables taken too early."""
    step, make = train.TrainStep, train.build

    def more(variables):
        return [*variables, *extra]

    extra = []

    def prepared(*arguments, _prepare=runs.prepare, **settings):
        made = _prepare(*arguments, **settings)
        extra.append(made.model.get_layer("conv1").kernel)
        return made

    monkeypatch.setattr(runs, "prepare", prepared)
    monkeypatch.setattr(train, "TrainStep", lambda model, opt, variables, *s: step(model, opt, more(variables), *s))
    monkeypatch.setattr(train, "build", lambda config, variables, **s: make(config, more(variables), **s))


def by_one_bit(monkeypatch):
    def change(model):
        bn = model.get_layer("bn1")
        for variable in (model.get_layer("conv1").kernel, bn.gamma, bn.moving_variance):
            last_bit(variable)

    after_each_step(monkeypatch, change)


USES = (
    "predict {place} {tmp_path}/photo.png",
    "export {place} --format keras --out {tmp_path}/out.keras",
    "features {place} --layer map_2 --out {tmp_path}/out.npz",
)
FROZEN = "--freeze-until map_2 --bn freeze"
BROKEN = {
    "by one bit": (by_one_bit, ["bn1/gamma", "bn1/moving_variance", "conv1/kernel"]),
    "by the optimizer": (optimizer_takes_it, ["conv1/kernel"]),
    "freezing undone": (undone, ["bn1/moving_mean", "bn1/moving_variance", "conv1/kernel"]),
}


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("what", BROKEN)
def test_a_frozen_variable_that_moves_fails_the_run(what, tmp_path, monkeypatch):
    breaks, moved = BROKEN[what]
    place = tmp_path / "run"
    with monkeypatch.context() as patch:
        breaks(patch)
        result = typed(f"{RUN} {FROZEN} --run-dir {place}")
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    words = f"{len(moved)} frozen variable{'s' if len(moved) > 1 else ''} moved ("
    assert f"Error: {place}: the freeze plan was not kept: {words}" in result.stderr
    proved = json.loads((place / "result.json").read_text())["proof"]
    assert proved["holds"] is False
    assert sorted(proved["moved_though_frozen"]) == moved
    assert all(path in result.stderr for path in proved["moved_though_frozen"])
    # The directory says so to whoever comes later.
    again = typed(f"run --resume {place} --quiet")
    assert (again.exit_code, again.stderr) == (1, result.stderr)
    assert "do not use its model" in again.stderr
    assert "The freeze plan was not kept" in (place / "MODEL_CARD.md").read_text()
    # It is still evaluated, to see what moved; nobody gets its model to use.
    scored = typed(f"evaluate {place} --quiet")
    assert (scored.exit_code, scored.stdout[:5]) == (0, "test:")
    assert scored.stderr == result.stderr.replace("Error:", "warning:")
    Image.new("RGB", (16, 16)).save(tmp_path / "photo.png")
    for line in USES:
        refused = typed(line.format(place=place, tmp_path=tmp_path))
        assert (refused.exit_code, refused.stdout) == (1, ""), line
        assert result.stderr.strip() in refused.stderr
    assert not list(tmp_path.glob("out.*"))
    report = " ".join(typed(f"report {place}").stdout.split())
    assert "the freeze plan was not kept" in report
    assert f"{proved['frozen_variables'] - len(moved)} of {proved['frozen_variables']} frozen variables" in report


@pytest.mark.slow
def test_the_proof_of_a_sound_run_is_of_the_bits_in_the_file(tmp_path):
    """Every frozen variable of `model.keras` is that of the bundled checkpoint, read without the package's loader."""
    import keras
    import tensorflow as tf

    from tests.commands.test_bad_input import DEMO

    place = tmp_path / "run"
    result = typed(f"run SMALL --epochs 1 --quiet --freeze-until block2 --bn freeze --run-dir {place}")
    assert result.exit_code == 0, result.output
    proved = json.loads((place / "result.json").read_text())["proof"]
    reader = tf.train.load_checkpoint(str(DEMO))
    model = keras.models.load_model(place / "model.keras")
    names = {"kernel": "weights", "bias": "biases"}
    frozen = 0
    for variable in model.variables:
        parts = variable.path.replace(".", "/").split("/")
        source = "/".join([*parts[:-1], names.get(parts[-1], parts[-1])])
        # "frozen" as the command line said it: all up to block 2, and every statistic and gamma and beta.
        if "BatchNorm" in source or not any(stage in source for stage in ("block3", "block4", "head")):
            np.testing.assert_array_equal(np.array(variable), reader.get_tensor(source), err_msg=source)
            frozen += 1
    assert frozen == proved["frozen_variables"]
    assert proved["holds"]
    assert proved["moved_though_frozen"] == []
