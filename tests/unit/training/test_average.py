"""The average of runs: NumPy's mean, statistics measured for it, the greedy soup, and what cannot be averaged."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import finetune
from finetune.backbone import save_stock
from finetune.batchnorm.statistics import KerasSubject, recalibrate
from finetune.config import RunConfig
from finetune.data import batches
from finetune.data.load_data import load_data
from finetune.errors import FinetuneError, WrongUse
from finetune.evaluation.evaluator import Evaluator
from finetune.runs.directory import RunDir
from finetune.runs.model import evaluate_run, open_run, open_trained
from finetune.training import average as averaging
from finetune.training.average import average
from tests.support.commands import tree, typed
from tests.support.shared import made_once


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Runs that nobody may change. Three have the weights of one training with noise: those of 0 and 1 cancel out, and
    that of 2 is so large that an average with it is worse. 3 says that it is of another seed."""

    def make(folder):
        line = "run TINY --freeze conv1 --bn bn1=freeze --cache-features off --validation 0.3 --select-by loss --quiet"
        result = typed(f"{line} --run-dir {folder / 'trained'}")
        assert result.exit_code == 0, result.output
        model, rng = open_trained(folder / "trained").model, np.random.default_rng(0)
        moving = [one for name in ("conv2", "bn2", "head.logits") for one in model.get_layer(name).weights]
        trained = [np.array(one) for one in moving]
        noise = [rng.normal(size=one.shape, scale=0.1) for one in trained]
        for number, scale in enumerate((1.0, -1.0, 20.0, 0.5)):
            place = shutil.copytree(folder / "trained", folder / str(number))
            for variable, value, change in zip(moving, trained, noise, strict=True):
                changed = value + scale * change
                variable.assign(np.abs(changed) if "variance" in variable.path else changed)
            save_stock(model, place / "model.keras")
        config = folder / "3" / "config.json"
        config.write_text(config.read_text().replace('"seed": 0', '"seed": 1'))

    folder, _ = made_once(tmp_path_factory, "runs-to-average", make)
    return [folder / str(number) for number in range(4)]


def weights(path):
    model = open_trained(path).model
    return {variable.path: np.array(variable) for layer in model.layers for variable in layer.weights}


def is_statistic(path):
    return "moving" in path


def recalibrated(opened, values):
    """The model of `opened` with these weights and statistics measured by the package's own recalibration."""
    model = opened.trained.model
    for layer in model.layers:
        for variable in layer.weights:
            variable.assign(values[variable.path].astype(np.float32))
    frozen = {name: pair for name, pair in KerasSubject(model).snapshot().items() if name == "bn1"}
    subset = batches.training_subset(opened.dataset.train, opened.config, 10_000)
    subject = KerasSubject(model)
    recalibrate(subject, (images for images, _, _ in batches.evaluation(subset, opened.config)))
    subject.restore(subject.snapshot() | frozen)
    return subject


def test_uniform_is_the_mean_with_statistics_measured_for_it(runs, tmp_path):
    out = average(runs[:3], tmp_path / "deeper" / "out")
    each, found = [weights(path) for path in runs[:3]], weights(out.path)
    mean = {path: np.mean([np.float64(one[path]) for one in each], axis=0) for path in found}
    for path, value in found.items():
        if not is_statistic(path):
            np.testing.assert_array_equal(value, mean[path].astype(np.float32), err_msg=path)
    for path in ("conv1/kernel", "bn1/gamma", "bn1/moving_mean", "bn1/moving_variance"):  # frozen, to the bit
        np.testing.assert_array_equal(found[path], each[0][path], err_msg=path)

    subject = recalibrated(open_run(runs[0]), mean)
    for own, expected in zip(
        (found["bn2/moving_mean"], found["bn2/moving_variance"]), subject.snapshot()["bn2"], strict=True
    ):
        np.testing.assert_array_equal(own, expected)
    assert not np.allclose(found["bn2/moving_variance"], mean["bn2/moving_variance"], rtol=1e-3)

    result, opened = out.read("result.json"), open_run(runs[0])
    for layer in opened.trained.model.layers:
        for variable in layer.weights:
            variable.assign(mean[variable.path].astype(np.float32))
    stale = Evaluator(KerasSubject(opened.trained.model)).evaluate(
        batches.evaluation(opened.dataset.test, opened.config)
    )
    shown = result["weights"]["averaged_statistics"]["is_training_false"]
    assert shown["loss"] == pytest.approx(stale.loss, rel=1e-6)
    assert shown["loss"] != result["test"]["is_training_false"]["loss"]
    again = evaluate_run(out.path)
    assert again.loss == pytest.approx(result["test"]["is_training_false"]["loss"], rel=1e-6)
    assert evaluate_run(out.path, split="validation").loss == pytest.approx(result["validation"]["loss"], rel=1e-6)
    proof = result["proof"]
    assert (proof["holds"], proof["frozen_variables"], proof["moving_variables"]) == (True, 5, 7)
    assert result["weights"]["best_run"]["by"] == "validation loss"
    kept = json.loads((out.path / "config.json").read_text())["average"]
    assert kept == {"method": "uniform", "runs": [str(path.resolve()) for path in runs[:3]]}
    assert list((tmp_path / "deeper").iterdir()) == [out.path]


@pytest.mark.slow
def test_greedy_is_recipe_1_of_the_paper(runs, tmp_path):
    out = average(runs[:3], tmp_path / "out", method="greedy")
    opened = open_run(runs[0])
    every = {path: weights(path) for path in runs[:3]}

    def loss(values, *, measure):
        subject = recalibrated(opened, values)
        if not measure:
            for layer in opened.trained.model.layers:
                for variable in layer.weights:
                    variable.assign(values[variable.path])
        return Evaluator(subject).evaluate(batches.evaluation(opened.dataset.validation, opened.config)).loss

    alone = {path: loss(values, measure=False) for path, values in every.items()}
    order = sorted(alone, key=alone.get)
    soup, best = [order[0]], alone[order[0]]
    for path in order[1:]:
        mean = {name: np.mean([np.float64(every[one][name]) for one in (*soup, path)], axis=0) for name in every[path]}
        if (found := loss(mean, measure=True)) <= best:
            soup, best = [*soup, path], found
    result = out.read("result.json")
    assert {row["run"] for row in result["weights"]["runs"] if row["kept"]} == {str(path.resolve()) for path in soup}
    assert result["validation"]["loss"] == pytest.approx(best, rel=1e-6)
    assert len(soup) == 2, alone  # or the test shows nothing
    assert result["weights"]["best_run"]["run"] == str(order[0].resolve())


def test_greedy_needs_the_same_validation_images(runs, tmp_path):
    chosen = [runs[0], runs[3]]
    with pytest.raises(
        FinetuneError, match=r"3 held out other validation images than .*0: a greedy soup needs the same"
    ):
        average(chosen, tmp_path / "out", method="greedy")


@pytest.mark.slow
def test_an_average_is_not_scored_on_images_that_a_run_trained_on(runs, tmp_path):
    result = finetune.average([finetune.open_run(runs[0]), runs[3]], out=tmp_path / "out").result
    assert result["validation"] is None
    assert result["thresholds"] is None
    assert result["weights"]["best_run"]["by"] == "test accuracy"
    assert "trained on them" in result["weights"]["remarks"][0]


def test_other_test_images_are_refused(tmp_path):
    pixels = np.arange(60 * 8 * 8 * 3, dtype=np.int64).reshape(60, 8, 8, 3) % 251
    np.savez(tmp_path / "data.npz", x=pixels.astype(np.uint8), y=np.arange(60) % 3)
    config = RunConfig(backbone="x", data=str(tmp_path / "data.npz"))
    stubs = [RunDir(tmp_path / name) for name in "ab"]
    dataset = load_data(config)
    for seed, other in ((0, None), (1, "tested on other images")):
        configs = [config, dataclasses.replace(config, seed=seed)]
        if other is None:
            assert averaging._other_validation(stubs, configs, dataset) is None
        else:
            with pytest.raises(FinetuneError, match=other):
                averaging._other_validation(stubs, configs, dataset)


def changed(run, place, file, **values):
    """A copy of `run` with other values in one of its files."""
    shutil.copytree(run, place)
    path = place / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return place


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("config.json", {"backbone": "resnet_v1_50"}, "has backbone resnet_v1_50, but"),
        ("config.json", {"hidden": 8}, "has hidden 8, but .* has None"),
        ("config.json", {"preprocess": "caffe"}, "has preprocess caffe, but"),
        ("result.json", {"class_names": list("abcdefghij")}, "has other classes than .*class 0 is 'a', not "),
    ],
)
def test_another_network_head_or_class_is_one_error(runs, tmp_path, file, values, said):
    other = changed(runs[1], tmp_path / "other", file, **values)
    before = tree(tmp_path)
    with pytest.raises(FinetuneError, match=said):
        average([runs[0], other], tmp_path / "out")
    assert tree(tmp_path) == before


def test_the_order_of_classes_counts(runs, tmp_path):
    names = RunDir(runs[0]).class_names()
    other = changed(runs[1], tmp_path / "other", "result.json", class_names=[*names[1::-1], *names[2:]])
    with pytest.raises(FinetuneError, match="has the same classes in another order"):
        average([runs[0], other], tmp_path / "out")


def test_another_shape_of_the_same_settings_is_named(runs):
    model = open_trained(runs[0]).model
    values = weights(runs[0])
    wrong = {**values, "conv2/kernel": np.zeros((3, 3, 8, 4))}
    with pytest.raises(
        FinetuneError, match=r"b has another network: its conv2/kernel is \[3, 3, 8, 4\], expected \[3, 3, 8, 12"
    ):
        averaging._assign(model, wrong, where="b")


def test_wrong_use(runs, tmp_path):
    for paths, said in (([runs[0]], "two or more"), ([runs[0], runs[0]], "comes twice")):
        with pytest.raises(WrongUse, match=said):
            average(paths, tmp_path / "out")
    with pytest.raises(WrongUse, match="is already there and is not overwritten: give another --out"):
        average(runs[:2], tmp_path)
    unfinished = shutil.copytree(runs[1], tmp_path / "unfinished")
    (unfinished / "result.json").unlink()
    with pytest.raises(FinetuneError, match="unfinished is not finished: continue it with"):
        average([runs[0], unfinished], tmp_path / "out")


@pytest.mark.slow
def test_nothing_half_written(runs, tmp_path, monkeypatch):
    def fails(*arguments):
        raise OSError("no")

    monkeypatch.setattr(averaging, "write_card", fails)
    with pytest.raises(OSError, match="no"):
        average(runs[:2], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_command_shows_all_kinds_of_statistics_and_other_commands_take_the_result(runs, tmp_path):
    out = tmp_path / "soup"
    result = typed(f"average {runs[0]} {runs[1]} --out {out} --quiet")
    assert result.exit_code == 0, result.output
    for words in ("best single run", "average, averaged statistics", "average, statistics recalibrated", "True"):
        assert words in result.output
    report = typed(f"report {out} --json")
    assert "the average of 2 runs" in json.loads(report.output)["runs"][0]["remarks"][0]
    assert "the mean of those of 2 trained runs" in (out / "MODEL_CARD.md").read_text()
    again = typed(f"run --config {out / 'config.json'}")
    assert again.exit_code == 2
    assert "is of an average of 2 runs" in again.output
