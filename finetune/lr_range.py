"""`--lr auto`: the range test in front of a run, and what the run keeps of it."""

from dataclasses import replace

from finetune.backbone import freezing
from finetune.files import write_text
from finetune.reporting import lr_range as drawing
from finetune.runs.directory import RunDir
from finetune.training.display import Display
from finetune.training.prepare import Prepared
from finetune.training.range_test import RangeTest, range_test


def settle(prepared: Prepared, display: Display) -> tuple[Prepared, RangeTest | None]:
    """`prepared` with a learning rate that is a number; where that was `auto`, also how it was found.

    The model is left as it was. Raises FinetuneError where the loss falls at no rate.
    """
    config, model = prepared.config, prepared.model
    if config.learning_rate != "auto":
        return prepared, None
    display.say("learning-rate range test: a few steps at growing rates, which are then undone")
    rates = freezing.rates_by_variable(model, prepared.plan)
    test = range_test(model, prepared.dataset.train, config, rates=rates)
    display.say(
        f"learning rate {test.chosen:g}: a third of {test.lowest_at:.2g}, where the smoothed loss was lowest "
        f"({len(test.rates)} steps{'' if test.diverged else '; it never diverged'})"
    )
    return replace(prepared, config=replace(config, learning_rate=test.chosen)), test


def write(run: RunDir, test: RangeTest) -> None:
    """`lr_range.json`, the numbers, and `lr_range.svg`, the curve."""
    run.write("lr_range.json", test.to_json())
    write_text(run.path / "lr_range.svg", drawing.plot(test.to_json()))
