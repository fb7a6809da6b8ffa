"""Modules of many kinds, as people write them: each equals its plain PyTorch run on several clusters."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from equality_cases import (
    BATCH,
    SEQ,
    VOCABULARY,
    Case,
    Listed,
    as_captured,
    numbers,
    plain,
    quick,
    same_bits,
    spread_of,
    streamed,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

CLUSTERS = [
    ("weight_streaming", 1, "ram", None, False, ((BATCH,),)),
    ("weight_streaming", 2, "disk", 2, True, ((2, 2), (2, 2))),
    ("pipelined", 2, "ram", 4, False, ((4, 4),)),
]


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick():
        yield


class Residual(nn.Module):
    """A small residual network with pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.GroupNorm(2, 8), nn.SiLU())
            for _ in range(3)
        )
        self.narrow = nn.Conv2d(8, 12, 1, stride=2)
        self.head = nn.Linear(12, 8)

    def forward(self, x):
        x = F.max_pool2d(self.stem(x.view(-1, 1, 8, 8)), 2)
        for block in self.blocks:
            x = x + block(x)
        return self.head(F.adaptive_avg_pool2d(F.leaky_relu(self.narrow(x)), 1).flatten(1))


class Recurrent(nn.Module):
    """An LSTM and a GRU of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 12, num_layers=2, batch_first=True)
        self.gru = nn.GRU(12, 12, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, 8)

    def forward(self, x):
        x, _ = self.lstm(x.view(-1, 8, 8))
        x, last = self.gru(x)
        return self.head(torch.cat([last[0], last[1]], -1) + x.mean(1))


class Builtin(nn.Module):
    """torch's own transformer layers, encoder and decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 8, 8) * 0.1)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(8, 8)

    def forward(self, x):
        x = x.view(-1, 8, 8) + self.positions
        mask = nn.Transformer.generate_square_subsequent_mask(8)
        x = self.decoder(x, self.encoder(x), tgt_mask=mask, tgt_is_causal=True)
        return self.head(x[:, -1])


class Scales(nn.Module):
    """0-dim parameters, weight normalisation, einsum, a non-persistent buffer and a double one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Linear(64, 16))
        self.temperature = nn.Parameter(torch.tensor(0.7))
        self.mixer = nn.Parameter(torch.randn(2, 8, 8) * 0.3)
        self.prelu = nn.PReLU()
        self.register_buffer("shift", torch.linspace(0, 1, 16), persistent=False)
        self.register_buffer("weights", torch.linspace(0, 1, 16, dtype=torch.float64))
        self.head = nn.Bilinear(16, 16, 8)

    def forward(self, x):
        x = self.prelu(self.first(x)) * self.temperature.exp() + self.shift
        x = torch.einsum("bhi,hij->bhj", x.view(-1, 2, 8), self.mixer).flatten(1)
        return self.head(x, (x.double() * self.weights).float())


class Rotary(nn.Module):
    """Attention with rotary positions as complex numbers, and shared key heads."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16, padding_idx=0)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"norm": nn.RMSNorm(16), "qkv": nn.Linear(16, 32), "out": nn.Linear(16, 16)})
            for _ in range(2)
        )
        angles = torch.outer(torch.arange(SEQ).float(), 1.0 / 100 ** (torch.arange(4).float() / 4))
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles))
        self.head = nn.Linear(16, VOCABULARY)

    def turned(self, x):
        pairs = torch.view_as_complex(x.unflatten(-1, (4, 2)))
        return torch.view_as_real(pairs * self.turns).flatten(-2)

    def forward(self, input_ids, labels):
        x = self.embedding(input_ids)
        for layer in self.layers:
            q, k, v = layer["qkv"](layer["norm"](x)).split([16, 8, 8], -1)
            q, k, v = (t.unflatten(-1, (-1, 8)).transpose(1, 2) for t in (q, k, v))
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
            mixed = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v, is_causal=True)
            x = x + layer["out"](mixed.transpose(1, 2).flatten(2))
        return F.cross_entropy(self.head(x).flatten(0, 1), labels.flatten(), ignore_index=0)


class Experts(nn.Module):
    """A dense mixture of experts with top-2 routing by weights, and an auxiliary loss."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 16)
        self.gate = nn.Linear(16, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(4)
        )
        self.head = nn.Linear(16, 8)

    def forward(self, x, target):
        x = self.first(x)
        shares = self.gate(x).softmax(-1)
        best, index = shares.topk(2, -1)
        chosen = torch.zeros_like(shares).scatter(-1, index, best / best.sum(-1, keepdim=True))
        mixed = sum(chosen[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts))
        balance = (shares.mean(0) * (chosen > 0).float().mean(0)).sum() * 4
        return F.cross_entropy(self.head(x + mixed), target) + 0.01 * balance


class Checkpointed(nn.Module):
    """Blocks that PyTorch's own checkpointing runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16)) for _ in range(3)
        )
        self.head = nn.Linear(16, 8)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=False)
        return self.head(x)


class Nested(nn.Module):
    """A loss of several terms, with targets and weights in a dict batch, some entries unused."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(16, 16), nn.ELU(), nn.Linear(16, 16))
        self.classes = nn.Linear(16, 8)
        self.values = nn.Linear(16, 1)

    def forward(self, features, scale):
        x = self.trunk(features * scale[:, None])
        return {"classes": self.classes(x), "values": self.values(x).squeeze(-1)}


def _nested_loss(output, batch):
    per_sample = F.cross_entropy(output["classes"], batch["target"], reduction="none")
    return (per_sample * batch["weight"]).mean() + F.smooth_l1_loss(output["values"], batch["scale"])


def _token_loss_batches():
    generator = torch.Generator().manual_seed(8)
    ids = torch.randint(1, VOCABULARY, (10, BATCH, SEQ), generator=generator)
    return Listed([{"input_ids": entry, "labels": entry.clone()} for entry in ids])


def _nested_batches():
    generator = torch.Generator().manual_seed(9)
    return Listed(
        [
            {
                "features": torch.randn(BATCH, 16, generator=generator),
                "scale": torch.rand(BATCH, generator=generator),
                "target": torch.randint(8, (BATCH,), generator=generator),
                "weight": torch.rand(BATCH, generator=generator),
                "name_hash": torch.randint(99, (BATCH, 2), generator=generator),
            }
            for _ in range(10)
        ]
    )


def _padded_batches():
    """Sequences of different lengths, padded on the right; the mask is an input, padding has no label."""
    batches = []
    for batch in _token_loss_batches().batches:
        lengths = torch.arange(BATCH) % 5 + SEQ - 6
        mask = (torch.arange(SEQ) < lengths[:, None]).long()
        labels = batch["labels"].masked_fill(mask == 0, -100)
        batches.append({"input_ids": batch["input_ids"], "attention_mask": mask, "labels": labels})
    return Listed(batches)


def _hf(kind):
    import transformers as t

    shape = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    small = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "max_position_embeddings": SEQ,
    }
    heads = {"num_attention_heads": 4}
    if kind == "llama":
        return t.LlamaForCausalLM(t.LlamaConfig(num_key_value_heads=2, **heads, **small, **shape))
    if kind == "bert":
        quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        config = t.BertConfig(num_labels=8, **quiet, **heads, **small, **shape)
        return t.BertForSequenceClassification(config)
    return t.MistralForCausalLM(
        t.MistralConfig(num_key_value_heads=2, sliding_window=8, **heads, **small, **shape)
    )


def _classified():
    generator = torch.Generator().manual_seed(3)
    return Listed(
        [
            {
                "input_ids": batch["input_ids"],
                "attention_mask": batch["attention_mask"],
                "labels": torch.randint(8, (BATCH,), generator=generator),
            }
            for batch in _padded_batches().batches
        ]
    )


ZOO = {
    "residual": lambda: Case("residual", Residual(), numbers(64, 8), F.cross_entropy),
    "recurrent": lambda: Case("recurrent", Recurrent(), numbers(64, 8), F.cross_entropy),
    "builtin": lambda: Case("builtin", Builtin(), numbers(64, 8), F.cross_entropy),
    "scales": lambda: Case("scales", Scales(), numbers(64, 8), F.cross_entropy),
    "rotary": lambda: Case("rotary", Rotary(), _token_loss_batches(), None),
    "experts": lambda: Case("experts", Experts(), numbers(64, 8), None),
    "checkpointed": lambda: Case("checkpointed", Checkpointed(), numbers(64, 8), F.cross_entropy),
    "nested": lambda: Case("nested", Nested(), _nested_batches(), _nested_loss),
    "padded_llama": lambda: Case("padded_llama", _hf("llama"), _padded_batches(), None),
    "padded_bert": lambda: Case("padded_bert", _hf("bert"), _classified(), None),
    "windowed_mistral": lambda: Case("windowed_mistral", _hf("mistral"), _padded_batches(), None),
}


@cache
def zoo(name: str) -> Case:
    torch.manual_seed(0)
    return ZOO[name]()


@pytest.mark.parametrize(
    ("execution", "systems", "store", "microbatch", "recompute", "replicas"),
    CLUSTERS,
    ids=["one", "replicas", "stages"],
)
@pytest.mark.parametrize("name", ZOO)
def test_modules_as_people_write_them(
    name, execution, systems, store, microbatch, recompute, replicas, tmp_path
):
    """Ten steps, bit for bit; recurrent layers, which torch takes apart otherwise for a tracer, within the spread."""
    found = streamed(
        zoo(name),
        tmp_path,
        execution=execution,
        systems=systems,
        store=store,
        microbatch=microbatch,
        recompute=recompute,
    )

    if name == "recurrent":
        assert not spread_of(zoo(name)).outside(found)
    else:
        same_bits(found, plain(zoo(name), replicas, forward=as_captured))


class Regularised(nn.Module):
    """What a loss may need of the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 16)
        self.head = nn.Linear(16, 8)
        self.balance = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        return self.head(torch.tanh(self.first(x)))


@pytest.mark.parametrize(
    ("execution", "systems"), [("weight_streaming", 1), ("weight_streaming", 2), ("pipelined", 2)]
)
def test_a_loss_may_read_the_modules_weights(execution, systems, tmp_path):
    """A penalty on the weights, and a parameter that the loss alone uses: both learn, and neither is a constant."""
    torch.manual_seed(0)
    module = Regularised()

    def loss(logits, target):
        penalty = module.first.weight.square().sum() + module.head.weight.abs().sum()
        return F.cross_entropy(logits * module.balance.exp(), target) + 1e-3 * penalty

    case = Case("regularised", module, numbers(64, 8), loss)

    found = streamed(case, tmp_path, execution=execution, systems=systems)

    assert not spread_of(case).outside(found)
    assert not torch.equal(found.weights["balance"], case.initial["balance"])


class CheckpointedDropout(Checkpointed):
    """Both kinds of PyTorch's checkpointing, around dropout."""

    def forward(self, x):
        x = self.first(x)
        for index, block in enumerate(self.blocks):
            x = x + F.dropout(
                checkpoint(self._dropped, block, x, use_reentrant=bool(index % 2)), 0.2, self.training
            )
        return self.head(x)

    @staticmethod
    def _dropped(block, x):
        return F.dropout(block(x), 0.3)


def test_checkpointed_dropout_drops_once(tmp_path):
    """Recomputing is the plan's business: a module's own checkpoints change neither bits nor random numbers."""
    torch.manual_seed(0)
    case = Case("checkpointed_dropout", CheckpointedDropout(), numbers(64, 8), F.cross_entropy)

    kept = streamed(case, tmp_path / "kept", seed=3)
    again = streamed(case, tmp_path / "again", seed=3, recompute=True)
    case.module.forward = lambda x: _without_checkpoints(case.module, x)
    plainly = streamed(Case("plainly", case.module, case.data, case.loss), tmp_path / "plainly", seed=3)

    same_bits(again, kept)
    assert plainly.plan.bodies.keys() == kept.plan.bodies.keys()


def _without_checkpoints(module, x):
    x = module.first(x)
    for block in module.blocks:
        x = x + F.dropout(module._dropped(block, x), 0.2, module.training)
    return module.head(x)
