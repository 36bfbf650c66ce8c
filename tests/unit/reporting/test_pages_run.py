"""The page of one run and of several, as text and in a real browser."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from finetune.reporting.pages import render_run_page
from tests.unit.reporting.test_pages_diagnosis import brightness, contrast

HOSTILE = "<img src=x onerror=alert(1)>\x1b[2J\u202e"


def picture():
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(out, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def run(name="one", classes=4, **changes):
    rng = np.random.default_rng(len(name))
    table = rng.integers(0, 9, (classes, classes)) + np.diag(np.full(classes, 40))
    names = [HOSTILE, *(f"class number {i} with a long name" for i in range(1, classes))]
    bins = [
        {"low": m / 15, "high": (m + 1) / 15, "images": 10 * m, "confidence": (m + 0.5) / 15 if m else None,
         "accuracy": (m + 0.2) / 15 if m else None}
        for m in range(15)
    ]  # fmt: skip
    layers = [
        {"name": f"block{i}/conv/BatchNorm", "mean_shift": 0.1 * i, "log_variance_ratio": None, "batch_noise": 0.02,
         "share": 0.5, "values": 4096.0}
        for i in range(1, 12)
    ]  # fmt: skip
    tested = {"accuracy": 0.85, "loss": 0.5, "standard_error": 0.011, "examples": 1000}
    return {
        "name": name, "path": f"/somewhere/{name} and more", "status": "done", "remarks": ["the mistakes are few"],
        "rank": 1, "verdict": "best", "settings": {"bn_decay": 0.9},
        "config": {"backbone": "resnet_v1_50", "freeze": [], "bn": ["a=freeze", "train"], "from_scratch": False},
        "data": {"source": HOSTILE, "images": {"training": 10, "test": 5}, "class_names": names, "skipped": ["x"],
                 "remarks": ["kept"]},
        "environment": {"python": "3.11", "packages": {"numpy": "2.0", "absent": None}},
        "weights": {"path": "/w.ckpt", "kind": "slim-v2", "sha256": "ab" * 32, "assigned": 3, "ignored": {"old": 2}},
        "plan": [{"stage": "conv1", "layers": 1, "training": 0, "bn": {"freeze": 1}},
                 {"stage": "head", "layers": 1, "training": 1, "bn": {}}],
        "epochs": [
            {"epoch": i, "step": 9 * i, "train_loss": 2 / i, "train_accuracy": 0.2 * i, "validation_loss": 2.1 / i,
             "validation_accuracy": 0.19 * i, "learning_rate": 0.1 / i, "seconds": 2.0, "images_per_second": 40.0,
             "bn": {"is_training_false": 0.2, "is_training_true": 0.3, "recalibrated": 0.3}}
            for i in range(1, 5)
        ],
        "validation_accuracy": 0.76,
        "test": {"is_training_false": tested, "is_training_true": {**tested, "accuracy": 0.8}},
        "bn": {"layers": 11, "decay": 0.9, "updates": 36, "residual": 0.02, "recalibrated": True, "zero_debias": True},
        "proof": {"frozen_variables": 3, "moving_variables": 2, "unmoved": []},
        "diagnosis": {"verdict": {"cause": "healthy", "sentence": "All is well."}, "layers": layers},
        "cost": {"train_seconds": 8.0, "seconds": 20.0, "images_per_second": 40.0, "steps": 36, "peak_memory_mib": 9.0},
        "classes": [{"name": one, "precision": 0.9, "recall": None, "f1": 0.1 * (i % 9), "images": 50, "predicted": 50}
                    for i, one in enumerate(names)],
        "macro_f1": 0.5, "multi_label": None, "confusion": table.tolist(),
        "confused": [{"true": names[0], "predicted": names[1], "images": 7}],
        "calibration": {"expected_error": 0.04, "largest_error": 0.1, "bins": bins}, "not_finite": 0,
        "mistakes": [{"image": i, "true": names[0], "predicted": names[1], "probability": 0.99,
                      "true_probability": 0.001} for i in range(9)],
        **changes,
    }  # fmt: skip


def report(*runs):
    groups = [
        {"rank": 1, "name": "pooled (2 seeds)", "runs": [one["name"] for one in runs], "test_accuracy": 0.85,
         "test_accuracy_spread": 0.01, "validation_accuracy": 0.8, "validation_accuracy_spread": 0.02,
         "verdict": "best"}
    ]  # fmt: skip
    return {
        "schema_version": 1, "ranked_by": "validation_accuracy", "ranking": "ranked by validation accuracy",
        "within_noise": "a <= b", "within_noise_paired": "c <= d", "differs": ["bn_decay"], "remarks": ["mind this"],
        "groups": groups, "searches": [], "runs": list(runs),
    }  # fmt: skip


def unfinished():
    none = ("test", "bn", "proof", "diagnosis", "classes", "confusion", "calibration", "mistakes", "confused",
            "macro_f1", "not_finite", "rank", "validation_accuracy")  # fmt: skip
    costs = dict.fromkeys(("train_seconds", "seconds", "images_per_second", "steps", "peak_memory_mib"))
    empty = {"epochs": [], "weights": {}, "plan": [], "data": {}, "environment": {}, "cost": costs}
    return {**run("unfinished"), **dict.fromkeys(none), **empty, "status": "interrupted", "verdict": ""}


@pytest.mark.slow
def test_one_run_says_everything_and_escapes_it():
    html = render_run_page(report(run()), {"one": [picture()] * 9})
    assert "<img src=x" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;\\x1b[2J\\u202e" in html
    assert html.count("data:image/png;base64,") == 9
    assert "http://" not in html.replace("http://www.w3.org/", "")
    for words in ("85.0%", "± 1.1%", "Confusion", "By class", "Most confident mistakes", "Reliability", "BatchNorm",
                  "healthy", "Frozen and trainable layers", "Weights and data", "All settings",
                  "finetune run --config &#39;/somewhere/one and more/config.json&#39;", "40 images/s", "Environment",
                  "expected calibration error 4.0%", "2 of the file left"):  # fmt: skip
        assert words in " ".join(html.split()), words
    # accuracy, loss, learning rate, checkups, reliability, drift; the matrix is a table
    assert html.count("<svg") == 6


@pytest.mark.slow
def test_many_classes_are_a_picture_and_the_worst_come_first():
    html = render_run_page(report(run(classes=60)), {})
    assert html.count("<svg") == 7
    assert "The 15 with the lowest F1" in html
    assert "All 60 classes" in html


@pytest.mark.slow
def test_biases_without_gradient_are_said():
    proof = {"frozen_variables": 3, "moving_variables": 20, "unmoved": ["x"] * 16}
    for count, words in ((16, " (16 biases have no gradient: BatchNorm subtracts them with the mean)."), (0, ".")):
        html = render_run_page(report(run(proof={**proof, "without_gradient": count})), {})
        assert f"4 of 20 other variables changed{words}" in " ".join(html.split())


@pytest.mark.slow
def test_several_runs_are_side_by_side_with_one_that_is_not_finished():
    html = " ".join(render_run_page(report(run(), run("other"), unfinished()), {}).split())
    assert "<h1>3 runs</h1>" in html
    assert "Seeds pooled" in html
    assert "F1 by class" in html
    assert "mind this" in html
    assert html.count('<details class="run"') == 3
    assert "interrupted" in html


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The pages as files: of one run, and of several."""
    folder = tmp_path_factory.mktemp("pages")
    for name, runs in (("one", [run()]), ("several", [run(), run("other", classes=60), unfinished()])):
        (folder / f"{name}.html").write_text(render_run_page(report(*runs), {"one": [picture()] * 9}), encoding="utf-8")
    return folder


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("name", "width", "dark"),
    [("one", 1200, True), ("one", 400, False), ("several", 1200, False), ("several", 400, True)],
)
def test_the_page_in_a_browser(browser, written, name, width, dark):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get((written / f"{name}.html").as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.get_log("browser") == []
    # Nothing makes the page wider than the window: wide tables scroll by themselves.
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    ink, paper = (
        browser.execute_script(f"return getComputedStyle(document.body).{k}") for k in ("color", "backgroundColor")
    )
    assert contrast(ink, paper) > 7
    assert (brightness(paper) < 0.2) == dark
    shown = browser.execute_script("return [...document.images].map(one => one.naturalWidth)")
    assert shown == [32] * 9
    # Letters in plots are read at this width, and none is cut off by the edge of its plot.
    letters = browser.execute_script(
        "return [...document.querySelectorAll('svg')].flatMap(svg => { const box = svg.getBoundingClientRect();"
        " return [...svg.querySelectorAll('text')].map(t => { const r = t.getBoundingClientRect();"
        " return [Math.min(r.height, r.width), r.right - box.right, box.left - r.left, t.textContent] }) })"
    )
    assert len(letters) > 50
    assert min(height for height, _, _, _ in letters) > 3
    assert not [text for _, right, left, text in letters if max(right, left) > 1.5]
    assert browser.execute_script("return document.querySelectorAll('script').length") == 0
