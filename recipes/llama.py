"""Llama: a decoder with RMSNorm, rotary positions, grouped-query attention and a gated MLP.

Legend: B samples, S positions, D width, H heads, K key and value heads, d width of a head, V vocabulary.
Sources: Touvron et al., "Llama 2" (2023), and Grattafiori et al., "The Llama 3 Herd of Models" (2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Subset

from openwafer.base import InputError
from openwafer.train._config import LocalCluster, RunConfig
from openwafer.train.data import (
    BatchSource,
    ByteText,
    MapDataset,
    TokenFile,
    TokenHdf5,
    from_dataset,
    python_stdlib,
)
from openwafer.train.optim import AdamW, UpdateRule, WarmupCosine, clip_by_global_norm

IGNORED = -100
"""The label of a position that the loss leaves out."""

Split = Literal["train", "eval"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The size of a model."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    vocabulary: int = 256
    tied: bool = False
    """Whether the head uses the embedding's weight."""
    theta: float = 10_000.0
    """Base of the rotary wavelengths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How a size is trained by default."""

    seq_len: int
    batch: int
    steps: int
    lr: float


LLAMA3 = 128_256
"""Tokens of the Llama 3 tokenizer."""

SIZES = {
    "tiny": (
        Shape(layers=2, width=32, heads=4, kv_heads=2, hidden=96),
        Schedule(seq_len=32, batch=4, steps=20, lr=3e-3),
    ),
    "small": (
        Shape(layers=6, width=256, heads=8, kv_heads=4, hidden=704),
        Schedule(seq_len=256, batch=8, steps=200, lr=5e-4),
    ),
    "1b": (
        Shape(
            layers=16,
            width=2048,
            heads=32,
            kv_heads=8,
            hidden=8192,
            vocabulary=LLAMA3,
            tied=True,
            theta=500_000.0,
        ),
        Schedule(seq_len=2048, batch=32, steps=10_000, lr=4e-4),
    ),
    "7b": (
        Shape(layers=32, width=4096, heads=32, kv_heads=32, hidden=11_008, vocabulary=32_000),
        Schedule(seq_len=4096, batch=32, steps=10_000, lr=3e-4),
    ),
    "8b": (
        Shape(
            layers=32,
            width=4096,
            heads=32,
            kv_heads=8,
            hidden=14_336,
            vocabulary=LLAMA3,
            theta=500_000.0,
        ),
        Schedule(seq_len=4096, batch=32, steps=10_000, lr=3e-4),
    ),
    "70b": (
        Shape(
            layers=80,
            width=8192,
            heads=64,
            kv_heads=8,
            hidden=28_672,
            vocabulary=LLAMA3,
            theta=500_000.0,
        ),
        Schedule(seq_len=4096, batch=32, steps=10_000, lr=1.5e-4),
    ),
}


def recipe(
    size: str = "small",
    data: str | None = None,
    dtype: str | None = None,
    seq_len: int | None = None,
    steps: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    clip: float | None = None,
    seed: int = 0,
) -> RunConfig:
    """Train a Llama on the source of the Python standard library as bytes, or on your own tokens.

        wafer train recipes/llama.py
        wafer train recipes/llama.py size=1b data=~/tokens dtype=uint32

    size   layers x width, heads (key and value heads), vocabulary
    tiny    2 x 32,    4 (2),      256  41,120 parameters; for tests
    small   6 x 256,   8 (4),      256  4,558,080 parameters; minutes on two CPU cores
    1b     16 x 2048, 32 (8),  128,256  1,235,814,400 parameters; Llama 3.2 1B, its head tied
    7b     32 x 4096, 32 (32),  32,000  6,738,415,616 parameters; Llama 2 7B
    8b     32 x 4096, 32 (8),  128,256  8,030,261,248 parameters; Llama 3 8B
    70b    80 x 8192, 64 (8),  128,256  70,553,706,496 parameters; Llama 3 70B

    data: token ids in `.bin` or `.npy` (see TokenFile) or in `.h5` or `.hdf5` (see TokenHdf5), or text, which
    is read as bytes; a file or a folder of files. A folder's `train` and `val` (folders, or files such as
    `train.bin` and `val.bin`) are the two parts; without them the last twentieth is kept for evaluation.
    dtype: of the ids in `.bin` files without a side file. HDF5 samples have a seq_len of their own.
    clip: largest global norm of the gradients. Off by default: a clipped update has to wait for the
    gradients of all layers, an unclipped one starts with the first.
    """
    if size not in SIZES:
        raise InputError(f"there is no size {size!r} of this recipe; take one of {', '.join(SIZES)}")
    shape, schedule = SIZES[size]
    seq_len = schedule.seq_len if seq_len is None else seq_len
    batch = schedule.batch if batch is None else batch
    steps = schedule.steps if steps is None else steps
    lr = schedule.lr if lr is None else lr
    rate = WarmupCosine(peak=lr, warmup_steps=max(1, steps // 10), steps=max(2, steps), end=lr / 10)
    optimizer: UpdateRule = AdamW(lr=rate, betas=(0.9, 0.95), weight_decay=0.1, decay="matrices")
    return RunConfig(
        name=f"llama-{size}",
        model=partial(Llama, shape),
        train=partial(tokens, data, dtype, "train", seq_len, batch, shape.vocabulary, seed),
        eval=partial(tokens, data, dtype, "eval", seq_len, batch, shape.vocabulary, seed),
        loss=next_token_loss,
        optimizer=clip_by_global_norm(optimizer, clip) if clip else optimizer,
        steps=steps,
        eval_every=max(1, steps // 4),
        eval_batches=4,
        checkpoint_every=max(1, steps // 2),
        seed=seed,
        cluster=LocalCluster(execution="weight_streaming"),
    )


def next_token_loss(logits_BSV: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Cross entropy of the next token in nats: a mean over each sample's labels, then over the samples.

    A mean over all labels of the batch would depend on how the batch is cut into microbatches and shared
    among systems whenever samples mask different numbers of labels; this one does not.
    """
    labels_BS = batch["labels"]
    losses_BS = F.cross_entropy(
        logits_BSV.float().flatten(0, 1), labels_BS.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(labels_BS)
    labelled_B = (labels_BS != IGNORED).sum(dim=1).clamp(min=1)
    return (losses_BS.sum(dim=1) / labelled_B).mean()


class Llama(nn.Module):
    """Tokens in, logits of the next token out."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_width, self.theta = shape.width // shape.heads, shape.theta
        self.embedding = Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=1e-5)
        self.head = None if shape.tied else Linear(shape.width, shape.vocabulary)

    def forward(self, input_ids: Tensor) -> Tensor:
        """input_ids: int64 [B, S], of any S. Returns logits [B, S, V]."""
        rotation = rotary(input_ids.shape[1], self.head_width, self.theta, input_ids.device)
        x_BSD = self.embedding(input_ids)
        for block in self.blocks:
            x_BSD = block(x_BSD, rotation)
        x_BSD = self.norm(x_BSD)
        logits_BSV: Tensor = F.linear(x_BSD, self.embedding.weight) if self.head is None else self.head(x_BSD)
        return logits_BSV


class Block(nn.Module):
    """Attention and a gated MLP, each on a normalised copy of the stream that it adds to."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.width, eps=1e-5)
        self.attention = Attention(shape.width, shape.heads, shape.kv_heads)
        self.mlp_norm = nn.RMSNorm(shape.width, eps=1e-5)
        self.mlp = GatedMlp(shape.width, shape.hidden)

    def forward(self, x_BSD: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD), rotation)
        x_BSD = x_BSD + self.mlp(self.mlp_norm(x_BSD))
        return x_BSD


class Attention(nn.Module):
    """Causal attention in which groups of query heads share a key and a value head."""

    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, width // heads
        self.q = Linear(width, heads * self.head_width)
        self.k = Linear(width, kv_heads * self.head_width)
        self.v = Linear(width, kv_heads * self.head_width)
        self.out = Linear(heads * self.head_width, width)

    def forward(self, x_BSD: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        B, S, _ = x_BSD.shape
        q_BHSd = self.q(x_BSD).view(B, S, self.heads, self.head_width).transpose(1, 2)
        k_BKSd = self.k(x_BSD).view(B, S, self.kv_heads, self.head_width).transpose(1, 2)
        v_BKSd = self.v(x_BSD).view(B, S, self.kv_heads, self.head_width).transpose(1, 2)
        q_BHSd, k_BKSd = rotate(q_BHSd, rotation), rotate(k_BKSd, rotation)
        k_BHSd = k_BKSd.repeat_interleave(self.heads // self.kv_heads, dim=1)
        v_BHSd = v_BKSd.repeat_interleave(self.heads // self.kv_heads, dim=1)
        mixed_BHSd = F.scaled_dot_product_attention(q_BHSd, k_BHSd, v_BHSd, is_causal=True)
        out_BSD: Tensor = self.out(mixed_BHSd.transpose(1, 2).reshape(B, S, -1))
        return out_BSD


class GatedMlp(nn.Module):
    """SwiGLU: one projection, through SiLU, gates another."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = Linear(width, hidden)
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width)

    def forward(self, x_BSD: Tensor) -> Tensor:
        out_BSD: Tensor = self.down(F.silu(self.gate(x_BSD)) * self.up(x_BSD))
        return out_BSD


def rotary(seq_len: int, head_width: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 [S, d]: position s turns pair i by s / theta ** (2 i / d).

    Pair i is elements i and i + d/2 of a head. Source: Su et al., "RoFormer" (2021).
    """
    exponents = torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width
    positions_S = torch.arange(seq_len, device=device, dtype=torch.float32)
    angles = positions_S[:, None] * (1.0 / theta**exponents)[None, :]
    angles_Sd = torch.cat((angles, angles), dim=-1)
    return angles_Sd.cos(), angles_Sd.sin()


def rotate(x_BHSd: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn every pair of every head by its position's angle."""
    cos_Sd, sin_Sd = (table.to(x_BHSd.dtype) for table in rotation)
    first, second = x_BHSd.chunk(2, dim=-1)
    return x_BHSd * cos_Sd + torch.cat((-second, first), dim=-1) * sin_Sd


class Linear(nn.Linear):
    """A linear layer without bias that starts from a normal distribution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)


class Embedding(nn.Embedding):
    """A table of vectors that starts from a normal distribution."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.02)


def tokens(
    data: str | None, dtype: str | None, split: Split, seq_len: int, batch: int, vocabulary: int, seed: int
) -> BatchSource:
    """Batches of `input_ids` and `labels`, int64 [B, S]; labels are the tokens that follow."""
    samples: MapDataset
    if data is None:
        samples = python_stdlib(seq_len, split)
    else:
        folder = Path(data).expanduser()
        parts = {"train": _part(folder, "train"), "eval": _part(folder, "val")}
        own = parts[split] if all(parts.values()) else None
        samples = _read(own or folder, dtype, seq_len, vocabulary)
        if own is None:
            held_out = max(batch, len(samples) // 20)
            cut = len(samples) - held_out
            if cut < batch:
                raise InputError(
                    f"{data} holds {len(samples)} samples, but training and evaluation need a batch "
                    f"of {batch} each; add tokens or lower batch"
                )
            kept = range(cut) if split == "train" else range(cut, len(samples))
            samples = Subset(samples, kept)  # type: ignore[arg-type]  # any map-style dataset will do
    return from_dataset(
        samples, batch, seed=seed, shuffle=split == "train", collate=partial(ids_and_labels, vocabulary)
    )


def ids_and_labels(vocabulary: int, samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of samples; those without labels lend them their own next tokens."""
    ids_BS = torch.stack([sample["input_ids"] for sample in samples])
    low, high = int(ids_BS.min()), int(ids_BS.max())
    if low < 0 or high >= vocabulary:
        raise InputError(
            f"the data holds token {low if low < 0 else high}, but this size has a vocabulary of "
            f"{vocabulary}; take a larger size, or data of another tokenizer"
        )
    if any("labels" not in sample for sample in samples):
        return {"input_ids": ids_BS[:, :-1], "labels": ids_BS[:, 1:]}
    return {"input_ids": ids_BS, "labels": torch.stack([sample["labels"] for sample in samples])}


def _part(folder: Path, name: str) -> Path | None:
    paths = (folder / f"{name}{suffix}" for suffix in ("", ".bin", ".npy", ".h5", ".hdf5"))
    return next((path for path in paths if path.exists()), None)


def _read(path: Path, dtype: str | None, seq_len: int, vocabulary: int) -> MapDataset:
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    if any(file.suffix in (".h5", ".hdf5") for file in files):
        found = TokenHdf5(path)
        masked = {"labels", "attention_mask"} <= set(found.keys)
        return TokenHdf5(path, ignore_index=IGNORED) if masked else found
    ids = [file for file in files if file.suffix in (".bin", ".npy")]
    if ids:
        return ConcatDataset[Any](
            [TokenFile(file, seq_len, dtype=dtype, vocab_size=vocabulary) for file in ids]
        )
    return ByteText(path, seq_len)
