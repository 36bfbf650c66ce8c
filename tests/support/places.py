"""Where the project lies, and what may lie beside it."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The top folder of the repository."""

SHARED = Path(os.environ.get("FINETUNE_SHARED", ROOT.parent / "shared"))
"""Real checkpoints and data sets, where somebody has put them; tests that need them are skipped elsewhere."""
