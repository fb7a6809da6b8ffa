"""The one error tree. An exception means that the caller can act; `assert` means our bug.

WaferError
├── InputError            a path, option, file or data set that the user gave is wrong
│   ├── RunFolderError    the run folder is in use, or holds another run
│   ├── JobNotFoundError  the appliance has no such job, or not for this user
│   └── UnsupportedModelError  the checkpoint's model needs something that serving does not have
├── CaptureError          the module's step is not a static graph
├── PlanError             the job does not fit, or the plan contradicts itself
├── CheckpointError       a checkpoint or a MemoryX file is missing, torn or of another model
├── NumericsError         a loss or a gradient is NaN or infinite
├── StorageError          the disk is full or refuses a write
├── CirhError             a client's program (CIRH) cannot be read, or asks for what is not run here
├── CslError              a CSL program is wrong; `csl` adds the places in it
├── FabricError           a program did what the wafer forbids
│   └── StalledError      nothing on the fabric can go on, and the host waits
├── EngineError           what runs a served model failed; answers that were under way are lost
│   └── QueueFullError    more requests wait than the server lets wait
├── ContextLengthError    a prompt and its answer are longer than the model can attend to
└── RoleError             a role of the cluster failed
    ├── RoleLost          a role's process ended without saying why
    └── StallError        a role waited longer than it may
"""

from __future__ import annotations


class WaferError(Exception):
    """Base of every error that a caller can act on; the text says what, where, why and what next."""


class InputError(WaferError):
    """A path, option, file or data set that the user gave is wrong."""


class RunFolderError(InputError):
    """The run folder is in use by another run, or holds a run of another configuration."""


class JobNotFoundError(InputError):
    """The appliance has no job of this id, or none that this user may see."""


class UnsupportedModelError(InputError):
    """The checkpoint's model needs something that serving does not have."""


class CaptureError(WaferError):
    """The module's step cannot be captured as one static graph."""


class PlanError(WaferError):
    """The job does not fit the systems it was given, or a plan contradicts itself."""


class CheckpointError(WaferError):
    """A checkpoint or a MemoryX store is missing, torn, truncated or of another model."""


class NumericsError(WaferError):
    """A loss or a gradient became NaN or infinite."""


class StorageError(WaferError):
    """The disk is full or refuses a write."""


class CirhError(WaferError):
    """A client's program (CIRH) cannot be read, or asks for an operation that is not run here."""


class CslError(WaferError):
    """A CSL program is wrong, or cannot be read as one."""


class FabricError(WaferError):
    """A program did on the fabric what the machine forbids, or what cannot be meant."""


class StalledError(FabricError):
    """Nothing on the fabric can go on without the host, and the host waits for the fabric."""


class EngineError(WaferError):
    """What runs a served model failed; answers that were under way are lost."""


class QueueFullError(EngineError):
    """More requests wait than the server lets wait; the same request may succeed later."""

    def __init__(self, text: str, retry_after_s: float = 1.0) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s
        """An estimate of the seconds until a place is free."""


class ContextLengthError(WaferError):
    """A prompt and the answer it asks for are longer than the model, or its cache, can hold."""


class RoleError(WaferError):
    """A role of the cluster (system, MemoryX, input worker) failed."""


class RoleLost(RoleError):  # noqa: N818 - reads as the event it is
    """A role's process ended without saying why (killed, out of memory)."""


class StallError(RoleError):
    """A role waited for another longer than it may."""
