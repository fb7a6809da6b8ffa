"""One confined worker, from this side: what it is told, and what is believed of what it says."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import torch

from openwafer.base import MIB, InputError, RoleLost, StallError, format_bytes
from openwafer.compat.inputs._slots import Slots
from openwafer.sandbox import TIERS, Confined, Confinement, Refused, printable, start

PROGRAM = Path(__file__).with_name("_client_worker.py")
_HEADER = struct.Struct("<cQ")
_BATCH, _STEP, _SLOT = struct.Struct("<QI"), struct.Struct("<Q"), struct.Struct("<I")
STATE_BYTES = 64 * MIB
"""The longest state of a loader that is kept."""
_LONGEST = {b"J": 1 << 10, b"B": _BATCH.size, b"S": STATE_BYTES + _STEP.size, b"E": 1 << 18}


class Happened(msgspec.Struct, frozen=True):
    """What a worker says when its pipeline fails; the text of a stranger."""

    type: str
    text: str
    trace: str
    errno: int | None
    filename: str | None


class _Told(msgspec.Struct, frozen=True):
    restartable: bool


class Work(ABC):
    """What a worker is to make: results in order, each in a slot."""

    what: str
    """Whose code it is, in the words of errors."""
    result: str
    slot_bytes: int
    first: int
    """The number of the first result."""

    @abstractmethod
    def order(self) -> dict[str, object]:
        """What the program is told, as plain values."""

    @abstractmethod
    def blobs(self) -> list[bytes]:
        """What it loads, unread by us."""

    @abstractmethod
    def view(self, index: int, slot: memoryview) -> Mapping[str, torch.Tensor]:
        """Result `index`, in the slot itself."""

    def keep_state(self, step: int, blob: bytes) -> bool:
        """Keep a state that the worker sends; False if none is wanted."""
        return False


class Worker:
    """A started worker. One thread calls `take`; states and log lines arrive on a thread of this object."""

    def __init__(
        self,
        name: str,
        python: str,
        work: Work,
        confinement: Confinement,
        *,
        ahead: int,
        log: Callable[[str], None],
        tiers: Sequence[str] = TIERS,
    ) -> None:
        """Start it. Raises InputError, RoleError and StorageError as `sandbox.start` and `Slots` do."""
        self.name, self.work = name, work
        self.restartable: bool | None = None
        self._next = work.first  # that `take` gives
        self._promised = work.first  # that the worker gives
        self._log, self._confinement = log, confinement
        self._ready: deque[tuple[int, int]] = deque()
        self._lent: set[int] = set()  # slots that are not the worker's to fill
        self._held: int | None = None
        self._refused: list[Refused] = []
        self._failure: Exception | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._slots = Slots(ahead + 1, work.slot_bytes)
        ours, theirs = socket.socketpair()
        self._channel = ours
        try:
            with theirs:
                self._process: Confined = start(
                    [python, "-I", "-u", str(PROGRAM), str(theirs.fileno()), str(self._slots.descriptor)],
                    dataclasses.replace(confinement, trusted=(*confinement.trusted, str(PROGRAM))),
                    environment={"LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
                    descriptors=[theirs.fileno(), self._slots.descriptor],
                    shared_bytes=self._slots.nbytes,
                    on_line=lambda line: log(f"{name} | {line}"),
                    on_refused=self._hear_refused,
                    tiers=tiers,
                )
        except BaseException:
            ours.close()
            self._slots.close()
            raise
        self._slots.close()
        self.layers = self._process.layers
        threading.Thread(target=self._listen, name=name, daemon=True).start()

    def take(
        self, index: int, timeout_s: float, stalled: Callable[[float], None], stall_s: float
    ) -> Mapping[str, torch.Tensor]:
        """The worker's result `index`, the next one; its tensors are valid until the next call.

        `stalled` is told every `stall_s` seconds how long this call has waited. Raises InputError if the pipeline failed or
        broke a rule, RoleLost if the worker was killed from outside, StallError after `timeout_s`, when it is killed too.
        """
        assert index == self._next
        begun = time.monotonic()
        told_s = 0.0
        with self._changed:
            self._release_held()
            while not self._ready:
                if self._failure is not None:
                    raise self._failure
                waited_s = time.monotonic() - begun
                if waited_s >= timeout_s:
                    self._process.kill()
                    raise StallError(
                        f"{self.name} did not deliver {self.work.result} {index} within {timeout_s:.0f} s and was ended; look "
                        "for data that blocks or code that computes too much, or allow more time"
                    )
                if waited_s - told_s >= stall_s:
                    told_s = waited_s
                    stalled(waited_s)
                self._changed.wait(min(timeout_s - waited_s, stall_s - (waited_s - told_s)))
            _, self._held = self._ready.popleft()
        self._next += 1
        return self.work.view(index, self._slots.slot(self._held))

    @property
    def next(self) -> int:
        return self._next

    def close(self) -> None:
        """End the worker. A `take` that waits raises RoleLost."""
        self._closing = True
        self._process.kill()
        self._process.wait()

    def _release_held(self) -> None:
        if self._held is None:
            return
        slot, self._held = self._held, None
        self._lent.discard(slot)
        frame = _HEADER.pack(b"R", _SLOT.size) + _SLOT.pack(slot)
        try:
            sent = self._channel.send(frame, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # it has ended; whoever listens knows why
        if sent != len(frame):  # thousands of these have room: it does not read them, and would block us
            self._process.kill()

    # --- what it says -----------------------------------------------------------------------------------

    def _listen(self) -> None:
        failure: Exception
        try:
            self._tell()
            while True:
                self._take_frame()
        except _Broken as error:
            self._process.kill()
            self._process.wait()
            failure = InputError(
                f"{self.name} was ended because it sent something that is no {self.work.result} ({error}); only the program "
                "that the appliance starts may write to the descriptors that it was started with"
            )
        except _Failed as error:
            self._process.wait(5.0)  # its last lines, then its end
            self._process.kill()
            failure = self._explained(error.happened)
        except (EOFError, OSError):
            failure = self._lost()
        finally:
            self._channel.close()
        if not self._closing:
            self._log(str(failure))
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def _tell(self) -> None:
        assert self.layers is not None
        blobs = self.work.blobs()
        told = {
            **self.work.order(),
            "slots": self._slots.count,
            "stride": self._slots.stride,
            "may_fork": self.layers.tier != "landlock",
            "blobs": len(blobs),
        }
        for kind, payload in ((b"O", msgspec.json.encode(told)), *((b"D", blob) for blob in blobs)):
            self._channel.sendall(_HEADER.pack(kind, len(payload)))
            self._channel.sendall(payload)

    def _take_frame(self) -> None:
        kind, length = _HEADER.unpack(self._exactly(_HEADER.size))
        if length > _LONGEST.get(kind, -1):
            raise _Broken(f"a message of kind {kind!r} and {length} bytes")
        payload = self._exactly(length)
        try:
            if kind == b"J":
                self.restartable = msgspec.json.decode(payload, type=_Told).restartable
            elif kind == b"B":
                self._take_batch(*_BATCH.unpack(payload))
            elif kind == b"S":
                (step,) = _STEP.unpack_from(payload)
                if not self.work.keep_state(step, payload[_STEP.size :]):
                    raise _Broken(f"a state of step {step}, which nobody asked for")
            else:
                raise _Failed(msgspec.json.decode(payload, type=Happened))
        except (msgspec.DecodeError, struct.error) as error:
            raise _Broken(str(error)) from error

    def _take_batch(self, index: int, slot: int) -> None:
        with self._changed:
            if index != self._promised or slot >= self._slots.count or slot in self._lent:
                raise _Broken(f"{index} in slot {slot}, where {self._promised} and a free slot were due")
            self._promised += 1
            self._lent.add(slot)
            self._ready.append((index, slot))
            self._changed.notify_all()

    def _exactly(self, length: int) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            part = self._channel.recv(min(length - len(parts), MIB))
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)

    # --- why it ended -----------------------------------------------------------------------------------

    def _hear_refused(self, refused: Refused) -> None:
        self._refused.append(refused)
        self._log(
            f"{self.name}: refused {refused.what}: the {self.work.what} {refused.why}, which an input worker may not do"
        )

    def _explained(self, happened: Happened) -> InputError:
        for line in happened.trace.splitlines():
            self._log(f"{self.name} | {printable(line)}")
        text = f"{printable(happened.type)}: {printable(happened.text)[:2000]}"
        return InputError(f"{self.name}: the {self.work.what} failed: {text}; {self._advice(happened)}")

    def _advice(self, happened: Happened) -> str:
        limits, mounts = self._confinement.limits, self._confinement.mounts
        if happened.type == "MemoryError" or "can't allocate memory" in happened.text:
            have = format_bytes(limits.memory_bytes)
            return f"an input worker may use {have} of memory: let the {self.work.what} hold less, or give it more"
        if happened.errno in (errno.ENOSPC, errno.EFBIG):
            return f"an input worker has {format_bytes(limits.scratch_bytes)} of scratch space"
        if happened.errno == errno.EPERM and self._refused and not happened.filename:
            last = self._refused[-1]
            tried = f"the {self.work.what} {last.why} ({last.what})"
            return f"{tried}, which an input worker may not do; read from mounted folders instead"
        filename = printable(happened.filename or "")
        seen = [*(mount.path for mount in mounts), *self._confinement.trusted]
        if filename.startswith("/") and happened.errno in (
            errno.ENOENT,
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
        ):
            asked = (
                ", ".join(mount.path + (" (writable)" if mount.writable else "") for mount in mounts)
                or "none"
            )
            if happened.errno == errno.EROFS:
                return f"{filename} lies outside of what an input worker may write (mounts: {asked}); write below /tmp"
            if not any(filename.startswith(path.rstrip("/") + "/") for path in seen):
                return f"{filename} lies outside of what an input worker may see (mounts: {asked}); add its folder to mount_dirs"
            if happened.errno == errno.EACCES and os.getuid() == 0:
                return f"where the appliance runs as root, input workers run as nobody: let everybody read {filename}"
        return "the lines above in the job's log name the place"

    def _lost(self) -> Exception:
        ended = self._process.wait(2.0)
        if ended is None:
            self._process.kill()
            return InputError(
                f"{self.name} closed its channel to the appliance and was ended; the {self.work.what} must leave it alone"
            )
        if ended.contained:
            return InputError(
                f"{self.name} was contained: {ended.why}; let the {self.work.what} use less, or allow it more"
            )
        if ended.asked or -ended.code in (signal.SIGKILL, signal.SIGTERM):
            return RoleLost(
                f"{self.name} was lost: {ended.why} (by the operator, or by the kernel for want of memory)"
            )
        return InputError(
            f"{self.name} was lost: {ended.why} in the middle of its work; see its last lines in the job's log"
        )


class _Broken(Exception):  # noqa: N818
    """The worker does not keep to what was agreed."""


class _Failed(Exception):  # noqa: N818
    def __init__(self, happened: Happened) -> None:
        self.happened = happened
