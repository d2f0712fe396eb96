"""Changed copies of a source file, each with one other expression."""

from __future__ import annotations

import ast
import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

_PAIRS = (
    (ast.Add, ast.Sub),
    (ast.Mult, ast.Div),
    (ast.BitAnd, ast.BitOr),
    (ast.LShift, ast.RShift),
    (ast.Lt, ast.LtE),
    (ast.Gt, ast.GtE),
    (ast.Eq, ast.NotEq),
    (ast.In, ast.NotIn),
    (ast.And, ast.Or),
)
_OPERATORS = {
    **dict.fromkeys((ast.FloorDiv, ast.Mod, ast.Pow), ast.Mult),
    **dict(_PAIRS),
    **{b: a for a, b in _PAIRS},
}
_CALLS = {
    "argmin": "argmax",
    "argmax": "argmin",
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "any": "all",
    "all": "any",
    "mean": "sum",
    "sum": "max",
    "zeros": "ones",
    "ones": "zeros",
    "zeros_like": "ones_like",
    "ones_like": "zeros_like",
    "floor": "ceil",
    "ceil": "floor",
    "exp": "expm1",
    "log": "log1p",
    "sqrt": "square",
    "square": "abs",
    "relu": "tanh",
    "gelu": "relu",
    "sign": "abs",
}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        file: path below the package.
        line: of the changed expression.
        column: likewise.
        kind: type of the change.
        start: first byte that is replaced.
        end: byte after the last one.
        before: the source there.
        after: the new source.
    """

    file: str
    line: int
    column: int
    kind: str
    start: int
    end: int
    before: str
    after: str

    @property
    def name(self) -> str:
        """`FILE:LINE:COLUMN:KIND`."""
        return f"{self.file}:{self.line}:{self.column}:{self.kind}"

    def applied(self, source: bytes) -> bytes:
        """The changed file."""
        return source[: self.start] + self.after.encode() + source[self.end :]


def changes(node: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    """Kinds of changes of an expression or statement, and the new expressions."""
    match node:
        case ast.BinOp(left, op, right) if type(op) in _OPERATORS:
            yield "operator", ast.BinOp(left, _OPERATORS[type(op)](), right)
        case ast.BoolOp(op, values):
            yield "operator", ast.BoolOp(_OPERATORS[type(op)](), values)
        case ast.Compare(left, [op], right) if type(op) in _OPERATORS:
            yield "operator", ast.Compare(left, [_OPERATORS[type(op)]()], right)
        case ast.UnaryOp(ast.USub() | ast.Not() | ast.Invert(), operand):
            yield "unary", operand
        case ast.IfExp(test, body, orelse):
            yield "branches", ast.IfExp(test, orelse, body)
        case ast.Constant(bool() as value):
            yield "constant", ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield "constant", ast.Constant(value + 1)
        case ast.AugAssign():
            yield "deleted", None
        case ast.Call(func, args, keywords):
            yield from _changed_calls(func, args, keywords)
        case ast.Tuple([first, second, *others], ast.Load()):
            yield "order", ast.Tuple([second, first, *others], ast.Load())


def _changed_calls(func, args, keywords) -> Iterator[tuple[str, ast.expr]]:
    name = getattr(func, "attr", getattr(func, "id", ""))
    if name == "where" and len(args) == 3:
        swapped = [args[0], args[2], args[1]]
        yield "branches", ast.Call(func, swapped, keywords)
    elif name in ("subtract", "divide") and len(args) == 2:
        yield "order", ast.Call(func, args[::-1], keywords)
    elif name in _CALLS:
        if isinstance(func, ast.Attribute):
            new: ast.expr = ast.Attribute(func.value, _CALLS[name], ast.Load())
        else:
            new = ast.Name(_CALLS[name], ast.Load())
        yield "call", ast.Call(new, args, keywords)
    if name[:1].isupper():  # fields without a default
        return
    for at in range(len(keywords)):
        if keywords[at].arg in ("mode", "precision", "dtype", "axis", "axes"):
            continue  # most such changes end in an error of shapes, or change nothing
        yield f"keyword {at}", ast.Call(func, args, keywords[:at] + keywords[at + 1 :])


def mutants_of(path: Path, package: Path) -> Iterator[Mutant]:
    """All changes of a file, in order."""
    source = path.read_bytes()
    offsets = [0]
    for text in source.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(text))

    def visit(node: ast.AST) -> Iterator[Mutant]:
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
            return
        for kind, new in changes(node):
            start = offsets[node.lineno - 1] + node.col_offset
            end = offsets[node.end_lineno - 1] + node.end_col_offset
            after = "pass" if new is None else f"({ast.unparse(new)})"
            before = source[start:end].decode()
            place = str(path.relative_to(package)), node.lineno, node.col_offset
            yield Mutant(*place, kind, start, end, before, after)
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "type_params"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from visit(child)

    yield from visit(ast.parse(source))


def sample(package: Path, rooms: list[str], count: int, seed: int) -> list[Mutant]:
    """`count` mutants of folders of a package, the same for a seed and a source."""
    files = [path for room in rooms for path in sorted((package / room).rglob("*.py"))]
    every = [m for path in files for m in mutants_of(path, package)]
    random.Random(seed).shuffle(every)
    drawn: list[Mutant] = []
    for mutant in every:
        if len(drawn) == count:
            break
        try:  # not every expression may stand in parentheses
            ast.parse(mutant.applied((package / mutant.file).read_bytes()))
        except SyntaxError:
            continue
        drawn.append(mutant)
    return drawn
