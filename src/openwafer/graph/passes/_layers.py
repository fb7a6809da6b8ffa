"""Find the layers of a step in its graph alone, so that every front end shares this code.

1. Split the forward where few values cross (in a residual network: the residual stream alone).
2. Give each piece a signature; runs of repeating signatures are the model's equal layers.
3. What does not repeat (embedding, head) becomes layers of its own, small pieces joined.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import fx

from openwafer.graph.ir import StepGraph, is_view, op_name, tensor_type
from openwafer.graph.passes._clean import WaferOp, literal_of

_CASTS_AND_VIEWS = {"aten._to_copy.default", "aten.expand.default"}
_MAX_CROSSING = 6
_SMALL_SHARE = 64
"""A piece that does not repeat is joined to its neighbour below this share of all weight bytes."""


@dataclass(frozen=True)
class ForwardLayers:
    """The forward half, sorted. Lists are in graph order."""

    constants: list[fx.Node]
    """Depend on nothing: made once for the whole job."""
    layers: list[list[fx.Node]]
    layer_of: dict[fx.Node, int]
    weight_views: set[fx.Node]
    """Views and casts of weights and buffers: made again wherever they are used, never kept, since the bytes
    under a view belong to a slot of the stream, which moves on."""


def ancestors(nodes: list[fx.Node]) -> set[fx.Node]:
    """The nodes that these depend on, themselves included."""
    seen: set[fx.Node] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(node.all_input_nodes)
    return seen


def forward_nodes(step: StepGraph) -> set[fx.Node]:
    """All that the forward's results depend on, with every part of the tuples among them."""
    found = ancestors(step.reported)
    for node in list(found):
        found.update(user for user in node.users if op_name(user) == "getitem")
    return found


def find_layers(step: StepGraph) -> ForwardLayers:
    """Sort the forward nodes of a step into constants, weight views and layers."""
    forward = forward_nodes(step)
    parameters = set(step.read_weights.values())
    streamed = parameters | set(step.buffers.values())
    inputs = {node for node in step.graph.nodes if node.op == "placeholder"}
    constants, weight_views, side, main = [], set(), [], []
    fixed: set[fx.Node] = set()
    light: set[fx.Node] = set()  # no parameter reaches these: they do not count as crossing between layers
    for node in step.graph.nodes:
        if node not in forward or node in inputs or node.op == "output":
            continue
        sources = node.all_input_nodes
        if not any(source in inputs for source in sources) and all(source in fixed for source in sources):
            fixed.add(node)
            light.add(node)
            constants.append(node)
        elif len(sources) == 1 and (sources[0] in streamed or sources[0] in weight_views) and is_cheap(node):
            weight_views.add(node)
            if sources[0] not in parameters and (sources[0] in inputs or sources[0] in light):
                light.add(node)
        elif all(source in light or (source in inputs and source not in parameters) for source in sources):
            light.add(node)
            side.append(node)
        else:
            main.append(node)

    weights = _weights_by_node(step, main, weight_views)
    weight_bytes = {
        node: sum(tensor_type(w.meta["val"]).nbytes for w in new) for node, new in weights.items()
    }
    names = {node: [str(w.meta.get("name", w.name)) for w in new] for node, new in weights.items()}
    pieces = _split(main, weight_bytes)
    groups = _group(pieces, weight_bytes, names)
    layer_of = {node: index for index, group in enumerate(groups) for node in group}
    for node in reversed(side):  # as late as its first user
        users = [layer_of[user] for user in node.users if user in layer_of]
        layer_of[node] = min(users, default=0)
    order = {node: position for position, node in enumerate(step.graph.nodes)}
    layers: list[list[fx.Node]] = [[] for _ in groups]
    for node in sorted(layer_of, key=order.__getitem__):
        layers[layer_of[node]].append(node)
    return ForwardLayers(constants, layers, layer_of, weight_views)


def is_cheap(node: fx.Node) -> bool:
    """A view or a cast: costs next to nothing to make again from a weight."""
    return is_view(node) or op_name(node) in _CASTS_AND_VIEWS


def weights_of(node: fx.Node, weight_views: set[fx.Node]) -> set[fx.Node]:
    """The placeholders that a node reads, directly or through views and casts of weights."""
    found = set()
    stack = list(node.all_input_nodes)
    while stack:
        source = stack.pop()
        if source.op == "placeholder":
            found.add(source)
        elif source in weight_views:
            stack.extend(source.all_input_nodes)
    return found


def _weights_by_node(
    step: StepGraph, main: list[fx.Node], views: set[fx.Node]
) -> dict[fx.Node, set[fx.Node]]:
    """The weights that each node is the first to read."""
    parameters = set(step.read_weights.values())
    seen: set[fx.Node] = set()
    out = {}
    for node in main:
        new = (weights_of(node, views) & parameters) - seen
        seen |= new
        if new:
            out[node] = new
    return out


def _split(main: list[fx.Node], weight_bytes: dict[fx.Node, int]) -> list[list[fx.Node]]:
    """Cut where at most k values cross, with the smallest k that leaves no piece with a quarter of all weights.

    A row shard begins a piece, whatever crosses there.
    """
    crossing = _crossing_counts(main)
    total = sum(weight_bytes.values())
    largest_possible = max(weight_bytes.values(), default=0)
    best: list[list[fx.Node]] = [main]
    best_size = total
    for allowed in range(1, _MAX_CROSSING + 1):
        pieces: list[list[fx.Node]] = [[]]
        for position, node in enumerate(main):
            cut = crossing[position] <= allowed and op_name(node) != "getitem"
            if pieces[-1] and (cut or _is_own_layer(node)):
                pieces.append([])
            pieces[-1].append(node)
        size = max(sum(weight_bytes.get(node, 0) for node in piece) for piece in pieces)
        if size < best_size or allowed == 1:
            best, best_size = pieces, size
        if best_size <= max(total / 4, largest_possible):
            break
    return best


def _crossing_counts(main: list[fx.Node]) -> list[int]:
    """Before each node: how many storages made earlier are still read by it or later."""
    position = {node: index for index, node in enumerate(main)}
    owner: dict[fx.Node, fx.Node] = {}
    last: dict[fx.Node, int] = {}
    for index, node in enumerate(main):
        source = node.all_input_nodes[0] if is_view(node) and node.all_input_nodes else None
        owner[node] = owner.get(source, node) if source is not None else node
        for used in node.all_input_nodes:
            if used in position:
                last[owner[used]] = index
    change = [0] * (len(main) + 1)
    for node, end in last.items():
        if isinstance(node.meta.get("val"), torch.Tensor) or op_name(node) == "getitem":
            change[position[node] + 1] += 1
            change[end + 1] -= 1
    counts, live = [], 0
    for index in range(len(main)):
        live += change[index]
        counts.append(live)
    return counts


def _group(
    pieces: list[list[fx.Node]], weight_bytes: dict[fx.Node, int], names: dict[fx.Node, list[str]]
) -> list[list[fx.Node]]:
    """Join pieces into layers: one repetition of a repeating run, or neighbours that do not repeat."""
    signatures = [_signature(piece) for piece in pieces]
    sizes = [sum(weight_bytes.get(node, 0) for node in piece) for piece in pieces]
    small = sum(sizes) / _SMALL_SHARE
    out: list[list[fx.Node]] = []
    lead: list[fx.Node] = []

    def join_neighbours(start: int, end: int) -> None:
        """Pieces that do not repeat: each a layer, small ones joined to the next, a small last one to the one before,
        and no two row shards together.

        What comes before all weights goes to the first layer after it.
        """
        first = len(out)
        held: list[fx.Node] = []
        held_bytes = 0
        for index in range(start, end):
            held.extend(pieces[index])
            held_bytes += sizes[index]
            if held_bytes > small or any(map(_is_own_layer, pieces[index])):
                out.append(held)
                held, held_bytes = [], 0
        if held and (len(out) > first or (out and not held_bytes)):
            out[-1] = out[-1] + held
        elif held and held_bytes:
            out.append(held)
        else:
            lead.extend(held)

    def visit(start: int, end: int) -> None:
        run = _best_run(signatures, sizes, start, end)
        if run is None:
            join_neighbours(start, end)
            return
        at, period, count = run
        at += _shift(
            run, signatures[:end], [[n for node in piece for n in names.get(node, ())] for piece in pieces]
        )
        visit(start, at)
        for repetition in range(count):
            first = at + repetition * period
            out.append([node for piece in pieces[first : first + period] for node in piece])
        visit(at + period * count, end)

    visit(0, len(pieces))
    if lead:
        out[:1] = [lead + (out[0] if out else [])]
    return out


def _best_run(signatures: list[str], sizes: list[int], start: int, end: int) -> tuple[int, int, int] | None:
    """(start, period, repetitions) of the repeating run that holds the most weight bytes; the shortest period wins."""
    best: tuple[int, int, int] | None = None
    best_bytes = 0
    for period in range(1, (end - start) // 2 + 1):
        index = start
        while index + period < end:
            run_end = index
            while run_end + period < end and signatures[run_end] == signatures[run_end + period]:
                run_end += 1
            count = (run_end - index) // period + 1
            if count >= 2:
                held = sum(sizes[index : index + period * count])
                if held > best_bytes and any(sizes[index : index + period]):
                    best, best_bytes = (index, period, count), held
            index = run_end + 1
    return best


def _shift(run: tuple[int, int, int], signatures: list[str], names: list[list[str]]) -> int:
    """How many pieces later a run begins best.

    A run may be followed by pieces like its first ones: the normalisation that ends every block of BERT also ends its
    embedding. It could then begin anywhere among these. The weights' names decide: a repetition should hold those of
    one module. They decide nothing else, so other names give other cuts of the same worth.
    """
    at, period, count = run
    end = at + period * count
    slack = 0
    while (
        slack < period and end + slack < len(signatures) and signatures[end + slack] == signatures[at + slack]
    ):
        slack += 1

    def shared(shift: int) -> int:
        total = 0
        for first in range(at + shift, end + shift, period):
            found = [name for own in names[first : first + period] for name in own]
            total += common_prefix(found).count(".") + bool(found)
        return total

    return max(range(slack + 1), key=lambda shift: (shared(shift), -shift))


def common_prefix(names: list[str]) -> str:
    """The module that all these weights belong to, as far as their names tell."""
    parts = [name.split(".") for name in names]
    common = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        common.append(column[0])
    return ".".join(common)


def _signature(piece: list[fx.Node]) -> str:
    """Equal for pieces that do the same to values of the same types."""
    number: dict[fx.Node, str] = {}
    text: list[str] = []

    def name(node: fx.Node) -> str:
        if node not in number:
            value = node.meta.get("val")
            kind = str(tensor_type(value)) if isinstance(value, torch.Tensor) else "tuple"
            # A microbatch of one sample has activations of the shape of some weights: the two differ.
            source = "weight" if _is_placed(node) else "in"
            number[node] = f"{source}{len(number)}:{kind}"
        return number[node]

    for index, node in enumerate(piece):
        literal = literal_of(node)
        args = node.args
        if literal is not None:
            args = (*args[:literal], "literal", *args[literal + 1 :])
        shown = fx.node.map_arg(args, name), sorted(fx.node.map_arg(node.kwargs, name).items())
        text.append(f"{op_name(node)} {shown}")
        number[node] = f"v{index}"
    return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]


def _is_own_layer(node: fx.Node) -> bool:
    return isinstance(node.target, WaferOp) and node.target.own_layer


def _is_placed(node: fx.Node) -> bool:
    """Whether a node is a placeholder, or a view or cast of one."""
    while is_cheap(node) and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node.op == "placeholder"
