"""Shells complete commands, options and backbones, without TensorFlow."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from finetune.cli import main


def completed(words):
    """What click answers a bash that asks for the last of `words`."""
    answer = subprocess.run(
        [sys.executable, "-c", "import sys; from finetune.cli import main; sys.argv[0] = 'finetune'; main()"],
        env={**os.environ, "_FINETUNE_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words),
             "COMP_CWORD": str(len(words) - 1)},
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    return [line.partition(",")[2] for line in answer.stdout.splitlines()]


@pytest.mark.parametrize(
    ("shell", "words"), [("bash", "complete -o"), ("zsh", "#compdef finetune"), ("fish", "--command finetune")]
)
def test_the_script(shell, words):
    outcome = CliRunner().invoke(main, ["completion", shell], prog_name="finetune")
    assert outcome.exit_code == 0
    assert words in outcome.output
    assert "_FINETUNE_COMPLETE" in outcome.output


def test_what_is_completed():
    assert completed(["finetune", "diag"]) == ["diagnose-bn"]
    assert "--bn-decay" in completed(["finetune", "run", "--bn-"])
    assert completed(["finetune", "run", "--backbone", "resnet_v1_15"]) == ["resnet_v1_152"]
    assert "keras/densenet121" in completed(["finetune", "diagnose-bn", "--backbone", "keras/dense"])
