"""Rewrite the uses of a vocabulary weight that is captured in row shards, so that no shard waits for another.

    W = cat(W0, W1, ...)
    x = embedding(W, ids)                       ->  x = rows(W1, ids, rows(W0, ids))         each fills what it has
    loss = cross_entropy(h @ W.T + b, target)   ->  c = loss(W1, loss(W0));  end(c)          c: running sums of each row

Each call reads one shard and is a layer of its own, forward and backward, so that a shard streams, is updated and is
stored like a layer. Rows of the embedding and of its gradient are bitwise those of the whole; sums over the vocabulary
are added shard by shard, so that losses and the other gradients differ from the whole's in the last bits.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from openwafer.graph.ir import StepGraph, op_name
from openwafer.graph.passes._backward import HOME
from openwafer.graph.passes._clean import WaferOp
from openwafer.graph.passes._vocabulary import Head, chunk_rows, match_head

aten = torch.ops.aten

EMBEDDING_ROWS = WaferOp("wafer.embedding_rows", literal=3, own_layer=True)
"""embedding_rows(before, W, ids, start, vocabulary) -> `before` with the rows that this shard has."""
EMBEDDING_ROWS_BACKWARD = WaferOp("wafer.embedding_rows_backward", literal=2)
"""embedding_rows_backward(gradient, ids, start, rows, padding, by_frequency) -> dW."""
SHARD_LOSS = WaferOp("wafer.shard_loss", literal=5, own_layer=True)
"""shard_loss(before, h, W, bias, target, start, vocabulary, ignore_index, rows, dtype) -> [3, N]: maximum, sum, picked."""
SHARD_LOSS_END = WaferOp("wafer.shard_loss_end")
"""shard_loss_end(sums, target, reduction, ignore_index) -> (loss, number of targets)."""
SHARD_LOSS_GRADIENT = WaferOp("wafer.shard_loss_gradient")
"""shard_loss_gradient(gradient, sums, target, count, reduction, ignore_index) -> (weight, log of the sum) of each row."""
SHARD_LOSS_BACKWARD = WaferOp("wafer.shard_loss_backward", literal=5)
"""shard_loss_backward(before, h, W, bias, target, start, weights, logs, rows, dtype)
-> (`before` with what this shard adds to dh, dW, db)."""


class CannotShardError(Exception):
    """A weight that was captured in shards is used as a whole; the planner captures the step again without."""

    def __init__(self, weight: str, why: str) -> None:
        super().__init__(f"{weight} stays whole: {why}")
        self.weight = weight


@dataclass
class Uses:
    """How a step uses one vocabulary weight."""

    embeddings: list[fx.Node] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)
    why_whole: str = ""
    """What keeps the weight from being cut; empty if nothing does."""


def find_uses(weight: fx.Node) -> Uses:
    """The lookups and projections that read a weight, through casts and transpositions; any other use keeps it whole."""
    uses = Uses()
    products: list[fx.Node] = []
    transposed: list[fx.Node] = []
    stack = [(weight, False)]
    while stack:
        node, turned = stack.pop()
        for user in node.users:
            if user.target is aten._to_copy.default:
                stack.append((user, turned))
            elif user.target is aten.t.default:
                transposed.append(user)
                stack.append((user, not turned))
            elif user.target is aten.embedding.default and not turned and user.args[0] is node:
                uses.embeddings.append(user)
                if len(user.args) > 4 and user.args[4]:
                    uses.why_whole = "its gradients are sparse"
            elif user.target in (aten.mm.default, aten.addmm.default) and user.args[-1] is node:
                products.append(user)
            elif user.op != "output":
                uses.why_whole = f"{op_name(user)} reads it"
    for product in products:
        head = _head_of(product)
        if head is not None:
            uses.heads.append(head)
    matched = {head.product for head in uses.heads} | {
        node for head in uses.heads for node in head.gradient_h
    }
    if set(products) - matched and not uses.why_whole:
        uses.why_whole = "more than the cross entropy reads its logits"
    return uses


def _head_of(product: fx.Node) -> Head | None:
    """The head whose logits are this product, if they go through views and casts into a cross entropy alone."""
    node = product
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.target is aten._log_softmax.default:
            head = match_head(node)
            return head if head is not None and head.product is product else None
    return None


@dataclass(frozen=True)
class _Shard:
    name: str
    start: int
    rows: int
    source: fx.Node
    """The shard as the module's weight takes it in: its placeholder, or a cast of that."""


def split_vocabulary(step: StepGraph) -> None:
    """Rewrite every use of the weights that were captured in shards. Raises CannotShardError if one is used otherwise."""
    joined = _joined(step)
    if not joined:
        return
    placed: list[tuple[str, fx.Node, Uses]] = []
    heads: list[Head] = []
    for whole, (cat, _) in joined.items():
        if cat.meta["val"].ndim == 2:
            uses = find_uses(cat)
            if uses.why_whole or not (uses.embeddings or uses.heads):
                raise CannotShardError(whole, uses.why_whole or "nothing uses it as a vocabulary")
            placed.append((whole, cat, uses))
            heads += uses.heads
    shards_of = {cat: shards for cat, shards in joined.values()}
    terms = _gradient_terms(step, joined, placed)
    made: dict[fx.Node, list[fx.Node]] = {}
    for whole, cat, uses in placed:
        for embedding in uses.embeddings:
            made.update(_rewrite_embedding(step, embedding, shards_of[cat], terms.get(whole, [])))
        for head in uses.heads:
            biases = shards_of.get(_uncast(head.bias)) if head.bias is not None else None
            if head.bias is not None and biases is None:
                raise CannotShardError(whole, "the bias beside it is used otherwise too")
            made.update(_rewrite_head(step, head, shards_of[cat], biases))
    _replace_gradients(step, joined, terms, made)
    step.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))


def _joined(step: StepGraph) -> dict[str, tuple[fx.Node, list[_Shard]]]:
    """For each weight captured in shards the node that joins them, and the shards in order."""
    names: dict[str, list[str]] = {}
    for shard, part in step.parts.items():
        names.setdefault(part.whole, []).append(shard)
    found = {}
    for whole, members in names.items():
        members.sort(key=lambda shard: step.parts[shard].start)
        nodes = [step.weights[shard] for shard in members]
        cats = {user for node in nodes for user in _past_casts(node) if user.target is aten.cat.default}
        if not cats:  # the step does not use this weight
            continue
        cat = cats.pop()
        sources = cat.args[0]
        assert not cats
        assert isinstance(sources, (list, tuple))
        found[whole] = (
            cat,
            [
                _Shard(name, step.parts[name].start, node.meta["val"].shape[0], source)
                for name, node, source in zip(members, nodes, sources, strict=True)
            ],
        )
    return found


def _uncast(node: fx.Node) -> fx.Node:
    while node.target is aten._to_copy.default:
        node = node.all_input_nodes[0]
    return node


def _past_casts(node: fx.Node) -> list[fx.Node]:
    out = []
    for user in node.users:
        out += [user, *(_past_casts(user) if user.target is aten._to_copy.default else [])]
    return out


# --- forward ----------------------------------------------------------------------------------------------


def _rewrite_embedding(
    step: StepGraph, node: fx.Node, shards: list[_Shard], terms: list[fx.Node]
) -> dict[fx.Node, list[fx.Node]]:
    """A chain of lookups in place of one. Returns those terms of the gradient that the lookup makes, each with its
    shards' own."""
    graph, ids = step.graph, node.args[1]
    weight = node.args[0]
    assert isinstance(weight, fx.Node)
    assert isinstance(ids, fx.Node)
    vocabulary = weight.meta["val"].shape[0]
    before: fx.Node | None = None
    homes = []
    with graph.inserting_before(node):
        for shard in shards:
            rows = _cast(graph, shard.source, weight.meta["val"].dtype)
            before = _call(graph, EMBEDDING_ROWS, (before, rows, ids, shard.start, vocabulary), node)
            homes.append(before)
    assert before is not None
    node.replace_all_uses_with(before)
    made = {}
    for gradient in (term for term in terms if term in ids.users):
        source, _, _, padding, by_frequency = gradient.args
        parts = []
        with graph.inserting_before(gradient):
            for shard, home in zip(shards, homes, strict=True):
                part = _call(
                    graph,
                    EMBEDDING_ROWS_BACKWARD,
                    (source, ids, shard.start, shard.rows, padding, by_frequency),
                    gradient,
                    gradient.meta["val"][: shard.rows],
                )
                part.meta[HOME] = home
                parts.append(part)
        made[gradient] = parts
    return made


def _rewrite_head(
    step: StepGraph, head: Head, shards: list[_Shard], biases: list[_Shard] | None
) -> dict[fx.Node, list[fx.Node]]:
    """A chain of partial losses in place of projection and cross entropy; see `_rewrite_embedding`."""
    graph, loss = step.graph, head.loss
    target, reduction, ignored = loss.args[1], loss.args[3], loss.args[4]
    softmax_input = loss.args[0].args[0]  # type: ignore[union-attr]
    dtype = softmax_input.meta["val"].dtype  # type: ignore[union-attr]
    h, weight = head.h.meta["val"], head.weight.meta["val"]
    sums = h.new_empty((3, h.shape[0]), dtype=dtype)
    rows = min(chunk_rows(max(shard.rows for shard in shards)), h.shape[0])
    before: fx.Node | None = None
    homes, own = [], []
    with graph.inserting_before(loss):
        for index, shard in enumerate(shards):
            part = _cast(graph, shard.source, weight.dtype)
            bias = None
            if biases is not None:
                assert head.bias is not None
                bias = _cast(graph, biases[index].source, head.bias.meta["val"].dtype)
            own.append((part, bias))
            args = (before, head.h, part, bias, target, shard.start, weight.shape[0], ignored, rows, dtype)
            before = _call(graph, SHARD_LOSS, args, loss, sums)
            homes.append(before)
        end = _call(graph, SHARD_LOSS_END, (before, target, reduction, ignored), loss)
    loss.replace_all_uses_with(end)
    if head.backward is None:
        return {}
    gradient, count = head.backward.args[0], head.backward.args[6]
    wide = torch.float32 if h.dtype in (torch.float16, torch.bfloat16) else h.dtype
    weights: list[fx.Node] = []
    bias_gradients: list[fx.Node] = []
    of_rows = (sums[0], sums[0])
    with graph.inserting_before(head.backward):
        begin = _call(
            graph,
            SHARD_LOSS_GRADIENT,
            (gradient, before, target, count, reduction, ignored),
            head.backward,
            of_rows,
        )
        begin.meta[HOME] = homes[-1]
        each = [
            _call(graph, operator.getitem, (begin, position), head.backward, value)
            for position, value in enumerate(of_rows)
        ]
        before = None
        for shard, home, (part, bias) in reversed(list(zip(shards, homes, own, strict=True))):
            values = (
                h.new_empty(h.shape, dtype=wide),
                weight[: shard.rows],
                weight[: shard.rows, 0] if bias is None else bias.meta["val"],
            )
            args = (before, head.h, part, bias, target, shard.start, *each, rows, dtype)
            back = _call(graph, SHARD_LOSS_BACKWARD, args, head.backward, values)
            back.meta[HOME] = home
            before, *others = (
                _call(graph, operator.getitem, (back, position), head.backward, value)
                for position, value in enumerate(values)
            )
            weights.insert(0, others[0])
            bias_gradients.insert(0, others[1])
        assert before is not None
        narrow = _cast(graph, before, h.dtype)
    for node in head.gradient_h:
        node.replace_all_uses_with(narrow)
    made = {node: weights for node in (*head.gradient_w, *head.gradient_w_transposed)}
    made.update({node: bias_gradients for node in head.gradient_b})
    return made


# --- gradients --------------------------------------------------------------------------------------------


def _gradient_terms(
    step: StepGraph, joined: dict[str, tuple[fx.Node, list[_Shard]]], placed: list[tuple[str, fx.Node, Uses]]
) -> dict[str, list[fx.Node]]:
    """For each weight in shards the nodes that its gradient is a sum of. Raises CannotShardError if one is unknown."""
    known = {node for _, _, uses in placed for head in uses.heads for node in _head_gradients(head)}
    known |= {
        user
        for _, _, uses in placed
        for embedding in uses.embeddings
        for user in embedding.args[1].users  # type: ignore[union-attr]
        if user.target is aten.embedding_dense_backward.default
    }
    terms = {}
    for whole, (_, shards) in joined.items():
        gradient = step.gradients.get(shards[0].name)
        if gradient is None:
            continue
        while gradient.target in (aten._to_copy.default, aten.slice.Tensor):
            gradient = gradient.all_input_nodes[0]
        terms[whole] = _addends(gradient, known)
        if not all(term in known for term in terms[whole]):
            raise CannotShardError(
                whole, "its gradient has a part that is neither a lookup's nor a projection's"
            )
    return terms


def _head_gradients(head: Head) -> list[fx.Node]:
    return [*head.gradient_w, *head.gradient_w_transposed, *head.gradient_b]


def _addends(node: fx.Node, known: set[fx.Node]) -> list[fx.Node]:
    """What is added up to `node`, looking through casts and views, in order."""
    if node in known or node.op == "placeholder":
        return [node]
    if node.target is aten.add.Tensor and not node.kwargs:
        return [term for source in node.args for term in _addends(source, known)]  # type: ignore[arg-type]
    if node.target in (aten._to_copy.default, aten.t.default, aten.view.default):
        return _addends(node.all_input_nodes[0], known)
    return [node]


def _replace_gradients(
    step: StepGraph,
    joined: dict[str, tuple[fx.Node, list[_Shard]]],
    terms: dict[str, list[fx.Node]],
    made: dict[fx.Node, list[fx.Node]],
) -> None:
    """Let each shard's gradient be the sum of its own parts, in the dtype of the gradient: so each part leaves alone."""
    graph = step.graph
    for whole, sources in terms.items():
        for index, shard in enumerate(joined[whole][1]):
            old = step.gradients[shard.name]
            with graph.inserting_before(old):
                parts = [_cast(graph, made[source][index], old.meta["val"].dtype) for source in sources]
                total = parts[0]
                for part in parts[1:]:
                    total = _call(graph, aten.add.Tensor, (total, part), old)
            old.replace_all_uses_with(total)
            step.gradients[shard.name] = total


def _cast(graph: fx.Graph, node: fx.Node, dtype: torch.dtype) -> fx.Node:
    """The node itself if it has this dtype."""
    value = node.meta["val"]
    if value.dtype == dtype:
        return node
    made = graph.call_function(aten._to_copy.default, (node,), {"dtype": dtype})
    made.meta = {key: entry for key, entry in node.meta.items() if key not in ("name", HOME)}
    made.meta["val"] = value.to(dtype)
    return made


def _call(
    graph: fx.Graph, target: Callable[..., Any], args: tuple[Any, ...], like: fx.Node, value: Any = None
) -> fx.Node:
    """A call whose origin, and type if no other is given, are those of `like`."""
    made = graph.call_function(target, args)
    made.meta = {key: entry for key, entry in like.meta.items() if key != "name"}
    if value is not None:
        made.meta["val"] = value
    return made
