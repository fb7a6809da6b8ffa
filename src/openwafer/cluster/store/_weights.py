"""Weights that others wrote, tensor by tensor."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, final

import torch

from openwafer.artifact import TensorType
from openwafer.base import CheckpointError, InputError
from openwafer.cluster.store._files import storage_errors
from openwafer.cluster.store._format import Entry, Header, read_entry, read_header
from openwafer.cluster.store._tensors import tensor_bytes, type_of

Rename = Callable[[str], str | None]
"""Maps a name of the source to the user's own; None leaves the tensor out."""

_Read = Callable[[tuple[int, int] | None], torch.Tensor]
"""From the rows that are wanted, None for all, to their values."""

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLES = ("model.safetensors", "pytorch_model.bin")
_WRAPPERS = ("state_dict", "model_state_dict", "model")


@final
class Weights(Mapping[str, torch.Tensor]):
    """A state dict that reads a tensor each time it is asked for one; `types` has dtypes and shapes."""

    types: dict[str, TensorType]

    def __init__(self, sources: Mapping[str, tuple[TensorType, _Read]]) -> None:
        self.types = {name: kind for name, (kind, _) in sources.items()}
        self._read = {name: read for name, (_, read) in sources.items()}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._read[name](None)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` of a tensor of at least one dim, without reading the others."""
        return self._read[name]((start, stop))

    def __contains__(self, name: object) -> bool:
        return name in self._read

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


def open_weights(source: Path | str | Mapping[str, torch.Tensor], rename: Rename | None = None) -> Weights:
    """Open weights that another program wrote.

    source: a transformers folder (sharded by an index, or a single file), one of our checkpoints, a
    `.safetensors` file, a file of `torch.save` (also one that wraps the state dict as `state_dict` or
    `model`), or a state dict. safetensors are read one tensor at a time; files of torch are mapped where
    their format allows. Entries that are no tensors are left out. Nothing in a file is executed.

    Raises InputError if nothing is there or `rename` maps two tensors to one name, CheckpointError if a file
    is missing or damaged.
    """
    sources = _from_mapping(source) if isinstance(source, Mapping) else _from_path(Path(source))
    if rename is None:
        return Weights(sources)
    renamed: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for name, value in sources.items():
        new = rename(name)
        if new is None:
            continue
        if new in renamed:
            raise InputError(
                f"`rename` maps {origin[new]!r} and {name!r} both to {new!r}; return None for one of them"
            )
        renamed[new], origin[new] = value, name
    return Weights(renamed)


_Sources = dict[str, tuple[TensorType, _Read]]


def _from_path(path: Path) -> _Sources:
    if path.is_file():
        return _from_file(path)
    if not path.is_dir():
        raise InputError(f"there are no weights at {path}: no such file or folder; check the path")
    for name in _INDEXES:
        if (path / name).is_file():
            return _from_index(path / name)
    for name in _SINGLES:
        if (path / name).is_file():
            return _from_file(path / name)
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise InputError(
            f"there are no weights in {path}: none of {', '.join((*_INDEXES, *_SINGLES))} and no "
            ".safetensors file; name the folder or file that holds them"
        )
    sources: _Sources = {}
    for file in files:
        found = _from_file(file)
        if both := sources.keys() & found.keys():
            raise InputError(f"{file} repeats {min(both)!r} of another file of its folder; name one file")
        sources.update(found)
    return sources


def _from_index(path: Path) -> _Sources:
    try:
        weight_map = json.loads(path.read_text())["weight_map"]
        shards: dict[str, list[str]] = {}
        for name, file in weight_map.items():
            if Path(file).name != file:
                raise ValueError(f"{file!r} is no plain file name")
            shards.setdefault(file, []).append(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no index of shards ({error}); copy it again") from None
    sources: _Sources = {}
    for file, names in shards.items():
        found = _from_file(path.parent / file)
        for name in names:
            if name not in found:
                raise CheckpointError(
                    f"{path} places {name!r} in {file}, which does not hold it; copy the folder again"
                )
            sources[name] = found[name]
    return sources


def _from_file(path: Path) -> _Sources:
    if path.suffix != ".safetensors":
        return _from_mapping(_torch_load(path))
    header = read_header(path)
    return {name: (entry.type, partial(_read, path, header, entry)) for name, entry in header.entries.items()}


def _read(path: Path, header: Header, entry: Entry, rows: tuple[int, int] | None) -> torch.Tensor:
    start, stop = rows or (0, 0)
    shape = entry.type.shape if rows is None else (stop - start, *entry.type.shape[1:])
    tensor = torch.empty(shape, dtype=getattr(torch, entry.type.dtype))
    offset = start * (entry.type.nbytes // max(entry.type.shape[0], 1)) if rows else 0
    read_entry(path, header, entry, tensor_bytes(tensor), offset)
    return tensor


def _from_mapping(values: Mapping[str, Any]) -> _Sources:
    return {
        name: (type_of(value), partial(_same, value))
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }


def _same(tensor: torch.Tensor, rows: tuple[int, int] | None) -> torch.Tensor:
    return tensor.detach() if rows is None else tensor.detach()[rows[0] : rows[1]]


def _torch_load(path: Path) -> Mapping[str, Any]:
    with storage_errors(path):
        try:
            loaded = _load(path)
        except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"{path} cannot be read as weights ({reason}); save it again with "
                "torch.save(module.state_dict(), ...) or as safetensors"
            ) from None
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, Mapping) or not any(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise CheckpointError(
            f"{path} holds a {type(loaded).__name__} without tensors, not a state dict; save "
            "module.state_dict() instead"
        )
    return loaded


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
    return torch.load(
        path, map_location="cpu", weights_only=True
    )  # files from before torch 1.6 cannot be mapped
