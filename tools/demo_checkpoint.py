"""Make the bundled checkpoint: `python -m tools.demo_checkpoint NEW_FOLDER`.

A thin resnet_v1 is trained from scratch on the generated source task and written as a slim checkpoint, as if it had
been published elsewhere. On the machine it was made on, with the versions in constraints.txt, the script
reproduces the shipped file to the bit; elsewhere float sums may be ordered otherwise.
"""

import sys
from pathlib import Path

from checkpoints.catalog.lookup import find_row
from finetune.backbone import conversion
from finetune.config import RunConfig
from finetune.training import display, start

BACKBONE = "bundled/resnet_v1_demo"
SETTINGS = RunConfig(
    backbone=BACKBONE,
    data="demo-source",
    from_scratch=True,
    validation=0.0,
    image_size=32,
    epochs=12,
    batch_size=64,
    learning_rate=2e-3,
    seed=1,
    deterministic=True,
)


def make(folder: Path) -> Path:
    """Train into `folder/run` and write `folder/<bundled name>`; returns its prefix."""
    finished = start.start(SETTINGS, run_dir=folder / "run", display=_Lines())
    spec = find_row(BACKBONE)
    assert spec.bundled is not None
    prefix = folder / spec.bundled
    conversion.convert(finished.model_path, prefix, backbone=BACKBONE)
    return prefix


class _Lines(display.Display):
    def epoch(self, row: dict[str, object]) -> None:
        print(row, flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(make(Path(sys.argv[1])))
