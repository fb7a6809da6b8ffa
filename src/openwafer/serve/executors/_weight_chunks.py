"""A layer as it lies in its files, a few long stretches of bytes, and where in a slot they go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from openwafer.base import MIB, PAGE_BYTES, round_up
from openwafer.serve.model import Checkpoint, ModelConfig, Precision, layer_plan

CHUNK_BYTES = 8 * MIB
"""Read at once.

Chunks end where pages do. A direct read that ended elsewhere would have the kernel ask the disk for one page more, in a
request of its own; with that, a quarter of a virtual disk's bandwidth was lost (benchmarks/serve_streaming.py).
"""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of one tensor: where they begin in their chunk, how they are stored, and where they go in the slot."""

    start: int
    nbytes: int
    stored: torch.dtype
    place: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of a file that are read at once; its parts follow one another without a gap."""

    path: Path
    offset: int
    parts: tuple[Part, ...]

    @property
    def nbytes(self) -> int:
        """CHUNK_BYTES at most."""
        return self.parts[-1].start + self.parts[-1].nbytes


def slot_places(config: ModelConfig, precision: Precision) -> tuple[dict[str, int], int]:
    """Where in a slot each of a layer's tensors begins, on a page, and how many bytes a slot has."""
    places, end = {}, 0
    for name, plan in layer_plan(config, 0).items():
        places[name] = end
        end += round_up(plan.elements * precision.compute.itemsize, PAGE_BYTES)
    return places, end


def slot_tensors(flat: torch.Tensor, config: ModelConfig, precision: Precision) -> dict[str, torch.Tensor]:
    """A layer's tensors in a slot of bytes."""
    places, _ = slot_places(config, precision)
    tensors = {}
    for name, plan in layer_plan(config, 0).items():
        nbytes = plan.elements * precision.compute.itemsize
        tensors[name] = flat[places[name] : places[name] + nbytes].view(precision.compute).view(plan.shape)
    return tensors


def layer_chunks(checkpoint: Checkpoint, precision: Precision, layer: int) -> list[Chunk]:
    """What must be read to fill a slot with a layer, file by file, each from its beginning to its end."""
    places, _ = slot_places(checkpoint.config, precision)
    sources = []
    for name, plan in layer_plan(checkpoint.config, layer).items():
        place = places[name]
        for source, shape in plan.sources:
            sources.append((checkpoint.tensors[source], place))
            place += torch.Size(shape).numel() * precision.compute.itemsize
    sources.sort(key=lambda source: (source[0].path, source[0].offset))

    chunks: list[Chunk] = []
    parts: list[Part] = []
    path, begin, end, limit = Path(), 0, 0, 0
    for stored, place in sources:
        done = 0
        while done < stored.nbytes:
            at = stored.offset + done
            # Whole numbers, so that a part can be cast without its neighbours.
            room = (limit - at) // stored.dtype.itemsize * stored.dtype.itemsize
            if (stored.path, at) != (path, end) or room <= 0:
                if parts:
                    chunks.append(Chunk(path, begin, tuple(parts)))
                path, begin, parts = stored.path, at, []
                end, limit = at, at - at % PAGE_BYTES + CHUNK_BYTES
                continue
            nbytes = min(room, stored.nbytes - done)
            parts.append(Part(at - begin, nbytes, stored.dtype, place))
            place += nbytes // stored.dtype.itemsize * precision.compute.itemsize
            done += nbytes
            end = at + nbytes
    chunks.append(Chunk(path, begin, tuple(parts)))
    return chunks
