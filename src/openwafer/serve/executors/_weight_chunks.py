"""A layer as it lies in its files, a few long stretches of bytes, and where in a slot they go."""

from __future__ import annotations

from collections.abc import Mapping
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
class Pages:
    """Whole pages of a file that lie in one tensor: where they begin in the file, and where in the slot, on a page, too."""

    offset: int
    nbytes: int
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

    def split(self, compute: torch.dtype) -> tuple[list[Pages], list[Part]]:
        """The pages that can be read to their places as they are stored, and the parts that are left, which share theirs."""
        straight: list[Pages] = []
        left: list[Part] = []
        for part in self.parts:
            begin = self.offset + part.start
            first, end = round_up(begin, PAGE_BYTES), begin + part.nbytes
            last = end - end % PAGE_BYTES
            if part.stored != compute or (part.place - begin) % PAGE_BYTES or last <= first:
                left.append(part)
                continue
            straight.append(Pages(first, last - first, part.place + first - begin))
            for start, stop in ((begin, first), (last, end)):
                if start < stop:
                    place = part.place + start - begin
                    left.append(Part(start - self.offset, stop - start, part.stored, place))
        return straight, left


def slot_bytes(config: ModelConfig, precision: Precision) -> int:
    """How many bytes a slot has: room for a layer, wherever in a page each tensor begins.

    A MiB at least, with which `new_tensor` begins on a page.
    """
    sizes = (plan.elements * precision.compute.itemsize for plan in layer_plan(config, 0).values())
    return max(MIB, sum(round_up(nbytes, PAGE_BYTES) + PAGE_BYTES for nbytes in sizes))


def slot_places(checkpoint: Checkpoint, precision: Precision, layer: int, direct: bool) -> dict[str, int]:
    """Where in a slot each of a layer's tensors begins.

    That is on a page; with `direct` as far behind one as in the file, where numbers may lie, so that the disk can write
    pages of the file to where they belong.
    """
    places, end = {}, 0
    for name, plan in layer_plan(checkpoint.config, layer).items():
        begin = checkpoint.tensors[plan.sources[0][0]].offset % PAGE_BYTES
        places[name] = end + (begin if direct and begin % precision.compute.itemsize == 0 else 0)
        end = round_up(places[name] + plan.elements * precision.compute.itemsize, PAGE_BYTES)
    return places


def slot_tensors(
    flat: torch.Tensor, config: ModelConfig, precision: Precision, places: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """A layer's tensors in a slot of bytes."""
    tensors = {}
    for name, plan in layer_plan(config, 0).items():
        nbytes = plan.elements * precision.compute.itemsize
        tensors[name] = flat[places[name] : places[name] + nbytes].view(precision.compute).view(plan.shape)
    return tensors


def layer_chunks(
    checkpoint: Checkpoint, precision: Precision, layer: int, places: Mapping[str, int]
) -> list[Chunk]:
    """What must be read to fill a slot with a layer, file by file, each from its beginning to its end."""
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
