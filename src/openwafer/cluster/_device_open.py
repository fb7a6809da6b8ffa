"""From the word that a user writes to the device of one system."""

from __future__ import annotations

import torch

from openwafer.artifact import Plan
from openwafer.base import InputError
from openwafer.cluster._device import Device, HostDevice
from openwafer.cluster._device_claims import CONTEXT_BYTES, Claim
from openwafer.cluster._device_cuda import CudaEngine
from openwafer.cluster._device_engine import CopyingEngine
from openwafer.cluster._device_rings import OwnMemory
from openwafer.cluster._job import system_role

KINDS = "cpu, cuda (systems take the GPUs in turn) or cuda:N (all on that GPU)"


def has_own_memory(device: str) -> bool:
    """Whether systems on this device compute in memory that is not the host's, as their plan must know.

    device: `cpu`, `cuda`, `cuda:N`, or `copying`: the CPU treated as such a device, for tests. Raises InputError for any
    other. Asks no driver, so that runs can be planned where there is no GPU.
    """
    kind, colon, number = device.partition(":")
    if kind not in ("cpu", "copying", "cuda") or (colon and (kind != "cuda" or not number.isdecimal())):
        raise InputError(f"device is {device!r}; write {KINDS}")
    return kind != "cpu"


def check_device(device: str) -> None:
    """Raises InputError if systems cannot compute on `device` on this machine."""
    has_own_memory(device)
    if not device.startswith("cuda"):
        return
    count = torch.cuda.device_count()
    if not count:
        built = torch.version.cuda
        why = "PyTorch finds no GPU" if built else f"PyTorch {torch.__version__} is built without CUDA"
        raise InputError(
            f"device is {device!r}, but {why} on this machine; write cpu, or run where nvidia-smi lists a GPU and "
            "torch.cuda.is_available() is true"
        )
    if _gpu(device, 0, count) >= count:
        raise InputError(
            f"device is {device!r}, but this machine has {count} GPU(s), cuda:0 to cuda:{count - 1}; write {KINDS}"
        )


def device_memory(device: str, systems: int) -> int | None:
    """Bytes that each of `systems` systems can have on this machine's GPUs at most, if they share them evenly.

    None for a device that is no GPU, and where there is none: then a plan needs a budget from elsewhere.
    """
    count = torch.cuda.device_count() if device.startswith("cuda") else 0
    if not count or _gpu(device, 0, count) >= count:
        return None
    used = [_gpu(device, index, count) for index in range(systems)]
    return min(
        (torch.cuda.get_device_properties(gpu).total_memory - CONTEXT_BYTES) // used.count(gpu)
        for gpu in set(used)
    )


def open_device(device: str, plan: Plan, index: int, cap_bytes: int | None) -> Device:
    """The device of system `index` of a plan. cap_bytes: what it may allocate there; None: whatever there is.

    Raises InputError if this machine has no such device. Entering the device raises PlanError if it has less memory than
    the plan needs.
    """
    check_device(device)
    if device == "cpu":
        return HostDevice()
    if device == "copying":
        return OwnMemory(CopyingEngine())
    count = torch.cuda.device_count()
    gpu = _gpu(device, index, count)
    claim = Claim(gpu, system_role(index), plan.systems[index].memory.peak, cap_bytes)
    return OwnMemory(CudaEngine(gpu, claim))


def _gpu(device: str, index: int, count: int) -> int:
    _, colon, number = device.partition(":")
    return int(number) if colon else index % count
