"""The Image: a compiled fabric program, as plain data. `csl` makes it, `fabric` runs it, `host` finds its way in it.

Places `(x, y)` are columns and rows of the program's own rectangle, x to the east and y to the south, as in CSL; the
fabric's own coordinates are these plus `Image.offset`.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Literal

import msgspec

from openwafer.base import InputError

Direction = Literal["WEST", "EAST", "SOUTH", "NORTH", "RAMP"]
Architecture = Literal["wse2", "wse3"]
FifoAction = Literal["test_or_suspend", "terminate", "suspend", "fault"]
"""test_or_suspend: synchronous operations end and tell so, asynchronous ones wait."""
PopMode = Literal["no_pop", "always_pop", "pop_on_advance", "pop_on_advance_nop"]


class SwitchPosition(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a switch position changes in the route; None leaves it. `invalid` positions are skipped."""

    rx: tuple[Direction, ...] | None = None
    tx: tuple[Direction, ...] | None = None
    invalid: bool = False


class Filter(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which wavelets of a color reach the compute element.

    `kind` counter: counts wavelets from `initial` up to `limit1` and begins again at 0; passes counts up to `maximum`.
    sparse_counter: the same once to `limit1`, once more to `limit2` if that is given, and from then on passes everything.
    range: passes control wavelets, and data whose index is `minimum` to `maximum`.
    """

    kind: Literal["counter", "sparse_counter", "range"]
    count_data: bool = True
    count_control: bool = False
    initial: int = 0
    limit1: int = 0
    limit2: int | None = None
    minimum: int = 0
    maximum: int = 0
    control_only: bool = False
    """A counter passes only control wavelets, and only those that come as it stands at `maximum`."""


class Route(msgspec.Struct, frozen=True, omit_defaults=True):
    """One color of one router."""

    rx: tuple[Direction, ...] = ()
    tx: tuple[Direction, ...] = ()
    positions: tuple[SwitchPosition, ...] = ()
    """Switch positions 1 to 3; position 0 is `rx` and `tx`."""
    position: int = 0
    ring: bool = False
    pop: PopMode = "no_pop"
    filter: Filter | None = None
    teardown: bool = False
    swap_x: bool = False
    swap_y: bool = False
    messages: bool = False
    """`tx` does not count: the first wavelet of each message says where all of it goes."""


class Symbol(msgspec.Struct, frozen=True, omit_defaults=True):
    """A variable in a PE's memory."""

    name: str
    """Qualified by the modules that it stands in: `memcpy.state`."""
    address: int
    bytes: int
    type: str
    """As CSL writes it: `[4]f32`."""
    align: int = 2


class Queue(msgspec.Struct, frozen=True, omit_defaults=True):
    """A queue that the program initialises; input queues of WSE-2 may also be bound by their DSDs."""

    direction: Literal["input", "output"]
    number: int
    color: int
    priority: int = 0
    """0 unset, else 1 low, 2 medium, 3 high."""
    location: int = 0
    control_offset: int = 0
    """Input queues of WSE-3: added to the id that a control wavelet carries, where the queue has a control table of its own."""


class Task(msgspec.Struct, frozen=True, omit_defaults=True):
    """A task id and what it runs. Ids without a function have only a state."""

    kind: Literal["data", "local", "control", "teardown", "empty_queue"]
    id: int
    """Data tasks: the color on WSE-2, the input queue on WSE-3. Teardown handlers: the color, or -1 for every color. Handlers
    of queues that @queue_flush found empty: the input queue, or 8 and the output queue."""
    entry: int | None = None
    parameters: tuple[str, ...] = ()
    """Data and control tasks: one 32-bit type, one 16-bit type, or two 16-bit types (data, index)."""
    active: bool = False
    blocked: bool = False
    priority: Literal["low", "high"] = "low"
    name: str = ""
    rotation: tuple[int, int, int] | None = None
    """A data task of the WSE-3 whose starts are counted: the limit at which the control task of an id starts in its place
    and the count begins at 0 again, the count as the program starts, and that id."""


class Fifo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A FIFO in a PE's memory: a ring of 16-bit or wider elements."""

    number: int
    address: int
    bytes: int
    activate_push: int | None = None
    activate_pop: int | None = None
    empty: FifoAction = "test_or_suspend"
    """What happens to an operation that pops from it as it is empty."""
    full: FifoAction = "test_or_suspend"
    """And to one that pushes as it is full."""


class Preload(msgspec.Struct, frozen=True):
    """A DSR that holds a descriptor before the program starts; both parts are bytes as in `_pe_abi`."""

    file: Literal["dest", "src0", "src1"]
    number: int
    descriptor: bytes
    vector: bytes


class Blocked(msgspec.Struct, frozen=True):
    """An input queue, color or microthread that is blocked, or opened, before the program starts."""

    target: int
    """`Target` of `_pe_abi`."""
    id: int


class Code(msgspec.Struct, frozen=True):
    """What tiles with the same shape of program share: it differs between them at most in `Program.constants`."""

    ir: str
    """PE-IR as text."""
    llvm: str
    """The same as LLVM assembly, with one function `ow_entry_<n>` for each entry."""
    entries: tuple[str, ...]
    frame_bytes: int
    """What the deepest chain of calls that can wait needs."""
    blocks: tuple[dict[str, int], ...]
    """For each basic block how many operations of each cost class it has."""
    places: tuple[int, ...] = ()
    """Where each entry is declared, as an index of `Program.locations`."""


class Program(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one tile, or many alike, runs."""

    name: str
    """The file, as the layout named it."""
    code: int
    constants: tuple[int, ...] = ()
    half: Literal["f16", "bf16", "cb16"] = "f16"
    """What 16-bit floats are in vector operations."""
    memory: bytes
    """The first bytes of the memory as the program starts; the rest up to `memory_bytes` is zero."""
    memory_bytes: int
    symbols: tuple[Symbol, ...] = ()
    tasks: tuple[Task, ...] = ()
    queues: tuple[Queue, ...] = ()
    fifos: tuple[Fifo, ...] = ()
    preloads: tuple[Preload, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    opened: tuple[Blocked, ...] = ()
    """Colors (WSE-2) and input queues (WSE-3) without a data task whose control wavelets may start tasks from the start."""
    config: tuple[tuple[int, int], ...] = ()
    """Configuration registers that are set before the program starts: word address and value."""
    variables: dict[str, int] = {}
    """Exported variables: the address of what the exported pointer points to as the program starts."""
    pointers: dict[str, int] = {}
    """Those of them whose pointer can change: the address of the pointer itself."""
    functions: dict[str, int] = {}
    """Exported functions: the entry."""
    strings: tuple[str, ...] = ()
    """What <simprint> and <debug> may show."""
    locations: tuple[tuple[str, int, int], ...] = ()
    """File, line and column, from 1; index 0 is nowhere."""


class Export(msgspec.Struct, frozen=True, omit_defaults=True):
    """A name that the host may use, in the order of @export_name, which makes its id."""

    name: str
    kind: Literal["variable", "function"]
    type: str
    mutable: bool = False
    parameters: tuple[str, ...] = ()


class Tile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One PE of the rectangle."""

    x: int
    y: int
    program: int | None = None
    """None: only routes."""
    routes: dict[int, Route] = {}


class Port(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the host reaches into the fabric: words enter or leave a tile's router on one side."""

    name: str
    direction: Literal["in", "out"]
    x: int
    y: int
    side: Direction
    """The link of that tile; RAMP: as if they came from, or went to, the host right at the router."""
    color: int


class Image(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A whole program for a fabric."""

    architecture: Architecture
    fabric: tuple[int, int]
    """Width and height of the fabric, with its margins."""
    offset: tuple[int, int]
    """Where the rectangle's north-west corner lies in the fabric."""
    rectangle: tuple[int, int]
    programs: tuple[Program, ...] = ()
    codes: tuple[Code, ...] = ()
    tiles: tuple[Tile, ...] = ()
    exports: tuple[Export, ...] = ()
    params: dict[str, str] = {}
    """Parameters of the layout, as text."""
    streams: dict[int, Literal["in", "out"]] = {}
    """Colors of memcpy's streaming mode: every PE can receive or send on them."""
    ports: tuple[Port, ...] = ()
    memcpy: bool = False
    channels: int = 1


_MARK = b"openwafer image "


def _head() -> bytes:
    """How a file begins: other fields than these would be read as something else."""
    return _MARK + sha256(msgspec.json.encode(msgspec.json.schema(Image))).hexdigest()[:16].encode() + b"\n"


def write_image(image: Image, path: Path) -> None:
    """Write `image` to a file that `read_image` reads. At every moment `path` holds a whole image, or what was there before.

    Raises OSError.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(_head() + msgspec.msgpack.encode(image))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_image(path: Path) -> Image:
    """The image that `write_image` wrote to `path`.

    Raises InputError if it cannot be read, is no image, or one of another version of openwafer.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; compile the program first") from error
    head, end, content = data.partition(b"\n")
    if not data.startswith(_MARK):
        raise InputError(f"{path} is no compiled program; compile the program again")
    if head + end != _head():
        raise InputError(f"{path} was compiled with another version of openwafer; compile the program again")
    try:
        return msgspec.msgpack.decode(content, type=Image)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is damaged ({error}); compile the program again") from error
