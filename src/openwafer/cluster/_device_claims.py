"""What the systems of one process hold of a GPU and of the host for it: budgets and pinned regions."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import torch

from openwafer.base import PAGE_BYTES, PlanError, format_bytes, logger, round_up

cuda: Any = torch.cuda  # most of it has no types

CONTEXT_BYTES = 768 << 20
"""Of a GPU's memory, what the driver and the libraries of one process take outside PyTorch's allocator. Assumed."""

_lock = threading.Lock()
_needs: Counter[int] = Counter()
_caps: Counter[int] = Counter()
_pins: Counter[int] = Counter()


class Claim:
    """A system's share of a GPU.

    need_bytes: what the plan predicts for it. cap_bytes: what it may allocate, enforced by PyTorch's allocator; None:
    whatever there is. Systems in one process share one allocator, so that their needs and their caps add up.
    """

    def __init__(self, index: int, role: str, need_bytes: int, cap_bytes: int | None) -> None:
        self.index = index
        self.role = role
        self.need_bytes = need_bytes
        self.cap_bytes = cap_bytes

    def take(self) -> None:
        """Raises PlanError if the GPU has less memory free than the plan needs."""
        free, total = cuda.mem_get_info(self.index)
        where = f"cuda:{self.index} ({cuda.get_device_name(self.index)})"
        with _lock:
            needed = _needs[self.index] + self.need_bytes
            check_room(where, self.role, needed, free + cuda.memory_reserved(self.index), total)
            _needs[self.index] = needed
            self._cap(+1, total)

    def release(self) -> None:
        """Give the share back; the cap is that of the systems which stay."""
        with _lock:
            _needs[self.index] -= self.need_bytes
            self._cap(-1, cuda.mem_get_info(self.index)[1])

    def _cap(self, sign: int, total: int) -> None:
        if self.cap_bytes is None:
            return
        _caps[self.index] += sign * self.cap_bytes
        allowed = _caps[self.index]
        cuda.set_per_process_memory_fraction(min(1.0, allowed / total) if allowed else 1.0, self.index)


def check_room(where: str, role: str, need_bytes: int, free_bytes: int, total_bytes: int) -> None:
    """Raises PlanError if what a role, and those before it in its process, need on a device is not free there."""
    if need_bytes > free_bytes:
        raise PlanError(
            f"{role} needs {format_bytes(need_bytes)} on {where}, with the systems before it in its process, but only "
            f"{format_bytes(free_bytes)} of its {format_bytes(total_bytes)} are free; end what else uses it, or name what a "
            "system may have (--system-memory), so that the planner looks for a plan that fits, use a smaller batch or more "
            "GPUs"
        )


class PinnedRegions:
    """Regions of the host's memory that the driver keeps in place, so that copies run beside everything else.

    Regions start on pages and never overlap unless they are equal; systems that are threads share them. Where the driver
    refuses, copies work all the same, but the program waits for them.
    """

    def __init__(self) -> None:
        self._own: dict[int, int] = {}
        self._refused = False

    def add(self, address: int, nbytes: int) -> None:
        """Pin a region unless it is already."""
        if address in self._own or self._refused:
            return
        with _lock:
            if not _pins[address]:
                runtime: Any = cuda.cudart()
                if int(
                    runtime.cudaHostRegister(address, round_up(nbytes, PAGE_BYTES), 1)
                ):  # 1: for every context
                    self._refused = True
                    logger("device").warning(
                        "the driver pins no more host memory (%s at once refused): copies will hold up the program",
                        format_bytes(nbytes),
                    )
                    return
            _pins[address] += 1
        self._own[address] = nbytes

    def release(self) -> None:
        """Let go of every region, before its memory goes."""
        with _lock:
            for address in self._own:
                _pins[address] -= 1
                if not _pins[address]:
                    cuda.cudart().cudaHostUnregister(address)
        self._own.clear()
