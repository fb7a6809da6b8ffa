"""Every recipe: it learns, is as large as it says, starts layer by layer, and is one static graph."""

from __future__ import annotations

import ast
import json
import pickle
import re

import pytest
import torch
from recipe_cases import FOLDER, RECIPES, build, load, losses, split

from openwafer.artifact import TensorType
from openwafer.base import InputError
from openwafer.graph import capture
from openwafer.train.data import structure
from openwafer.train.optim import AdamW


@pytest.fixture(params=RECIPES)
def name(request):
    return request.param


def documented_sizes(name):
    """Size -> parameters, as the docstring of the recipe lists them."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "recipe")
    rows = re.findall(r"^(\w+) .*?([\d,]+) parameters", ast.get_docstring(function), re.MULTILINE)
    return {size: int(count.replace(",", "")) for size, count in rows}


def test_five_steps_on_one_batch_lower_the_loss(name):
    """The least that a training run must do; plain PyTorch, so it tests the recipe and nothing else."""
    config = load(name, size="tiny")

    found = losses(config, build(name, size="tiny"), config.train().batch(0), steps=5)

    assert found[-1] < found[0]


@pytest.mark.parametrize(
    ("name", "size", "parameters"),
    [(name, *row) for name in RECIPES for row in documented_sizes(name).items()],
)
def test_a_size_has_as_many_parameters_as_its_docstring_says(name, size, parameters):
    """On the meta device, where 70 billion parameters take no memory."""
    with torch.device("meta"):
        model = load(name, size=size).model()

    assert sum(weight.numel() for weight in model.parameters()) == parameters


def test_every_size_is_documented(name):
    """What `size=` takes is what the docstring lists, as the error message shows."""
    with pytest.raises(InputError) as error:
        load(name, size="huge")

    listed = str(error.value).rsplit("one of ", 1)[1].split(", ")
    assert listed == list(documented_sizes(name))


def test_a_model_starts_module_by_module(name):
    """The Trainer never builds the whole model: it makes one module with parameters at a time and resets it."""
    with torch.device("meta"):
        model = load(name, size="tiny").model()
    model.to_empty(device="cpu")
    for weight in model.parameters():
        torch.nn.init.constant_(weight, float("nan"))

    torch.manual_seed(0)
    for module in model.modules():
        if list(module.parameters(recurse=False)):
            module.reset_parameters()

    whole = build(name, size="tiny")
    for weight_name, weight in whole.named_parameters():
        reset = model.get_parameter(weight_name)
        assert reset.isfinite().all(), weight_name
        if weight.numel() > 100 and weight.std() > 0:
            torch.testing.assert_close(reset.std(), weight.std(), rtol=0.3, atol=0)
        elif not weight.std() > 0:
            assert torch.equal(reset, weight), weight_name


def test_an_untrained_model_predicts_nothing_yet(name):
    """Initialisation that is too wide shows as a first loss well above that of equal guesses, ln(classes)."""
    config = load(name, size="tiny")
    model, batch = build(name, size="tiny"), config.train().batch(0)
    args, kwargs, target = split(model, batch)

    with torch.no_grad():
        output = model(*args, **kwargs)

    uniform = config.loss(torch.zeros_like(output), target)
    assert abs(float(config.loss(output, target)) - float(uniform)) < 0.5


def test_evaluation_draws_nothing_at_random(name):
    """Two evaluations of the same weights must agree, whatever the generator's state."""
    config = load(name, size="tiny")
    model = build(name, size="tiny").eval()
    args, kwargs, target = split(model, config.eval().batch(0))

    with torch.no_grad():
        torch.manual_seed(1)
        first = model(*args, **kwargs)
        torch.manual_seed(2)
        second = model(*args, **kwargs)

    assert torch.equal(first, second)
    for metric in config.metrics.values():
        assert metric(first, target).shape == ()


def test_a_step_is_one_static_graph_with_a_gradient_for_every_parameter(name):
    """Captured from the meta device: nothing is allocated, and no weight is left out of the update."""
    config = load(name, size="tiny")
    batch = config.train().batch(0)
    with torch.device("meta"):
        model = config.model()
    keys = list(batch) if isinstance(batch, dict) else [f"[{place}]" for place in range(len(batch))]
    types = {
        key: TensorType(str(dtype).removeprefix("torch."), shape)
        for key, (_, dtype, shape) in zip(keys, structure(batch), strict=True)
    }

    def step(module, call, inputs):
        whole = dict(inputs) if isinstance(batch, dict) else tuple(inputs.values())
        args, kwargs, target = split(module, whole)
        output = call(*args, **kwargs)
        return config.loss(output, target), {key: f(output, target) for key, f in config.metrics.items()}

    graph = capture(model, step, types, samples=4, rule=AdamW(lr=1e-3))

    assert set(graph.gradients) == {weight for weight, _ in model.named_parameters()}
    assert set(graph.new_weights) == set(graph.gradients)
    assert set(graph.metrics) == set(config.metrics)


def test_a_config_prints_whole_and_as_json(name):
    """A run is one complete, printable config; a resumed run compares it with the stored one."""
    config = load(name, size="tiny", steps=7)

    described = config.describe()

    assert json.loads(json.dumps(described)) == described == load(name, size="tiny", steps=7).describe()
    assert described != load(name, size="tiny", steps=8).describe()
    assert "steps: 7" in str(config)
    assert "lr: " in str(config)
    assert "0x" not in str(config)


def test_data_and_model_travel_to_other_processes(name):
    """Roles in processes get the factories and the data pickled."""
    config = load(name, size="tiny")

    source = pickle.loads(pickle.dumps(config.train()))
    factory = pickle.loads(pickle.dumps(config.model))

    assert structure(source.batch(3)) == structure(config.train().batch(3))
    assert isinstance(factory(), torch.nn.Module)


def test_training_and_evaluation_batches_are_alike(name):
    """One compiled step serves both."""
    config = load(name, size="tiny")

    train, evaluation = config.train(), config.eval()

    assert structure(train.batch(0)) == structure(evaluation.batch(0))
    assert evaluation.steps_per_epoch >= config.eval_batches


@pytest.mark.parametrize("name", ["gpt", "llama", "bert", "vit"], indirect=True)
def test_clipping_is_an_option(name):
    """It costs a pause before the update, so it is not the default."""
    rule = load(name, size="tiny").describe()["optimizer"]

    clipped = load(name, size="tiny", clip="1.0").describe()["optimizer"]

    assert rule["kind"] == "AdamW"
    assert clipped == {"kind": "ClipByGlobalNorm", "rule": rule, "max_norm": 1.0}


def test_overrides_reach_the_run(name):
    """Also those that are 0 or shorter than the warmup: they are refused or obeyed, never replaced."""
    config = load(name, size="tiny", steps=1, batch=3, lr=0.0, seed=5)

    assert (config.steps, config.seed, config.train().batch_size) == (1, 5, 3)
    before = build(name, size="tiny")
    first, second = losses(config, before, config.train().batch(0), steps=2)
    assert first == second
    with pytest.raises(InputError, match="steps is 0"):
        load(name, size="tiny", steps=0)
