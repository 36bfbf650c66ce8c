"""Where a run reports its progress."""

from typing import TYPE_CHECKING, Any

from finetune.config import RunConfig

if TYPE_CHECKING:  # `finetune report` has a display but no TensorFlow
    from finetune.backbone.freezing import FreezePlan


class Display:
    """Reports a run to a person. This one shows nothing; a display overrides what it shows."""

    def say(self, text: str) -> None:
        """A line about what happens now."""

    def warn(self, text: str) -> None:
        """A concern that does not stop the run."""

    def plan(self, plan: "FreezePlan", config: RunConfig) -> None:
        """Which layers train and which statistics each stage uses, before training."""

    def step(self, *, epoch: int, step: int, steps: int, images: int, loss: float) -> None:
        """After every training step."""

    def epoch(self, row: dict[str, Any]) -> None:
        """After every epoch, its row of metrics."""

    def batch(self) -> None:
        """After every batch of an evaluation."""

    def download(self, done: int, total: int | None) -> None:
        """While a file is fetched: bytes so far, and in all where known."""

    def on_scan(self, done: int, total: int | None) -> None:
        """While photos are checked before a run: how many so far, and in all where known."""

    def features(self, done: int, total: int) -> None:
        """While features are computed: images so far, and in all."""
