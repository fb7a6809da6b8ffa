"""Opening a model: what it takes, what is refused, and what a closed executor says."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from serve_models import CASES, Sequences, prompt, save_model

from openwafer.base import GIB, MIB, EngineError, InputError, PlanError
from openwafer.serve.executors import (
    BLOCK_TOKENS,
    ResidentExecutor,
    memory_budget,
    open_executor,
    resident_plan,
)
from openwafer.serve.model import Checkpoint, ModelConfig, Precision, Rope, make_demo, model_bytes

LLAMA_8B = ModelConfig(
    family="llama",
    vocabulary=128256,
    hidden=4096,
    intermediate=14336,
    layers=32,
    heads=32,
    heads_kv=8,
    head_dim=128,
    norm_epsilon=1e-5,
    context_tokens=131072,
    rope=Rope(theta=500000.0),
    windows=(None,) * 32,
    tied=False,
    qkv_bias=False,
    output_bias=False,
    mlp_bias=False,
    qk_norm=False,
    bos_token=128000,
    eos_tokens=(128009,),
)
BF16 = Precision(torch.bfloat16)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("demo"), layers=2, hidden=64)


@pytest.mark.parametrize("quantise", ["none", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_the_plan_says_what_the_model_takes(tmp_path, case, quantise):
    """To the byte: sizes come from the same names and shapes as the tensors do."""
    save_model(tmp_path, case, torch.bfloat16)
    checkpoint, precision = Checkpoint(tmp_path), Precision(torch.bfloat16, quantise)

    executor = ResidentExecutor(checkpoint, precision, blocks=3)

    plan = resident_plan(checkpoint.config, precision, 2 * GIB, blocks=3)
    assert executor.nbytes == plan.weight_bytes + plan.cache_bytes


def test_llama_8b_has_its_published_size():
    """8,030,261,248 parameters of two bytes; 128 KiB of keys and values a token."""
    assert model_bytes(LLAMA_8B, BF16) == 2 * 8_030_261_248
    plan = resident_plan(LLAMA_8B, BF16, 64 * GIB, blocks=1)
    assert plan.block_bytes == BLOCK_TOKENS * 128 * 1024


def test_the_cache_gets_what_the_weights_leave():
    """All of it, in whole blocks; and never more than 64 full contexts."""
    plan = resident_plan(LLAMA_8B, BF16, 32 * GIB)

    assert 0 <= plan.budget_bytes - plan.total_bytes < plan.block_bytes
    assert resident_plan(LLAMA_8B, BF16, 10**15).blocks == 64 * 1024


def test_a_model_that_does_not_fit_says_what_would():
    """16 GB of weights in 12 GiB: half the bytes, streamed weights, or more memory."""
    with pytest.raises(PlanError) as refusal:
        resident_plan(LLAMA_8B, BF16, 12 * GIB)

    text = str(refusal.value)
    assert "as bfloat16 does not fit: weights 15 GiB, a KV cache of 2048 tokens 256 MiB" in text
    assert "there are 12 GiB" in text
    assert "int8 weights (" in text
    assert "weight streaming" in text


def test_only_what_fits_is_offered():
    """int8 does not fit either; float32 may become bfloat16; a cache that is too large may be smaller."""
    with pytest.raises(PlanError) as refusal:
        resident_plan(LLAMA_8B, BF16, 4 * GIB)
    assert "int8" not in str(refusal.value)
    with pytest.raises(PlanError, match=r"bfloat16 \(1"):
        resident_plan(LLAMA_8B, Precision(torch.float32), 20 * GIB)
    with pytest.raises(PlanError, match=r"a KV cache of \d\d+ blocks"):
        resident_plan(LLAMA_8B, BF16, 20 * GIB, blocks=1000)


def test_a_refusal_names_memory_that_suffices():
    """With so much, it opens."""
    with pytest.raises(PlanError) as refusal:
        resident_plan(LLAMA_8B, BF16, GIB)

    gib = float(str(refusal.value).rpartition(" or ")[2].removesuffix(" GiB of memory"))
    assert resident_plan(LLAMA_8B, BF16, round((gib + 0.1) * GIB)).blocks >= 2048 // BLOCK_TOKENS


def test_without_a_word_the_budget_is_what_is_free_less_a_reserve(monkeypatch):
    """A tenth, and 512 MiB at least, for everything else on the machine."""
    cpu = torch.device("cpu")
    for free, budget in ((100 * GIB, 90 * GIB), (2 * GIB, 1.5 * GIB)):
        monkeypatch.setattr(
            "openwafer.serve.executors._memory.available_memory_bytes", lambda free=free: free
        )
        assert memory_budget(cpu, None) == budget
    assert memory_budget(cpu, 5 * MIB) == 5 * MIB
    monkeypatch.setattr("openwafer.serve.executors._memory.available_memory_bytes", lambda: None)
    with pytest.raises(PlanError, match="say how much the model may take"):
        memory_budget(cpu, None)


@pytest.mark.parametrize("dtype", ["auto", "bf16", "float16", "fp32", "int8"])
def test_every_dtype_opens_and_answers(demo, dtype):
    """The demo is stored in bfloat16, and every dtype finds tokens of its vocabulary."""
    executor = open_executor(demo, execution="resident", dtype=dtype, device="cpu", blocks=4)

    logits = Sequences(executor).run({"a": prompt(9)})["a"]

    assert logits.isfinite().all()
    assert logits.std() > 0.5
    executor.close()
    executor.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"execution": "sideways"}, "'sideways' is no way to run a model"),
        ({"dtype": "int3"}, "'int3' is no dtype to serve in; choose auto, bfloat16"),
        ({"device": "abacus"}, "'abacus' is no device"),
        ({"device": "meta"}, "'meta' cannot serve a model"),
        ({"device": "cuda:99"}, "'cuda:99' is not there: torch finds"),
        ({"blocks": 0}, "a KV cache of 0 blocks holds nothing"),
    ],
)
def test_words_that_mean_nothing_are_refused(demo, options, says):
    """With the words that would do."""
    with pytest.raises(InputError, match=says):
        open_executor(demo, **options)


def test_a_limit_that_is_too_small_is_refused_before_loading(demo):
    """No byte of weights is read for it."""
    seen = []

    with pytest.raises(PlanError, match="does not fit"):
        open_executor(
            demo, execution="resident", memory_bytes=MIB, progress=lambda *report: seen.append(report)
        )

    assert not seen


def test_a_batch_that_fails_is_an_engine_error(demo):
    """A token beyond the vocabulary is the engine's fault; the executor says so instead of a traceback of torch's."""
    executor = open_executor(demo, blocks=4)
    batch = Sequences(executor).batch({"a": [1, 2]})

    with pytest.raises(EngineError, match="a batch of 2 tokens of 1 sequences failed on cpu"):
        executor.submit(dataclasses.replace(batch, tokens_T=torch.tensor([1, 9999])))
    with pytest.raises(EngineError, match="no batch was submitted"):
        executor.collect()
    executor.close()
    with pytest.raises(EngineError, match="was closed"):
        executor.submit(batch)


def test_an_unused_cache_takes_no_memory(demo):
    """Pages come when they are first written: a cache of 1 GiB grows the process by less than a tenth of it."""

    def resident_bytes():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    before = resident_bytes()
    checkpoint = Checkpoint(demo)
    blocks = GIB // (resident_plan(checkpoint.config, BF16, 10 * GIB, blocks=1).block_bytes)
    executor = ResidentExecutor(checkpoint, BF16, blocks)

    assert executor.nbytes > 0.9 * GIB
    assert resident_bytes() - before < GIB // 10
