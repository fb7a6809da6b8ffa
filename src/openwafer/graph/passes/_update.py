"""Cut the update part of a step along MemoryX's records.

A node's kind follows from what it depends on:

    begin    the globals and the step's random key alone         (learning-rate schedule, bias corrections)
    local    one record's gradients, weights, state              (a gradient's norm)
    across   values of several records                           (the global norm, found_inf, the new loss scale)
    apply    one record and something from across                (the clipped update)

An update that needs nothing from across runs as soon as its record's gradients are complete. One that does must wait
for every gradient; `Update.waits` says so, and the plan says what that costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from openwafer.artifact import Call, Output, RecordUpdate, Update
from openwafer.base import PlanError
from openwafer.graph.ir import StepGraph, op_name, tensor_type
from openwafer.graph.passes._bodies import BodyTable, extract, value_name
from openwafer.graph.passes._layers import ancestors

MAX_CARRIED_ELEMENTS = 1 << 16
"""Largest value that may pass from one record's gradients to `across`: it exists once per weight."""


_REPORTS = -1
"""Stands beside records: what is reported, and the globals."""


def gradient_name(weight: str) -> str:
    """The name under which an update reads a weight's summed gradient."""
    return f"{weight}/gradient"


@dataclass(frozen=True)
class _Kind:
    records: frozenset[int]
    after: bool

    @property
    def label(self) -> str:
        if len(self.records) == 1:
            return "apply" if self.after else "local"
        return "across" if self.after else "begin"


def cut_update(step: StepGraph, table: BodyTable, record_of: dict[str, int], count: int) -> Update:
    """The update of `count` records; `record_of` maps weight names to records.

    Raises PlanError for an update that would need two passes over all gradients, or large values of several records.
    """
    rename = {node: gradient_name(name) for name, node in step.gradients.items()}
    ends = [
        *step.new_weights.values(),
        *(node for entry in step.new_state.values() for node in entry.values()),
        *step.new_globals.values(),
        *step.logs.values(),
        *step.update_outputs.values(),
    ]
    sources: dict[fx.Node, _Kind] = {}
    for name, node in step.weights.items():
        own = sources[node] = _Kind(frozenset([record_of[name]]), False)
        if name in step.gradients:
            sources[step.gradients[name]] = own
            for entry in step.state[name].values():
                sources[entry] = own
    for node in (*step.globals.values(), step.rng):
        sources[node] = _Kind(frozenset(), False)
    nodes = [
        node
        for node in _between(ends, set(sources), list(step.graph.nodes))
        if node not in sources and node.op == "call_function"
    ]
    nodes_set = set(nodes)
    kinds = dict(sources)
    readers = _readers(step, nodes, record_of)
    for node in nodes:
        kinds[node] = _kind(node, kinds, readers[node])

    def members(label: str, record: int | None = None) -> list[fx.Node]:
        return [
            node
            for node in nodes
            if kinds[node].label == label and (record is None or record in kinds[node].records)
        ]

    def is_read_by(node: fx.Node, labels: set[str]) -> bool:
        return any(
            user in kinds and user not in sources and kinds[user].label in labels for user in node.users
        )

    reported = {*step.new_globals.values(), *step.logs.values(), *step.update_outputs.values()}
    for node in reported:
        if node in nodes_set and kinds[node].label == "apply":
            raise PlanError(
                f"a value to report ({value_name(node)} = {op_name(node)}) is made of a weight after an update that "
                "waits for all gradients; report one that is made of gradients, or of weights before the update"
            )
    begin = [n for n in members("begin") if is_read_by(n, {"local", "across", "apply"}) or n in reported]
    begin = [n for n in begin if not isinstance(n.meta["val"], (tuple, list))]
    across = [n for n in members("across") if is_read_by(n, {"apply"}) or n in reported]
    global_outputs = {node: name for name, node in step.new_globals.items()}
    by_record = {r: (members("local", r), members("apply", r)) for r in range(count)}
    records = []
    waits = False
    for record in range(count):
        local, after = by_record[record]
        carried = [n for n in local if is_read_by(n, {"across"}) or n in reported]
        before = None
        if carried:
            needed = ancestors(carried)
            before = extract(table, [n for n in local if n in needed], set(), carried, rename)
        wanted, names = _new_values(step, record, record_of)
        apply = None
        if wanted:
            # What only `across` needs of the record came by `before`: it is not computed a second time.
            outside = nodes_set.difference(local, after)
            apply = extract(
                table, _between(wanted, {*sources, *outside}, nodes), set(), wanted, rename, names
            )
            waits = waits or not ancestors(wanted).isdisjoint(across)
        records.append(RecordUpdate(before=before, apply=apply))
    return Update(
        begin=_scalars(table, members("begin"), begin, rename),
        records=tuple(records),
        across=_scalars(table, members("across"), across, rename),
        waits=waits,
        logs=tuple((label, value_name(node)) for label, node in step.logs.items()),
        new_globals=tuple(
            (name, value_name(node)) for node, name in global_outputs.items() if node.op != "placeholder"
        ),
        outputs=tuple(
            Output(label, value_name(node), kind.dtype, kind.shape)
            for label, node in step.update_outputs.items()
            for kind in (tensor_type(node.meta["val"]),)
        ),
    )


def _between(ends: list[fx.Node], sources: set[fx.Node], order: list[fx.Node]) -> list[fx.Node]:
    """Nodes that the ends depend on, not looking past the sources."""
    seen: set[fx.Node] = set()
    stack = [node for node in ends if node not in sources]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(source for source in node.all_input_nodes if source not in sources)
    return [node for node in order if node in seen]


def _readers(
    step: StepGraph, nodes: list[fx.Node], record_of: dict[str, int]
) -> dict[fx.Node, frozenset[int]]:
    """For each node the records whose new values need it, and _REPORTS if a report or a global does."""
    ends: dict[fx.Node, set[int]] = {}
    for name, node in step.new_weights.items():
        for new in (node, *step.new_state.get(name, {}).values()):
            ends.setdefault(new, set()).add(record_of[name])
    for node in (*step.new_globals.values(), *step.logs.values(), *step.update_outputs.values()):
        ends.setdefault(node, set()).add(_REPORTS)
    found: dict[fx.Node, frozenset[int]] = {}
    for node in reversed(nodes):
        found[node] = frozenset(ends.get(node, ())).union(*(found.get(user, ()) for user in node.users))
    return found


def _kind(node: fx.Node, kinds: dict[fx.Node, _Kind], readers: frozenset[int]) -> _Kind:
    read = [kinds[source] for source in node.all_input_nodes if source in kinds]
    records = frozenset[int]().union(*(kind.records for kind in read))
    after = any(kind.after for kind in read)
    if after and not readers <= records and _is_sum_so_far(node, kinds):
        return _Kind(frozenset(), True)
    if len(records) <= 1:
        return _Kind(records, after)
    if any(kind.label == "apply" for kind in read):
        raise PlanError(
            f"the update needs a second pass over all gradients ({value_name(node)} = {op_name(node)} joins updated values of "
            "several layers); use an optimizer whose global values depend on gradients only"
        )
    for source in node.all_input_nodes:
        value = source.meta["val"]
        if source in kinds and kinds[source].records and tensor_type(value).nbytes > 4 * MAX_CARRIED_ELEMENTS:
            raise PlanError(
                f"the update joins whole tensors of several layers ({value_name(node)} = {op_name(node)}); reduce each weight's "
                "gradient to a small value first, as clipping by global norm does"
            )
    return _Kind(frozenset(), True)


def _is_sum_so_far(node: fx.Node, kinds: dict[fx.Node, _Kind]) -> bool:
    """Whether it adds one number of a record to one that came from several, as a loop over all weights does."""
    sources = [source for source in node.all_input_nodes if source in kinds]
    if any(kinds[source].label == "apply" for source in sources):
        return False
    own = [source for source in sources if kinds[source].records]
    return all(isinstance(n.meta["val"], torch.Tensor) and n.meta["val"].numel() == 1 for n in (node, *own))


def _new_values(step: StepGraph, record: int, record_of: dict[str, int]) -> tuple[list[fx.Node], list[str]]:
    wanted, names = [], []
    for name, node in step.new_weights.items():
        if record_of[name] != record:
            continue
        for old, new, label in [
            (step.weights[name], node, name),
            *(
                (step.state[name][key], value, f"{name}/{key}")
                for key, value in step.new_state.get(name, {}).items()
            ),
        ]:
            if new is not old:
                wanted.append(new)
                names.append(label)
    return wanted, names


def _scalars(
    table: BodyTable, nodes: list[fx.Node], wanted: list[fx.Node], rename: dict[fx.Node, str]
) -> Call | None:
    if not wanted:
        return None
    needed = ancestors(wanted)
    return extract(table, [node for node in nodes if node in needed], set(), wanted, rename)
