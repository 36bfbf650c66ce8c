"""Make the pictures of the pages: `make pictures`, about four minutes, with Chromium and its driver.

A terminal, the diagnosis page and a report, of what `finetune demo` writes. The figures in them are those of the run.
"""

import base64
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text
from selenium import webdriver

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
_WIDTH = 1000
"""Of a picture, in px."""

_TERMINAL = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; background: #1e2430; color: #dfe4ee }}
pre {{ margin: 0; padding: 20px 24px; font: 13px/1.45 "DejaVu Sans Mono", monospace; white-space: pre-wrap }}
</style><pre>{code}</pre>"""


def typed(folder: Path, *words: str) -> str:
    """What `finetune WORDS` prints on a terminal of 110 columns, with its colours."""
    environment = os.environ | {"FORCE_COLOR": "1", "COLUMNS": "110", "FINETUNE_HOME": str(folder / "home")}
    command = (sys.executable, "-m", "finetune", *words)
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 3):
        sys.exit(f"finetune {' '.join(words)}: exit code {done.returncode}")
    return done.stdout


def terminal(command: str, printed: str) -> str:
    """A page that looks like the terminal in which it was typed."""
    console = Console(file=io.StringIO(), record=True, width=110)
    console.print(Text(f"$ {command}", style="bold green"))
    console.print(Text.from_ansi(printed))
    return console.export_html(code_format=_TERMINAL, inline_styles=True)


def photograph(browser: webdriver.Chrome, page: Path, picture: Path, *, height: int) -> None:
    """The upper `height` px of a page, or all of a shorter one, as PNG with 256 colours."""
    page.write_text(_anywhere(page.read_text(encoding="utf-8"), page.parent), encoding="utf-8")
    browser.set_window_size(_WIDTH, height)
    browser.get(page.as_uri())
    whole = browser.execute_script("return document.documentElement.getBoundingClientRect().height")
    area = {"x": 0, "y": 0, "width": _WIDTH, "height": min(height, int(whole)), "scale": 1}
    shot = browser.execute_cdp_cmd(
        "Page.captureScreenshot", {"format": "png", "clip": area, "captureBeyondViewport": True}
    )
    image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(picture, optimize=True)


def _anywhere(text: str, folder: Path) -> str:
    """The text without the folder in which the demo ran: paths as a reader has them."""
    return text.replace(f"{folder}/home", "~/.cache/finetune").replace(f"{folder}/", "")


def opened() -> webdriver.Chrome:
    """A browser without a window or a network."""
    program, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not program or not driver:
        sys.exit("no Chromium with its driver here (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    arguments = ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars")
    for argument in (*arguments, "host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(f"--{argument}")
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def make(folder: Path) -> None:
    """Run the demo in `folder`, unless it is there, and write all pictures."""
    if not (folder / "demo-runs").exists():
        typed(folder, "demo")
    runs = "demo-runs/demo-001"
    typed(folder, "diagnose-bn", f"{runs}/forgotten", "--html", "diagnosis.html")
    typed(folder, "report", f"{runs}/transfer", "--html", "report.html")
    (folder / "terminal.html").write_text(
        terminal("finetune diagnose-bn --demo", typed(folder, "diagnose-bn", "--demo")), encoding="utf-8"
    )
    browser = opened()
    try:
        for page, picture, height in (
            ("diagnosis.html", "diagnosis_page.png", 910),
            ("report.html", "report_page.png", 1100),
            ("terminal.html", "terminal.png", 900),
        ):
            photograph(browser, folder / page, IMAGES / picture, height=height)
    finally:
        browser.quit()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        make(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory() as temporary:
            make(Path(temporary))
