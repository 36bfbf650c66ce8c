"""On a real terminal: rich's own codes reach it, those in names do not."""

import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.support.places import ROOT

PROGRAM = """
import time
import click
from rich.progress import Progress
from finetune.cli.console import Console
from finetune.cli.terminal import neutral_streams
with neutral_streams():
    console = Console()
    with Progress(console=console) as bar:
        task = bar.add_task("name \\x1b]0;owned\\x07", total=3)
        for _ in range(3):
            bar.advance(task)
            print("printed \\x1b[2J")
            click.echo("echoed \\x1b[2J")
            time.sleep(0.12)
    console.print("[bold]drawn[/bold]", "\\x1b[2J")
"""


def test_a_progress_bar_is_drawn_and_a_name_does_not_steer(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("\\\\", "\\")], stdout=follower, stderr=follower, env=environment
    ) as process:
        os.close(follower)
        seen = b""
        while True:
            try:
                block = os.read(leader, 4096)
            except OSError:  # the end of a terminal whose other side is closed
                break
            if not block:
                break
            seen += block
        os.close(leader)
    assert process.returncode == 0, seen
    assert b"\x1b[2K" in seen  # rich erases the line of its bar
    assert b"\x1b[1mdrawn" in seen
    assert b"\x1b[2J" not in seen
    assert b"\x1b]0;" not in seen
    assert b"name \\x1b]0;owned" in seen
    assert seen.count(b"printed") == seen.count(b"echoed") == 3
    assert b"\\x1b[2K" not in seen
