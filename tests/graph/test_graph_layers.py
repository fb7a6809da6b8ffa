"""Layers are found from the graph alone: where few values cross, and where the same thing repeats."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from graph_cases import ADAMW, FAMILIES, LAYERS, Family, captured, family
from torch import nn

from openwafer.artifact import TensorType
from openwafer.base import PlanError
from openwafer.graph import PlanOptions, plan_job
from openwafer.graph.ir import op_name
from openwafer.graph.passes import BodyTable, assemble
from openwafer.graph.passes._backward import find_backward
from openwafer.graph.passes._layers import find_layers
from openwafer.train._initial import build_empty

BLOCKS = {
    "gpt": "blocks.",
    "llama": "blocks.",
    "bert": "blocks.",
    "vit": "blocks.",
    "hf_gpt2": "transformer.h.",
    "hf_llama": "model.layers.",
    "hf_bert": "bert.encoder.layer.",
    "hf_bert_without_dropout": "bert.encoder.layer.",
}
"""Where the repeating modules of each family are: known to these tests, not to the code under test."""


@cache
def assembled(name: str, stripped: bool = False):
    step = family(name).capture() if stripped else captured(name)
    if stripped:
        for node in step.graph.nodes:
            for key in ("nn_module_stack", "stack_trace", "source_fn_stack", "fwd_source_fn_stack"):
                node.meta.pop(key, None)
    return assemble(step, BodyTable())


def weights_in(made, index: int) -> set[str]:
    return {weight.name for record in made.layers[index].records for weight in made.records[record].weights}


# --- equal layers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BLOCKS)
def test_each_block_is_a_layer_with_its_own_weights(name):
    """One layer per transformer block, in order; a block's weights are in its own layer and in no other."""
    made = assembled(name)
    prefix = BLOCKS[name]
    every = dict(build_empty(family(name).make).named_parameters())
    of_block = [{weight for weight in every if weight.startswith(f"{prefix}{i}.")} for i in range(LAYERS)]

    found = [
        [index for index in range(len(made.layers)) if weights_in(made, index) & block] for block in of_block
    ]

    first = found[0][0]
    assert found == [[first + i] for i in range(LAYERS)]
    for index, block in enumerate(of_block):
        extra = weights_in(made, first + index) - block
        assert not any(other.startswith(prefix) for other in extra)


@pytest.mark.parametrize("name", BLOCKS)
def test_equal_blocks_share_their_bodies(name):
    """Compiled once, executed for each layer; the first and the last may differ in what their neighbours need."""
    made = assembled(name)
    first = next(
        i for i in range(len(made.layers)) if any(w.startswith(BLOCKS[name]) for w in weights_in(made, i))
    )
    inner = made.layers[first + 1 : first + LAYERS - 1]

    assert len(inner) == LAYERS - 2 >= 2
    assert len({layer.forward.body for layer in inner}) == 1
    assert len({layer.backward.body for layer in inner}) == 1


@pytest.mark.parametrize("name", BLOCKS)
def test_layers_are_named_after_their_weights(name):
    """A message about layer 7 of GPT-2 says `transformer.h.7`."""
    made = assembled(name)
    names = [layer.name for layer in made.layers]

    for i in range(1, LAYERS):
        assert f"{BLOCKS[name]}{i}" in names


@pytest.mark.parametrize("name", FAMILIES)
def test_names_of_layers_are_distinct_and_all_weights_have_a_home(name):
    """Every parameter and buffer of the module is in exactly one record."""
    made = assembled(name)
    module = build_empty(family(name).make)
    homes = [weight.name for record in made.records for weight in record.weights]

    assert len({layer.name for layer in made.layers}) == len(made.layers)
    assert sorted(homes) == sorted({**dict(module.named_parameters()), **dict(module.named_buffers())})


@pytest.mark.parametrize("name", FAMILIES)
def test_no_module_path_is_needed(name):
    """A graph from elsewhere has no module stack: layers, records and bodies come out the same."""
    plain, stripped = assembled(name), assembled(name, stripped=True)

    assert [layer.records for layer in stripped.layers] == [layer.records for layer in plain.layers]
    assert [layer.forward for layer in stripped.layers] == [layer.forward for layer in plain.layers]
    assert [layer.backward for layer in stripped.layers] == [layer.backward for layer in plain.layers]
    assert stripped.records == plain.records


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "mnist"])
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_layers_do_not_depend_on_the_microbatch(name, samples):
    """One program serves microbatches of all sizes; with one sample, activations have shapes that weights have too."""
    made = assemble(captured(name, samples), BodyTable(), records=assembled(name).records)

    assert [layer.records for layer in made.layers] == [layer.records for layer in assembled(name).layers]


@pytest.mark.parametrize("name", FAMILIES)
def test_evaluation_has_the_records_of_training(name):
    """Evaluation streams what training keeps, though its graph is another."""
    made = assemble(captured(name, train=False), BodyTable(), records=assembled(name).records)

    assert all(layer.backward is None for layer in made.layers)
    read = {record for layer in made.layers for record in layer.records}
    trained = {index for index, record in enumerate(assembled(name).records) if record.trained}
    assert trained <= read
    assert {name for layer in made.layers for name in layer.forward.inputs} >= {
        weight.name for record in assembled(name).records for weight in record.trained
    }


# --- other shapes of models -------------------------------------------------------------------------------


class Plain(nn.Module):
    """A stack without residuals."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(count))

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


class Skipping(nn.Module):
    """A U-net in small: every layer on the way up reads one on the way down."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.up = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))

    def forward(self, x):
        kept = []
        for layer in self.down:
            x = torch.relu(layer(x))
            kept.append(x)
        for layer in self.up:
            x = torch.relu(layer(x)) + kept.pop()
        return x


class Shared(nn.Module):
    """The same block again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(32, 32)
        self.own = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))

    def forward(self, x):
        for own in self.own:
            x = x + self.block(torch.relu(own(x)))
        return x


def _loss(output, target):
    return F.mse_loss(output, target)


def _vector_family(make) -> Family:
    kind = TensorType("float32", (32,))
    return Family(make.__name__, make, {"input0": kind, "input1": kind}, _loss)


@pytest.mark.parametrize("count", [1, 2, 7, 24])
def test_a_stack_without_residuals_is_cut_at_every_layer(count):
    """One value crosses between any two of its layers."""
    made = assemble(_vector_family(lambda: Plain(count)).capture(), BodyTable())

    assert [layer.name for layer in made.layers] == [f"layers.{i}" for i in range(count)]
    assert len({layer.forward.body for layer in made.layers[1:-1]}) <= 1


def test_long_skips_still_leave_layers():
    """More values cross in the middle of a U-net; it is cut all the same, and no layer holds half of the weights."""
    made = assemble(_vector_family(Skipping).capture(), BodyTable())

    total = sum(record.weight_bytes for record in made.records)
    assert max(made.records[r].weight_bytes for layer in made.layers for r in layer.records) <= total / 2


def test_a_shared_block_has_a_record_of_its_own():
    """Layers that read it list it beside their own record; its gradient has one contribution per use."""
    made = assemble(_vector_family(Shared).capture(), BodyTable())

    home = next(i for i, record in enumerate(made.records) if record.weights[0].name.startswith("block."))
    readers = [layer for layer in made.layers if home in layer.records]
    assert len(readers) == 3
    assert {weight.name for weight in made.records[home].weights} == {"block.weight", "block.bias"}
    parts = [
        gradient.value
        for layer in made.layers
        for gradient in layer.gradients
        if gradient.weight == "block.weight"
    ]
    assert len(parts) == len(set(parts)) == 3


def test_a_weight_added_to_one_sample_keeps_its_whole_gradient():
    """With one sample, a position weight's gradient is the stream's own: that sum is needed further down as well."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before = nn.Linear(32, 32)
            self.positions = nn.Parameter(torch.zeros(1, 32))
            self.after = nn.Linear(32, 32)

        def forward(self, x):
            x = self.before(x) + self.positions
            return x + self.after(x)

    step = _vector_family(Positions).capture(samples=1)
    made = assemble(step, BodyTable())
    outputs = {name for layer in made.layers for name in layer.backward.outputs}

    assert {gradient.value for layer in made.layers for gradient in layer.gradients} <= outputs
    by_weight = [gradient.weight for layer in made.layers for gradient in layer.gradients]
    assert by_weight.count("positions") == 1
    assert set(by_weight) == set(step.gradients)


# --- backward stages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_every_backward_node_runs_in_one_stage_after_what_it_reads(name):
    """Stages run from the last to the first: what a node reads was made in its own stage or in a later layer's."""
    step = captured(name)
    forward = find_layers(step)
    backward = find_backward(step, forward)
    stage = {node: index for index, nodes in enumerate(backward.stages) for node in nodes}

    assert sum(map(len, backward.stages)) == len(stage)
    for node, index in stage.items():
        for source in node.all_input_nodes:
            if source in stage:
                assert stage[source] >= index
    for nodes in backward.stages:
        order = {node: position for position, node in enumerate(nodes)}
        assert all(
            order[source] < order[node]
            for node in nodes
            for source in node.all_input_nodes
            if source in order
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_weight_is_read_backward_where_its_layer_is_loaded(name):
    """The backward of a layer reads weights of that layer's records only, so that one load serves both."""
    made = assembled(name)

    for layer in made.layers:
        own = {weight.name for record in layer.records for weight in made.records[record].weights}
        every = {weight.name for record in made.records for weight in record.weights}
        for call in (layer.forward, layer.backward):
            assert {value for value in call.inputs if value in every} <= own
        assert {gradient.weight for gradient in layer.gradients} <= own


@pytest.mark.parametrize("name", FAMILIES)
def test_recomputation_keeps_the_same_gradients_with_fewer_values(name):
    """What is recomputed is not kept: fewer bytes cross from forward to backward, the gradients are the same."""
    kept, again = (
        assemble(captured(name), BodyTable(), lambda i, n, r=r: r and i < n - 1) for r in (False, True)
    )

    for one, other in zip(kept.layers, again.layers, strict=True):
        assert one.gradients == other.gradients
        assert set(other.forward.outputs) <= set(one.forward.outputs)
    if name != "mnist":  # whose layers have nothing inside
        assert sum(len(layer.forward.outputs) for layer in again.layers) < sum(
            len(layer.forward.outputs) for layer in kept.layers
        )
        assert sum(layer.backward_flops for layer in again.layers) > sum(
            layer.backward_flops for layer in kept.layers
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_but_activations_crosses_from_forward_to_backward(name):
    """Views of weights are made again where they are used: the bytes below them belong to the stream."""
    step = captured(name)
    forward = find_layers(step)

    names = {node.meta.get("name", node.name) for node in forward.weight_views}
    made = assembled(name)
    for layer in made.layers:
        for call in (layer.forward, layer.backward):
            assert not names & set(call.outputs)
    assert all(op_name(node) for node in forward.weight_views)


def test_other_layers_for_another_microbatch_are_refused():
    """A module whose graph changes with the number of samples cannot run one program for all its microbatches."""

    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (nn.Linear(32, 32) for _ in range(3))

        def forward(self, x):
            one, other = (self.second, self.third) if x.shape[0] > 2 else (self.third, self.second)
            return other(torch.relu(one(torch.relu(self.first(x)))))

    fickle = _vector_family(Fickle)

    with pytest.raises(
        PlanError, match="has other layers for a microbatch of 2 samples than for 3; choose a batch"
    ):
        plan_job(
            "fickle",
            lambda samples, train: fickle.capture(samples, ADAMW if train else None, train),
            PlanOptions(batch=8, microbatch=3),
        )


def test_a_detached_use_of_a_weight_holds_its_update_back():
    """The early layer's backward reads the weight as it was, so it sends zeros, and the gradient is complete with it."""

    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle, self.head = (nn.Linear(32, 32) for _ in range(3))

        def forward(self, x):
            x = torch.tanh(F.linear(self.first(x), self.head.weight.detach()))
            return self.head(torch.tanh(self.middle(x)))

    table = BodyTable()
    step = _vector_family(Detached).capture()
    for _ in range(2):  # cutting a step again, as planning does, adds nothing
        made = assemble(step, table)

    parts = [
        (index, gradient.value)
        for index, layer in enumerate(made.layers)
        for gradient in layer.gradients
        if gradient.weight == "head.weight"
    ]
    readers = [i for i, layer in enumerate(made.layers) if "head.weight" in layer.backward.inputs]
    assert len(parts) == 2
    assert parts[0][0] == min(readers)
    assert sum(op_name(node) == "aten.zeros.default" for node in step.graph.nodes) == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_no_update_of_these_models_is_held_back(name):
    """Zeros cost memory and traffic; ordinary models, tied ones included, need none."""
    assembled(name)

    assert not any("zero_gradient" in node.meta for node in captured(name).graph.nodes)
