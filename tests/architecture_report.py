"""A newcomer's map of the packages in ten lines: `python -m tests.architecture_report`."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRODUCT = ("finetune", "checkpoints")
SHARED = ("errors", "files", "process", "text", "_version")
"""Modules of `finetune` that every package may import."""
LOOSE = (*SHARED, "api")
PICTURE = ROOT / "docs" / "architecture.md"


@cache
def modules() -> dict[str, Path]:
    """Every module of the product by its dotted name; a package by its own."""
    found = {}
    for root in PRODUCT:
        for path in sorted((ROOT / root).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def package(module: str) -> str | None:
    """The box of the picture a module lies in; None for what every package may import."""
    parts = module.split(".")
    if parts[0] == "checkpoints":
        return "checkpoints"
    if len(parts) == 1 or parts[1] in SHARED:
        return None
    return "cli" if parts[1] in ("__main__", "api") else parts[1]  # the two doors stand side by side


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of the product that one imports, wherever in its file; a name of a package as that package."""
    found = set()
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] in PRODUCT}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            assert node.module
            if node.module.split(".")[0] in PRODUCT:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    found.add(full if full in modules() else node.module)
    return frozenset(found - {module})


def package_imports() -> dict[tuple[str, str], str]:
    """(importing package, imported package) -> a module that does it."""
    found = {}
    for module in modules():
        for target in imports(module):
            a, b = package(module), package(target)
            if a and b and a != b:
                found.setdefault((a, b), f"{module} imports {target}")
    return found


def arrows() -> set[tuple[str, str]]:
    """The arrows drawn in the architecture page."""
    return set(re.findall(r"^ +(\w+) --> (\w+)$", PICTURE.read_text(), re.MULTILINE))


def reachable(start: str, drawn: set[tuple[str, str]]) -> set[str]:
    """What lies below a package along the arrows."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        here = waiting.pop()
        new = {b for a, b in drawn if a == here} - found
        found |= new
        waiting += new
    return found


def floors(drawn: set[tuple[str, str]]) -> list[list[str]]:
    """The packages by floor, the lowest first. Raises AssertionError where the arrows have a circle."""
    left = {name for arrow in drawn for name in arrow}
    found = []
    while left:
        floor = sorted(name for name in left if not any(a == name and b in left for a, b in drawn))
        assert floor, f"the arrows have a circle among {sorted(left)}"
        found.append(floor)
        left -= set(floor)
    return found


def circles() -> list[list[str]]:
    """Groups of modules that import each other in a circle (strongly connected, by Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(imports(node)):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = []
            while not group or group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for module in modules():
        if module not in index:
            visit(module)
    return found


def functions() -> Iterator[tuple[int, int, str]]:
    """(lines, parameters without self, place) of every function and method of the product."""
    for module, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                own = names[1:] if names[:1] in (["self"], ["cls"]) else names
                yield node.end_lineno - node.lineno + 1, len(own), f"{module}.{node.name}"


def same_names() -> dict[str, list[str]]:
    """Names that more than one module or package has, `__init__` aside."""
    by_name: dict[str, list[str]] = {}
    for module in modules():
        by_name.setdefault(module.rpartition(".")[2], []).append(module)
    return {name: found for name, found in by_name.items() if len(found) > 1}


def loose() -> list[str]:
    """Modules that lie directly in `finetune/`."""
    return sorted(path.stem for path in (ROOT / "finetune").glob("*.py") if path.stem not in ("__init__", "__main__"))


def lines(path: Path) -> tuple[int, int]:
    """(lines of code, lines of docstrings and comments) of a file; blank lines are neither."""
    text = path.read_text()
    strings = {
        number
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for number in range(node.lineno, node.end_lineno + 1)
    }
    filled = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    words = sum(number in strings or line.startswith("#") for number, line in filled)
    return len(filled) - words, words


def total_lines() -> Counter[str]:
    """Lines of the product: `code` and `words` (docstrings and comments)."""
    counted: Counter[str] = Counter()
    for path in modules().values():
        code, words = lines(path)
        counted.update(code=code, words=words)
    return counted


def main() -> None:
    """Print the map."""
    drawn = arrows()
    levels = floors(drawn)
    counted, found = total_lines(), sorted(functions(), reverse=True)
    by_parameters = max(found, key=lambda one: one[1] if ".cli." not in one[2] else 0)
    packages = {name for name in map(package, modules()) if name}
    print(f"packages     {len(packages)}: {', '.join(sorted(packages))}")
    for number, floor in reversed(list(enumerate(levels, 1))):
        print(f"floor {number}      {', '.join(floor)}")
    print(f"arrows       {len(drawn)} drawn; {len(package_imports())} pairs of packages import each other's modules")
    print(f"circles      {circles() or 'none'}")
    print(f"loose        {', '.join(loose())}")
    print(f"longest      {'; '.join(f'{place} {length}' for length, _, place in found[:5])}")
    print(f"parameters   at most {by_parameters[1]} outside the command line: {by_parameters[2]}")
    print(f"same names   {'; '.join(f'{name} {len(where)}' for name, where in sorted(same_names().items())) or 'none'}")
    print(f"lines        {counted['code']:,} of code, {counted['words']:,} of docstrings and comments")


if __name__ == "__main__":
    main()
