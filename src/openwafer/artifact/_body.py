"""A body: straight-line tensor code as plain data, the smallest thing that a role executes.

    body(v0: float32[4, 8], v1: float32[8, 8]):
        v2: float32[8, 8] @ v1 = aten.t.default(v1)
        v3: float32[4, 8] = aten.mm.default(v0, v2)
        return v3

Every value carries its type; `@ v1` says that it shares v1's storage (a view). The text is Python syntax, so
that it parses with `ast`; `parse_body(print_body(b)) == b` for every body. Operator names are those of ATen
(`aten.mm.default`), `wafer.*` for our own few, and `getitem`.
"""

from __future__ import annotations

import ast
import hashlib
import keyword
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from openwafer.base import PlanError

DTYPE_BYTES = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "bool": 1,
    "complex64": 8,
}


_CHUNKED = {
    "wafer.linear_loss": (1, 6),
    "wafer.linear_loss_backward": (2, 8),
    "wafer.shard_loss": (2, 8),
    "wafer.shard_loss_backward": (2, 8),
}
"""Operators that make logits in chunks -> the positions of the weight and of the rows of a chunk."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """Dtype (torch's name without `torch.`) and static shape of one value."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape)) or '()'}]"


@dataclass(frozen=True, slots=True)
class Ref:
    """A reference to value `index` of the body."""

    index: int


@dataclass(frozen=True, slots=True)
class Symbol:
    """A torch constant that is no number: `torch.float32`, `torch.strided`, `torch.contiguous_format`."""

    name: str


Arg = Ref | Symbol | None | bool | int | float | str | tuple["Arg", ...]


@dataclass(frozen=True, slots=True)
class Instr:
    """One operator call; `types` has one entry for a tensor, several for a tuple, which `getitem` takes apart.

    A tuple holds no bytes of its own: each `getitem` of it does, unless it is a view.
    """

    op: str
    args: tuple[Arg, ...]
    kwargs: tuple[tuple[str, Arg], ...]
    types: tuple[TensorType, ...]
    view_of: int | None = None

    @property
    def operands(self) -> Iterator[int]:
        """Indices of the values that this call reads, in order, repeated as they occur."""
        for arg in (*self.args, *(value for _, value in self.kwargs)):
            yield from _refs(arg)


@dataclass(frozen=True)
class Body:
    """Straight-line code: inputs are values 0..n-1, instruction i defines value n+i.

    Equal bodies have equal keys, so that layers of one shape share one compiled callable.
    """

    inputs: tuple[TensorType, ...]
    instrs: tuple[Instr, ...]
    outputs: tuple[int, ...]

    @cached_property
    def key(self) -> str:
        """Content hash: twelve hex digits."""
        return hashlib.sha256(print_body(self).encode()).hexdigest()[:12]

    def type_of(self, index: int) -> TensorType:
        """The type of a value that is one tensor."""
        if index < len(self.inputs):
            return self.inputs[index]
        return self.instrs[index - len(self.inputs)].types[0]

    @cached_property
    def last_use(self) -> dict[int, int]:
        """For each value that is no output: the instruction after which it is dead (-1 for an unused input)."""
        last = dict.fromkeys(range(len(self.inputs)), -1)
        for position, instr in enumerate(self.instrs):
            last[len(self.inputs) + position] = position
            for operand in instr.operands:
                last[operand] = position
        for index in self.outputs:
            last.pop(index, None)
        return last

    @cached_property
    def storage(self) -> tuple[int, ...]:
        """For each value the value that owns its storage (itself, unless it is a view)."""
        owner = list(range(len(self.inputs)))
        for position, instr in enumerate(self.instrs):
            index = len(self.inputs) + position
            owner.append(index if instr.view_of is None else owner[instr.view_of])
        return tuple(owner)

    @cached_property
    def peak_bytes(self) -> int:
        """Most bytes that values made inside this body hold at once, its outputs included, its inputs not."""
        return max(self.live_bytes, default=0)

    @cached_property
    def live_bytes(self) -> tuple[int, ...]:
        """Bytes held by storages made in this body right after each instruction, before dead ones are freed."""
        first = len(self.inputs)
        death: dict[int, int] = {}
        for index, owner in enumerate(self.storage):
            last = self.last_use.get(index, len(self.instrs))
            death[owner] = max(death.get(owner, -1), last)
        live, out = 0, []
        freed: dict[int, int] = {}
        for position, instr in enumerate(self.instrs):
            index = first + position
            if self.storage[index] == index and len(instr.types) == 1:
                size = instr.types[0].nbytes
                live += size
                freed[death[index]] = freed.get(death[index], 0) + size
            out.append(live + self._workspace_bytes(instr))
            live -= freed.get(position, 0)
        return tuple(out)

    def _workspace_bytes(self, instr: Instr) -> int:
        """What an operator of ours holds only while it runs: a chunk of logits, its log-probabilities, its gradient; what
        one shard of an embedding knows of a batch."""
        if instr.op == "wafer.embedding_rows":
            return instr.types[0].nbytes
        if instr.op not in _CHUNKED:
            return 0
        weight, rows = (instr.args[position] for position in _CHUNKED[instr.op])
        assert isinstance(weight, Ref)
        assert isinstance(rows, int)
        backward = instr.op.endswith("backward")
        kind = self.type_of(weight.index)
        chunk = 4 * rows * kind.shape[0]
        return (
            3 * chunk + 4 * math.prod(kind.shape)
            if backward and kind.dtype != "float32"
            else (3 if backward else 2) * chunk
        )


def print_body(body: Body) -> str:
    """The text form; see the module's docstring."""
    head = ", ".join(f"v{i}: {t}" for i, t in enumerate(body.inputs))
    lines = [f"body({head}):"]
    for position, instr in enumerate(body.instrs):
        types = ", ".join(map(str, instr.types))
        types = types if len(instr.types) == 1 else f"({types},)" if instr.types else "()"
        view = "" if instr.view_of is None else f" @ v{instr.view_of}"
        args = ", ".join(
            [*map(_print_arg, instr.args), *(f"{_spelt(k)}={_print_arg(v)}" for k, v in instr.kwargs)]
        )
        lines.append(f"    v{len(body.inputs) + position}: {types}{view} = {_spelt(instr.op)}({args})")
    lines.append("    return " + (", ".join(f"v{i}" for i in body.outputs) or "()"))
    return "\n".join(lines) + "\n"


def parse_body(text: str) -> Body:
    """Read the text form back. Raises PlanError with the line if it is not a body."""
    try:
        function = ast.parse("def " + text).body[0]
    except SyntaxError as error:
        raise PlanError(f"line {error.lineno} of a body is not readable: {error.text!r}") from None
    assert isinstance(function, ast.FunctionDef)
    inputs = tuple(_parse_type(argument.annotation) for argument in function.args.args)
    instrs: list[Instr] = []
    outputs: tuple[int, ...] = ()
    for statement in function.body:
        try:
            if isinstance(statement, ast.Return):
                value = statement.value
                elements = value.elts if isinstance(value, ast.Tuple) else [value]
                outputs = tuple(_parse_ref(element) for element in elements)
            else:
                instrs.append(_parse_instr(statement))
        except (ValueError, AttributeError, AssertionError):
            raise PlanError(
                f"line {statement.lineno} of a body is no instruction: {ast.unparse(statement)}"
            ) from None
    return Body(inputs, tuple(instrs), outputs)


def _refs(arg: Arg) -> Iterator[int]:
    if isinstance(arg, Ref):
        yield arg.index
    elif isinstance(arg, tuple):
        for item in arg:
            yield from _refs(item)


def _spelt(op: str) -> str:
    """A name as Python can parse it: what is named like a keyword (`aten.random.from`) gets an underscore."""
    return ".".join(f"{part}_" if keyword.iskeyword(part) else part for part in op.split("."))


def _unspelt(text: str) -> str:
    return ".".join(
        part[:-1] if part.endswith("_") and keyword.iskeyword(part[:-1]) else part for part in text.split(".")
    )


def _print_arg(arg: Arg) -> str:
    if isinstance(arg, Ref):
        return f"v{arg.index}"
    if isinstance(arg, Symbol):
        return arg.name
    if isinstance(arg, tuple):
        return "[" + ", ".join(map(_print_arg, arg)) + "]"
    return repr(arg)  # inf and nan print as names, which parse as such


def _parse_instr(statement: ast.stmt) -> Instr:
    assert isinstance(statement, ast.AnnAssign)
    call = statement.value
    assert isinstance(call, ast.Call)
    annotation: ast.expr = statement.annotation
    view_of = None
    if isinstance(annotation, ast.BinOp):
        view_of = _parse_ref(annotation.right)
        annotation = annotation.left
    if isinstance(annotation, ast.Tuple):
        types = tuple(_parse_type(element) for element in annotation.elts)
    else:
        types = (_parse_type(annotation),)
    return Instr(
        op=_unspelt(ast.unparse(call.func)),
        args=tuple(_parse_arg(argument) for argument in call.args),
        kwargs=tuple((_unspelt(entry.arg or ""), _parse_arg(entry.value)) for entry in call.keywords),
        types=types,
        view_of=view_of,
    )


def _parse_type(node: ast.expr | None) -> TensorType:
    assert isinstance(node, ast.Subscript)
    assert isinstance(node.value, ast.Name)
    if node.value.id not in DTYPE_BYTES:
        raise ValueError(node.value.id)
    dims = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return TensorType(node.value.id, tuple(ast.literal_eval(dim) for dim in dims))


def _parse_ref(node: ast.expr | None) -> int:
    assert isinstance(node, ast.Name)
    assert node.id.startswith("v")
    return int(node.id[1:])


def _parse_arg(node: ast.expr) -> Arg:
    if isinstance(node, ast.List):
        return tuple(_parse_arg(element) for element in node.elts)
    if isinstance(node, ast.Attribute):
        return Symbol(ast.unparse(node))
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):
        return float(node.id)
    if isinstance(node, ast.Name):
        return Ref(_parse_ref(node))
    if isinstance(node, ast.UnaryOp):
        assert isinstance(node.op, ast.USub)
        value = _parse_arg(node.operand)
        assert isinstance(value, (int, float))
        return -value
    assert isinstance(node, ast.Constant)
    constant = node.value
    assert constant is None or isinstance(constant, (bool, int, float, str))
    return constant
