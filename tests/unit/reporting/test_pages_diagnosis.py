"""The page of a diagnosis, as text and in a real browser."""

import base64
import io
import math

import numpy as np
import pytest
from PIL import Image

from finetune.reporting.pages import render_diagnosis_page
from finetune.reporting.pictures import as_seen

LAYER = {
    "values": 4096.0, "log_variance_ratio": 0.4, "at_initial": False, "at_source": False, "finite": True,
    "negative": False, "batch_noise": 0.02, "share": 0.6, "dead_gamma": 0.0,
}  # fmt: skip


def report(**changes):
    layers = [{**LAYER, "name": f"block{i}/conv<{i}>", "mean_shift": 0.1 * i} for i in range(1, 28)]
    layers[3]["mean_shift"] = None  # what is not finite is null in JSON
    ways = {"is_training_false": 0.412, "is_training_true": 0.8, "recalibrated": 0.805}
    return {
        "target": "runs/<script>alert(1)</script>",
        "accuracy": {"test": ways, "train": {**ways, "is_training_true": 0.9}},
        "examples": {"test": 1000, "train": 500},
        "residual": 0.605,
        "shares": [{"origin": "source", "share": 0.61, "residual": 0.02}],
        "layers": layers,
        "batches": {
            "examples": 256, "is_training_true_by_size": {"1": 0.1, "2": 0.2, "8": 0.5, "32": 0.7, "128": 0.8},
            "shuffled": 0.7, "grouped": 0.9, "is_training_false": 0.4,
        },
        "preprocessing": {
            "current": "vgg", "examples": 128,
            "trials": [{"name": f"way {i}", "accuracy": 0.5} for i in range(7)],
        },
        "verdict": {
            "cause": "statistics-lag", "healthy": False, "sentence": "Decay 0.99 is too high for 50 updates.",
            "evidence": ["test: 41.2%"], "not_because": ["not the preprocessing"],
            "remedy": "finetune recalibrate-bn 'a b'", "confidence": 0.973, "runner_up": "statistics-noisy",
            "why_not": "40 times as much as one batch", "possible": [],
        },
        **changes,
    }  # fmt: skip


@pytest.mark.slow
def test_the_page_says_what_the_report_says_and_escapes_it():
    html = render_diagnosis_page(report())
    assert "statistics-lag" in html
    assert "41.2%" in html
    assert "<script" not in html
    assert "block3/conv&lt;3&gt;" in html
    assert html.count("<svg") == 6
    assert "http://" not in html.replace("http://www.w3.org/", "")


@pytest.mark.slow
def test_the_page_has_the_runner_up_or_the_causes_still_possible():
    html = " ".join(render_diagnosis_page(report()).split())
    assert "Confidence 97%: as many of such verdicts are right. Runner-up: statistics-noisy." in html
    assert "Against it: 40 times as much as one batch." in html
    open_verdict = {**report()["verdict"], "cause": "undetermined", "possible": ["statistics-lag", "healthy"]}
    html = " ".join(render_diagnosis_page(report(verdict=open_verdict)).split())
    assert "Possible: statistics-lag, if recalibrating helps; healthy, if it does not." in html
    assert "Runner-up" not in html


@pytest.mark.slow
def test_the_remedy_is_shown_as_lines_of_ones_own_training_too():
    html = render_diagnosis_page(report())
    assert "In your own training code" in html
    assert "BatchNormalization(momentum=0.95)" in html
    healthy = {**report()["verdict"], "cause": "healthy"}
    assert "In your own training code" not in render_diagnosis_page(report(verdict=healthy))


def test_images_are_shown_as_the_network_gets_them_on_the_range_that_it_expects():
    images = np.random.default_rng(0).uniform(0, 1, (2, 4, 4, 3))
    pictures = as_seen({"raw": images * 255, "unit": images}, "unit")
    shown = {name: [np.asarray(Image.open(io.BytesIO(base64.b64decode(one.partition(",")[2])))) for one in of_one]
             for name, of_one in pictures.items()}  # fmt: skip
    np.testing.assert_allclose(shown["unit"][0], images[0] * 255, atol=12)
    assert np.mean(shown["raw"][1] == 255) > 0.9  # far too bright
    assert as_seen({"unit": np.pad(images, [*[(0, 0)] * 3, (0, 1)])}, "unit")["unit"] == pictures["unit"]
    check = report()["preprocessing"] | {"best": "unit", "current": "raw"}
    html = " ".join(render_diagnosis_page(report(preprocessing=check), {"raw": images * 255, "unit": images}).split())
    assert "Test images as the network gets them with raw (now)" in html
    assert html.count("<img ") == 4
    assert "Worked out from" not in html
    one = {"name": "scale=1/255,mean=0.49", "with_errors": "pixels x 1/255 minus (0.49 ± 0.01)", "misfit": 0.123}
    html = render_diagnosis_page(report(preprocessing=check | {"recovered": [one]}))
    assert "<code>scale=1/255,mean=0.49</code>: pixels x 1/255 minus (0.49 ± 0.01)" in html


def test_a_page_without_further_checks_leaves_their_plots_out():
    html = render_diagnosis_page(report(shares=[], batches=None, preprocessing=None))
    assert "Batch size and order" not in html
    assert "Preprocessing" not in html
    assert html.count("<svg") == 2


# Of every text of the plots: its letters' size on the screen in px, its words, whether it is inside of its drawing.
LETTERS = """
return [...document.querySelectorAll("svg text")].map(text => {
  const drawing = text.closest("svg"), box = drawing.getBoundingClientRect(), own = text.getBoundingClientRect();
  const size = parseFloat(getComputedStyle(text).fontSize) * box.width / drawing.viewBox.baseVal.width;
  return [size, text.textContent, own.left >= box.left - 1 && own.right <= box.right + 1];
})
"""


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (400, False), (400, True)])
def test_the_page_in_a_browser(browser, tmp_path, width, dark):
    path = tmp_path / "page.html"
    path.write_text(render_diagnosis_page(report()), encoding="utf-8")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []
    assert browser.title.startswith("statistics-lag: runs/<script>")
    # Nothing makes the page wider than the window: wide tables scroll by themselves.
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    ink, paper = (
        browser.execute_script(f"return getComputedStyle(document.body).{k}") for k in ("color", "backgroundColor")
    )
    assert contrast(ink, paper) > 7
    assert (brightness(paper) < 0.2) == dark
    axis = browser.execute_script("return getComputedStyle(document.querySelector('svg text')).fill")
    assert contrast(axis, paper) > 4.5
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().height)"
    )
    assert min(boxes) > 80
    letters = browser.execute_script(LETTERS)
    assert min(size for size, *_ in letters) >= 8, sorted(letters)[0]
    assert not [words for _, words, inside in letters if not inside]


def brightness(colour):
    """Relative luminance of `rgb(r, g, b)` (WCAG 2.1)."""
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.03928 else math.pow((part + 0.055) / 1.055, 2.4) for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((brightness(one), brightness(other)))
    return (high + 0.05) / (low + 0.05)
