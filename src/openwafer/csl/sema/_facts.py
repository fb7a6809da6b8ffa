"""What builtins write down beside code: of one PE's program (`Resources`) and of a layout (`LayoutFacts`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from openwafer.artifact._image import Export, Route
from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
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


@dataclass(frozen=True, slots=True)
class FifoTasks:
    """A FIFO, the tasks that a push and a pop activate, and what operations do that find it empty or full."""

    number: int
    symbol: str
    push: int | TaskName | None
    pop: int | TaskName | None
    empty: ir.FifoAction
    full: ir.FifoAction


@dataclass(frozen=True, slots=True)
class Rotation:
    """@bind_rotating_tasks: the data task's id, the counter's limit and first value, and the control task."""

    id: int
    limit: int
    start: int
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
    rotations: list[Rotation] = field(default_factory=list)
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
    fifo_tasks: list[FifoTasks] = field(default_factory=list)
    fifo_registers: dict[tuple[str, int], Span] = field(default_factory=dict)
    named_queues: set[tuple[str, int]] = field(default_factory=set)
    """(type, number): those that a DSD names."""
    asynchronous_colors: dict[tuple[Literal["fabin", "fabout"], int], Span] = field(default_factory=dict)
    """By kind of DSD and color: those of asynchronous operations of the WSE-2 whose DSD names no queue."""
    waiting_colors: dict[tuple[Literal["fabin", "fabout"], int], Span] = field(default_factory=dict)
    """The same for synchronous operations."""
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


NO_ROUTES: Final[Mapping[int, tuple[Route, Span]]] = {}
"""Of a tile of which the layout configures no color."""


@dataclass(slots=True)
class LayoutFacts:
    """What a layout block said."""

    rectangle: tuple[int, int] | None = None
    rectangle_span: Span | None = None
    tiles: dict[tuple[int, int], TileCode] = field(default_factory=dict)
    routes: dict[tuple[int, int], Mapping[int, tuple[Route, Span]]] = field(default_factory=dict)
    """By tile and color. Tiles share mappings: only `add_route` and `drop_route` change what a tile has."""
    exports: dict[str, ExportedName] = field(default_factory=dict)
    _shared: dict[tuple[Route, Span], tuple[Route, Span]] = field(
        default_factory=dict, repr=False, compare=False
    )
    _extended: dict[tuple[int, int, int], tuple[Mapping[int, tuple[Route, Span]], ...]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def route(self, route: Route, span: Span) -> tuple[Route, Span]:
        """What `add_route` takes: one object for all tiles that are configured alike."""
        return self._shared.setdefault((route, span), (route, span))

    def add_route(self, place: tuple[int, int], color: int, route: tuple[Route, Span]) -> None:
        """Configures a color that the tile does not have yet. Tiles with the same routes in the same order share a mapping."""
        before = self.routes.get(place, NO_ROUTES)
        key = id(before), color, id(route)
        found = self._extended.get(key)
        if found is None:  # the entry holds what the key names, so that no other object gets its number
            made = {**before, color: route}
            found = self._extended[key] = (made, before)
        self.routes[place] = found[0]

    def drop_route(self, place: tuple[int, int], color: int) -> None:
        """Takes a color of a tile back."""
        left = {one: route for one, route in self.routes[place].items() if one != color}
        if left:
            self.routes[place] = left
        else:
            del self.routes[place]
