"""A Hugging Face checkpoint's tensors: where each lies, and reading them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from openwafer.base import MIB, CheckpointError, InputError, StorageError, UnsupportedModelError, logger
from openwafer.cluster.store import read_header
from openwafer.serve.model._config import ModelConfig
from openwafer.serve.model._names import TensorPlan, embedding_plan, head_plan, layer_plan
from openwafer.serve.model._pages import new_tensor

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_CHUNK_BYTES = 16 * MIB
_FLOATS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies: `nbytes` bytes from `offset` of a file, row by row."""

    path: Path
    offset: int
    nbytes: int
    dtype: torch.dtype
    shape: tuple[int, ...]


@final
class Checkpoint:
    """The tensors of a checkpoint folder, by name, all of them checked against its configuration.

    Files are read with `pread` and never mapped: what was read is this process's own memory and nothing else is, and a
    file that is cut short meanwhile is an error instead of a signal.

    Raises InputError if nothing is there, CheckpointError if a file or a tensor is missing, cut short or of another shape,
    UnsupportedModelError for models and dtypes that are not served.
    """

    config: ModelConfig
    tensors: dict[str, Stored]
    """By their names without `model.`; only those that the model uses."""
    dtype: torch.dtype
    """Of the embedding, which stands for the whole."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.config = ModelConfig.from_folder(self.folder)
        found = {name.removeprefix("model."): stored for name, stored in _open(self.folder).items()}
        self.tensors = {}
        for plan in _plans(self.config):
            for name, shape in plan.sources:
                self.tensors[name] = _checked(self.folder, found, name, shape)
        self.dtype = self.tensors["embed_tokens.weight"].dtype
        unused = sorted(
            name
            for name in found.keys() - self.tensors.keys()
            # old checkpoints store RoPE's frequencies, and some store a tied head a second time
            if not name.endswith("rotary_emb.inv_freq")
            and not (self.config.tied and name == "lm_head.weight")
        )
        if unused:
            logger("serve").warning(
                "tensors that the model does not use", names=unused[:8], count=len(unused)
            )

    def read(self, name: str, into: torch.Tensor) -> None:
        """Fill a tensor, of any float dtype and on any device, with a stored one of its shape."""
        stored = self.tensors[name]
        assert tuple(into.shape) == stored.shape, (name, into.shape, stored.shape)
        with _opened(stored.path) as file:
            if into.dtype == stored.dtype and into.device.type == "cpu" and into.is_contiguous():
                _read(file, stored.path, stored.offset, into)
                return
            row_bytes = stored.nbytes // stored.shape[0]
            rows = max(1, min(stored.shape[0], _CHUNK_BYTES // row_bytes))
            chunk = torch.empty((rows, *stored.shape[1:]), dtype=stored.dtype)
            for start in range(0, stored.shape[0], rows):
                part = chunk[: min(rows, stored.shape[0] - start)]
                _read(file, stored.path, stored.offset + start * row_bytes, part)
                into[start : start + len(part)].copy_(part)

    def load(self, plan: TensorPlan, dtype: torch.dtype, device: torch.device | str = "cpu") -> torch.Tensor:
        """One of our tensors in new memory, its sources' rows one after another."""
        whole = new_tensor(plan.shape, dtype, device)
        start = 0
        for name, shape in plan.sources:
            self.read(name, whole[start : start + shape[0]])
            start += shape[0]
        return whole


def _plans(config: ModelConfig) -> Iterator[TensorPlan]:
    yield embedding_plan(config)
    for layer in range(config.layers):
        yield from layer_plan(config, layer).values()
    yield from head_plan(config).values()


def _checked(folder: Path, found: dict[str, Stored], name: str, shape: tuple[int, ...]) -> Stored:
    if name not in found:
        hint = (
            "; if its head is the embedding, config.json must say tie_word_embeddings"
            if name == "lm_head.weight"
            else ""
        )
        raise CheckpointError(
            f"{folder} has no tensor {name!r} (with or without `model.`), which its config.json asks for; copy the "
            f"folder again, weights and config.json from one place{hint}"
        )
    stored = found[name]
    if stored.shape != shape:
        raise CheckpointError(
            f"{stored.path}: {name!r} has shape {list(stored.shape)}, and config.json asks for {list(shape)}; copy the "
            "folder again, weights and config.json from one place"
        )
    if stored.dtype not in _FLOATS.values():
        raise UnsupportedModelError(
            f"{stored.path}: {name!r} is stored as {str(stored.dtype).removeprefix('torch.')}, and only "
            f"{', '.join(_FLOATS)} can be served; take an unquantised checkpoint"
        )
    return stored


def _open(folder: Path) -> dict[str, Stored]:
    if (folder / _INDEX).is_file():
        return _from_index(folder / _INDEX)
    if (folder / _SINGLE).is_file():
        return _from_file(folder / _SINGLE)
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return _from_file(files[0])
    if files:
        raise InputError(
            f"{folder} has {len(files)} .safetensors files and no {_INDEX} that says which tensor is where; copy the "
            "index as well"
        )
    others = sorted(path.name for path in folder.glob("*.bin")) or sorted(
        path.name for path in folder.glob("*.gguf")
    )
    found = f"; {others[0]} cannot be served, convert it to safetensors" if others else ""
    raise InputError(f"there are no weights in {folder}: neither {_SINGLE} nor {_INDEX}{found}")


def _from_index(path: Path) -> dict[str, Stored]:
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        shards: dict[str, list[str]] = {}
        for name, file in places.items():
            if Path(file).name != file:
                raise ValueError(f"{file!r} is no plain file name")
            shards.setdefault(file, []).append(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no index of shards ({error}); copy it again") from None
    found: dict[str, Stored] = {}
    for file, names in shards.items():
        shard = path.parent / file
        if not shard.is_file():
            raise CheckpointError(
                f"{shard} is missing: one of {len(shards)} files that {path.name} names; copy it into the folder"
            )
        held = _from_file(shard)
        for name in names:
            if name not in held:
                raise CheckpointError(
                    f"{path} places {name!r} in {file}, which does not hold it; copy the folder again"
                )
            found[name] = held[name]
    return found


def _from_file(path: Path) -> dict[str, Stored]:
    header = read_header(path)
    return {
        name: Stored(
            path,
            header.data_at + entry.start,
            entry.stop - entry.start,
            getattr(torch, entry.type.dtype),
            entry.type.shape,
        )
        for name, entry in header.entries.items()
    }


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A file descriptor that is closed at the end."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be opened any more ({error.strerror}); put it back and load the model again"
        ) from error
    try:
        yield file
    finally:
        os.close(file)


def _read(file: int, path: Path, offset: int, into: torch.Tensor) -> None:
    """Fill a contiguous CPU tensor from a file."""
    view = into.view(-1).view(torch.uint8).numpy().data
    done = 0
    while done < len(view):
        try:
            count = os.preadv(file, [view[done : done + _CHUNK_BYTES]], offset + done)
        except OSError as error:
            raise StorageError(f"{path} cannot be read ({error.strerror}); check the disk") from error
        if count == 0:
            raise CheckpointError(f"{path} became shorter while it was read; copy it again")
        done += count
