"""Single changes of a module's source: mutmut's operators on every expression, and two of our own on statements.

What mutmut's own runner leaves out is changed as well: properties and other decorated functions, methods of
dataclasses, and the constants of a module. Left out are annotations, decorators, imports, docstrings, `len` and
`isinstance` without an argument, and the lower- and upper-case forms of a text that is changed in another way already.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst
from libcst import metadata
from mutmut.mutation.mutators import mutation_operators

_NEVER_WITHOUT_ARGUMENT = {"len", "isinstance", "TypeVar", "NewType"}


@dataclass(frozen=True)
class Mutant:
    """`source` is the whole module with one change, in line `line`, from `old` to `new`."""

    module: str
    line: int
    old: str
    new: str
    source: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.old}  ->  {self.new}"


def of(module: str, source: str) -> list[Mutant]:
    """Every mutant that differs from `source` and from each other, and compiles, by line."""
    wrapper = metadata.MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    visitor = _Visitor(wrapper.resolve(metadata.PositionProvider))
    wrapper.module.visit(visitor)
    before, seen, found = source.splitlines(), {source}, []
    for node, changed in visitor.changes:
        text = wrapper.module.deep_replace(node, changed).code
        if text in seen or not _compiles(text):
            continue
        seen.add(text)
        after = text.splitlines()
        at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before) - 1)
        new = after[at].strip() if at < len(after) else ""
        found.append(Mutant(module, at + 1, before[at].strip(), new, text))
    return sorted(found, key=lambda mutant: mutant.line)


def _compiles(text: str) -> bool:
    try:
        compile(text, "mutant", "exec")
    except SyntaxError:
        return False
    return True


class _Visitor(cst.CSTVisitor):
    def __init__(self, positions: object) -> None:
        super().__init__()
        self.changes: list[tuple[cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom | cst.Param):
            if isinstance(node, cst.Param) and node.default is not None:
                node.default.visit(self)
            return False
        if isinstance(node, cst.Expr) and isinstance(node.value, cst.SimpleString | cst.ConcatenatedString):
            return False
        if (
            isinstance(node, cst.Call)
            and isinstance(node.func, cst.Name)
            and node.func.value in _NEVER_WITHOUT_ARGUMENT
        ):
            return True
        self.changes += [(node, changed) for changed in _changed(node)]
        return True


def _changed(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            found = list(operator(node))
            yield from found[:1] if isinstance(node, cst.BaseString) else found
    if isinstance(node, cst.If | cst.While):
        test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(test=cst.UnaryOperation(cst.Not(), test))
    if isinstance(node, cst.Expr) and isinstance(node.value, cst.Call):
        yield cst.Pass()
