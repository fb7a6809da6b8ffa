"""Capture: what cannot become one static graph is refused with the module, the line and the mend; the rest is whole."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F
from graph_cases import ADAMW, FAMILIES, RECIPES, Family, captured, family
from torch import nn
from torch.utils.checkpoint import checkpoint

from openwafer.artifact import TensorType
from openwafer.base import CaptureError, InputError
from openwafer.graph.ir import op_name
from openwafer.train import LocalCluster, Trainer
from openwafer.train._initial import build_empty

VECTOR = TensorType("float32", (16,))


class Around(nn.Module):
    """A module `inner.odd` that does one odd thing between two linear layers."""

    def __init__(self, odd) -> None:
        super().__init__()

        class Odd(nn.Module):
            def forward(self, x):
                return odd(x)

        self.first = nn.Linear(16, 16)
        self.inner = nn.ModuleDict({"odd": Odd()})
        self.last = nn.Linear(16, 16)

    def forward(self, x):
        return self.last(self.inner["odd"](self.first(x)))


def capture_of(make, loss=F.mse_loss, rule=ADAMW, inputs=None, **options):
    return Family("odd", make, inputs or {"input0": VECTOR, "input1": VECTOR}, loss).capture(
        rule=rule, **options
    )


def by_item(x):
    return x * x.abs().max().item()


def by_condition(x):
    if x.sum() > 0:
        return x
    return -x


def by_int(x):
    return x[:, : int(x[0, 0].abs()) + 1].sum(1, keepdim=True) * x


def by_nonzero(x):
    return x + x.flatten().nonzero().sum()


def by_mask(x):
    return x + x[x > 0].sum()


def by_unique(x):
    return x + x.round().unique().numel()


@pytest.mark.parametrize(
    ("odd", "line", "why", "mend"),
    [
        (by_item, "return x * x.abs().max().item()", "needs the value of a tensor", "torch.where"),
        (by_condition, "if x.sum() > 0:", "needs the value of a tensor", "torch.where"),
        (by_int, "int(x[0, 0].abs())", "needs the value of a tensor", "torch.where"),
        (
            by_nonzero,
            "x.flatten().nonzero()",
            "a tensor whose shape depends on values",
            "a mask of fixed shape",
        ),
        (by_mask, "x[x > 0]", "a tensor whose shape depends on values", "a mask of fixed shape"),
        (by_unique, "x.round().unique()", "a tensor whose shape depends on values", "a mask of fixed shape"),
    ],
)
def test_what_depends_on_values_is_refused_where_it_stands(odd, line, why, mend):
    """The message names the module by its path, quotes the source line with file and number, and says what to write."""
    with pytest.raises(CaptureError) as caught:
        capture_of(lambda: Around(odd))

    text = str(caught.value)
    assert "module 'inner.odd'" in text
    assert re.search(r"test_graph_capture\.py:\d+: `", text)
    assert line in text
    assert why in text
    assert mend in text


def test_a_buffer_read_on_the_host_is_refused_by_its_module():
    """torch's own BatchNorm without momentum asks for its count: the user sees which module, and his own line."""

    class Cumulative(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(16, 16)
            self.norm = nn.BatchNorm1d(16, momentum=None)

        def forward(self, x):
            return self.norm(self.first(x))

    with pytest.raises(
        CaptureError, match=r"`return self.norm\(self.first\(x\)\)`: module 'norm' needs the value"
    ):
        capture_of(Cumulative)


def test_wrong_arguments_are_named():
    """A batch whose names forward does not take: the message has torch's text and says which side to change."""

    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.only = nn.Linear(16, 16)

        def forward(self, features):
            return self.only(features).square().mean()

    with pytest.raises(
        CaptureError, match=r"unexpected keyword argument 'labels'; make the batch's names match"
    ):
        capture_of(Takes, loss=None, inputs={"features": VECTOR, "labels": VECTOR})
    with pytest.raises(
        InputError, match=r"the batch has x, y, but Takes.forward takes none of these; rename"
    ):
        capture_of(Takes, inputs={"x": VECTOR, "y": VECTOR})


def test_wrong_shapes_have_torchs_words_and_the_users_line():
    """What would fail in plain PyTorch fails here with the place."""

    class Mismatched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(16, 8)
            self.second = nn.Linear(16, 8)

        def forward(self, x):
            return self.second(self.first(x))

    with pytest.raises(
        CaptureError, match=r"self.second\(self.first\(x\)\)`: module 'second' cannot run .*check that"
    ):
        capture_of(Mismatched)


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (lambda output, target: (output - target).square().mean(1), r"a tensor of shape \(8,\)"),
        (lambda output, target: 3.0, "float"),
        (lambda output, target: None, "NoneType"),
    ],
)
def test_a_loss_that_is_not_one_number_is_refused(loss, found):
    """A microbatch's loss is a mean over its samples; anything else has no meaning when summed by sample fractions."""
    with pytest.raises(CaptureError, match=f"the loss must be one number .*returned {found}"):
        capture_of(lambda: Around(torch.relu), loss=loss)


def test_a_model_without_a_loss_is_refused():
    """No loss function, and nothing in the output that is one."""

    class Listing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.only = nn.Linear(16, 16)

        def forward(self, x):
            return {"logits": self.only(x)}

    with pytest.raises(
        InputError, match=r"no loss function was given, and the model returned dict .*pass loss="
    ):
        capture_of(Listing, loss=None, inputs={"x": VECTOR})


def test_a_model_that_cannot_learn_is_refused():
    """Nothing trainable, or a loss that does not depend on it: a run would change nothing."""

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.only = nn.Linear(16, 16).requires_grad_(False)

        def forward(self, x):
            return self.only(x)

    with pytest.raises(CaptureError, match=r"no trainable parameter.*requires_grad"):
        capture_of(Frozen)
    with pytest.raises(CaptureError, match="the loss does not depend on any trainable parameter; check that"):
        capture_of(lambda: Around(torch.relu), loss=lambda output, target: target.mean())
    with pytest.raises(CaptureError, match="the loss does not depend on any trainable parameter; check that"):
        capture_of(lambda: Around(torch.detach), loss=lambda output, target: output.detach().mean())


def test_a_large_tensor_that_is_no_buffer_is_refused():
    """A constant would be written into the plan's text: a mask belongs into a buffer."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.only = nn.Linear(16, 16)
            self.mask = torch.ones(128, 128)

        def forward(self, x):
            return self.only(x) * self.mask[:1, :16]

    with pytest.raises(
        CaptureError, match=r"a tensor of shape \(128, 128\) that is no parameter.*register_buffer"
    ):
        capture_of(Masked)


def test_a_refusal_leaves_the_module_and_torch_as_they_were():
    """Hooks and tracing modes are gone, so that the user can mend the module and try again in the same session."""
    module = Around(by_item)
    trainer = Trainer(
        module,
        optimizer=torch.optim.SGD(module.parameters(), lr=0.1),
        loss=F.mse_loss,
        cluster=LocalCluster(),
    )
    data = [(torch.randn(4, 16), torch.randn(4, 16))]

    with pytest.raises(CaptureError):
        trainer.plan(data)

    assert not torch.compiler.is_exporting()
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert type(module(data[0][0])) is torch.Tensor
    assert module.first.weight.grad is None


# --- what a capture is ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_the_backward_of_a_module_without_memory_is_whole(name):
    """Parameters on the meta device: every one of them gets a gradient of its shape, a new value and new moments."""
    module = build_empty(family(name).make)
    assert all(parameter.device.type == "meta" for parameter in module.parameters())

    step = captured(name)

    expected = {name: tuple(value.shape) for name, value in module.named_parameters()}
    assert {name: tuple(node.meta["val"].shape) for name, node in step.gradients.items()} == expected
    assert set(step.new_weights) == set(expected)
    assert {name: set(entry) for name, entry in step.new_state.items()} == {
        name: {"exp_avg", "exp_avg_sq"} for name in expected
    }
    backward = {op_name(node) for node in step.graph.nodes if "backward" in op_name(node)}
    assert backward or name == "mnist"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_graph_writes_nothing_in_place_and_draws_nothing_unseeded(name):
    """Values never change after they are made, and randomness comes from keys: else recomputation would differ."""
    for step in (captured(name), captured(name, train=False)):
        for node in step.graph.nodes:
            target = node.target
            if isinstance(target, torch._ops.OpOverload):
                assert not target._schema.is_mutable
                assert torch.Tag.nondeterministic_seeded not in target.tags or _draws_nothing(node)


def _draws_nothing(node) -> bool:
    names = [argument.name for argument in node.target._schema.arguments]
    position = names.index("dropout_p")
    return (node.args[position] if position < len(node.args) else node.kwargs.get("dropout_p", 0.0)) == 0.0


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.InstanceNorm1d])
def test_running_statistics_are_outputs_of_the_step(kind):
    """Normalisation writes them behind its schema's back; a step that did that would change weights in the stream."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(16, 16)
            self.norm = kind(4, track_running_stats=True)

        def forward(self, x):
            return self.norm(self.first(x).view(-1, 4, 4)).flatten(1)

    step = capture_of(Normed)
    counted = {"norm.num_batches_tracked"} if kind is nn.BatchNorm1d else set()  # as in torch
    assert set(step.new_buffers) == {"norm.running_mean", "norm.running_var"} | counted
    assert "aten.native_batch_norm.default" not in {op_name(node) for node in step.graph.nodes}
    still = capture_of(Normed, rule=None, train=False)
    assert not still.new_buffers


def test_recurrent_layers_are_captured_as_operators_that_any_system_can_run():
    """oneDNN's LSTM would pass its backward a workspace that is not described by any type."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 4, batch_first=True)

        def forward(self, x):
            return self.lstm(x.view(-1, 4, 4))[0].flatten(1)

    enabled = torch._C._get_mkldnn_enabled()
    names = {op_name(node) for node in capture_of(Recurrent).graph.nodes}

    assert not [name for name in names if "mkldnn" in name]
    assert torch._C._get_mkldnn_enabled() == enabled


def test_a_modules_own_checkpoints_are_not_captured_twice():
    """The same graph as without: the plan decides what is recomputed."""

    class Blocks(nn.Module):
        def __init__(self, reentrant) -> None:
            super().__init__()
            self.first = nn.Linear(16, 16)
            self.block = nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.5), nn.Linear(32, 16))
            self.reentrant = reentrant

        def forward(self, x):
            x = self.first(x)
            if self.reentrant is None:
                return self.block(x)
            return checkpoint(self.block, x, use_reentrant=self.reentrant)

    plain, once, twice = (
        [op_name(node) for node in capture_of(lambda kind=kind: Blocks(kind)).graph.nodes]
        for kind in (None, False, True)
    )

    assert plain == once == twice


def test_no_global_generator_is_drawn_from():
    """Planning a job leaves the user's random numbers as they are."""
    before = torch.get_rng_state()

    family("hf_gpt2").capture()

    assert torch.equal(torch.get_rng_state(), before)


# --- size -------------------------------------------------------------------------------------------------

PLAN_7B = """
    import resource, sys
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))
    from openwafer.train import load_recipe, plan_config
    plan = plan_config(load_recipe(sys.argv[1], size="7b"))
    weights = sum(tensor.nbytes for record in plan.records for tensor in record.weights)
    print(len(plan.layers[plan.microbatches[0]]), weights, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_a_model_of_7_billion_parameters_is_planned_in_little_memory():
    """27 GB of weights are planned in under 4 GB, most of it torch itself: nothing of the model's size is allocated."""
    recipe = str(RECIPES / "llama.py")

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PLAN_7B), recipe], capture_output=True, text=True, timeout=250
    )

    assert done.returncode == 0, done.stderr
    layers, weights, rss = map(int, done.stdout.split())
    assert layers == 34
    assert weights == 4 * 6_738_415_616
    assert rss < 4 << 30
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 >= rss
