"""What builtins write down beside code: of one PE's program (`Resources`) and of a layout (`LayoutFacts`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from openwafer.artifact._image import Export, Route
from openwafer.csl._source import Span
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import FunctionValue, Place, Value


@dataclass(frozen=True, slots=True)
class Binding:
    """A task, or a handler of a teardown or an empty queue, and the id that runs it."""

    kind: Literal["data", "local", "control", "teardown", "empty_queue"]
    id: int
    function: FunctionValue
    span: Span


@dataclass(frozen=True, slots=True)
class TaskName:
    """A task named where an id is wanted; its id is known once every comptime block has run."""

    function: FunctionValue
    span: Span


@dataclass(slots=True)
class TaskState:
    """How a task id begins."""

    active: bool = False
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class SymbolExport:
    """`@export_symbol`: what a name of the host stands for."""

    name: str
    place: Place
    span: Span


@dataclass(slots=True)
class Resources:
    """Of one program: what its comptime blocks bound, initialised and configured. Each with the place that did it."""

    bindings: dict[tuple[str, int], Binding] = field(default_factory=dict)
    """By (task table, id): the table `control` is its own where the program asks for that, else all ids share `tasks`."""
    control_table: Span | None = None
    control_stride: int = 1
    """Entry points between the control task tables of queues with neighbouring `ctrl_table_id`."""
    control_tables: dict[int, tuple[int, Span]] = field(default_factory=dict)
    """By input queue: its `ctrl_table_id`."""
    activations: dict[int, Span] = field(default_factory=dict)
    """Local tasks that @activate names by a known id, each with the first place."""
    states: dict[int, TaskState] = field(default_factory=dict)
    queues: dict[tuple[str, int], Span] = field(default_factory=dict)
    routes: dict[int, tuple[Route, Span]] = field(default_factory=dict)
    """By color: @set_local_color_config."""
    filters: dict[int, int] = field(default_factory=dict)
    exports: dict[str, SymbolExport] = field(default_factory=dict)
    config: dict[int, int] = field(default_factory=dict)
    fifos: dict[str, tuple[int, Span]] = field(default_factory=dict)
    """By symbol of the buffer: number of the FIFO."""
    fifo_tasks: list[tuple[int, str, int | TaskName | None, int | TaskName | None]] = field(
        default_factory=list
    )
    """Number, buffer, and the tasks that a push and a pop activate."""
    fifo_registers: dict[tuple[str, int], Span] = field(default_factory=dict)
    automatic_queues: dict[tuple[str, int], int] = field(default_factory=dict)
    """By type of the queue and color: those that operations of the WSE-2 got because their DSD names none."""
    rpc: Span | None = None
    asked_place: bool = False
    """The program depends on the tile's place as it compiles."""


@dataclass(frozen=True, slots=True)
class TileCode:
    """`@set_tile_code`: the file (None: the one that says so) and what its params are bound to."""

    file: str | None
    importer: Path
    """The file that says so, which `file` is relative to."""
    params: dict[str, Value]
    span: Span


@dataclass(frozen=True, slots=True)
class ExportedName:
    """`@export_name`."""

    export: Export
    type: Type
    span: Span


@dataclass(slots=True)
class LayoutFacts:
    """What a layout block said."""

    rectangle: tuple[int, int] | None = None
    rectangle_span: Span | None = None
    tiles: dict[tuple[int, int], TileCode] = field(default_factory=dict)
    routes: dict[tuple[int, int], dict[int, tuple[Route, Span]]] = field(default_factory=dict)
    exports: dict[str, ExportedName] = field(default_factory=dict)
