"""The picture in docs/architecture.md is what the imports are."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = {
    "backbone": "backbone",
    "classifier": "backbone",
    "freezing": "backbone",
    "unfreezing": "backbone",
    "evaluation": "evaluation",
    "batches": "evaluation",
    "predictions": "evaluation",
    "metrics": "evaluation",
    "comparison": "evaluation",
    "mirroring": "evaluation",
    "run": "run",
    "launch": "run",
    "finish": "run",
    "recorder": "run",
    "preparation": "run",
    "progress": "run",
    "models": "run",
    "rundir": "run",
    "rundata": "run",
    "card": "run",
    "scoring": "run",
    "prediction": "run",
    "embedding": "run",
    "proof": "run",
    "environment": "run",
    "reference": "run",
    "verification": "run",
    "export": "run",
    "averaging": "run",
    "checkup": "run",
    "phases": "run",
    "lr_range": "run",
    "conversion": "run",
    "contradictions": "config",
    "presets": "config",
    "settings": "config",
    "errors": None,
    "files": None,
    "_version": None,
    "__init__": None,
    "__main__": "cli",
}


def room(parts):
    """The room of a module given as its dotted parts, or None where everybody may go."""
    if parts[0] == "checkpoints":
        return "checkpoints"
    if parts[0] != "finetune" or len(parts) == 1:
        return None
    return ROOMS.get(parts[1], parts[1])


def imported(path):
    """Every first-party module a file imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = node.module.split(".")
            yield from ([*base, alias.name] if len(base) == 1 else base for alias in node.names)


def arrows_in_code():
    found = {}
    for package in ("finetune", "checkpoints"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            source = room(parts)
            for target in imported(path):
                if target[0] in ("finetune", "checkpoints") and source and room(target) not in (None, source):
                    found.setdefault((source, room(target)), "/".join(parts))
    return found


def arrows_in_picture():
    text = (ROOT / "docs" / "architecture.md").read_text()
    return set(re.findall(r"^ +(\w+) --> (\w+)$", text, re.MULTILINE))


def test_every_import_follows_an_arrow_and_every_arrow_is_needed():
    code, picture = arrows_in_code(), arrows_in_picture()
    problems = [
        f"{a} imports {b} (in {where}): no such arrow" for (a, b), where in code.items() if (a, b) not in picture
    ]
    problems += [f"{a} --> {b} is drawn, but nothing imports it" for a, b in sorted(picture - set(code))]
    assert not problems, "\n".join(problems)


def test_imports_have_no_circle():
    arrows = arrows_in_picture()
    rooms = {name for arrow in arrows for name in arrow}
    while rooms:
        leaves = {name for name in rooms if not any(a == name and b in rooms for a, b in arrows)}
        assert leaves, f"a circle among {sorted(rooms)}"
        rooms -= leaves


def test_modules_fit_in_one_head():
    long = {
        str(path.relative_to(ROOT)): lines
        for package in ("finetune", "checkpoints")
        for path in (ROOT / package).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 280
    }
    assert not long, f"modules over 280 lines are two ideas: {long}"
