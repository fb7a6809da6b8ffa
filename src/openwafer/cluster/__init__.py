"""The roles of the cluster: MemoryX, SwarmX, System, input worker, and the coordinator of a job."""

from openwafer.cluster._calibrate import measure_bodies, measure_disks
from openwafer.cluster._coordinator import CheckpointDone, Coordinator, StepDone, encode_extra
from openwafer.cluster._device_open import check_device, device_memory, has_own_memory
from openwafer.cluster._hosts import Hosts
from openwafer.cluster._hosts_agent import serve_host
from openwafer.cluster._hosts_token import read_token
from openwafer.cluster._inputs import BatchFunction
from openwafer.cluster._job import Job
from openwafer.cluster._matmul import choose_kernels
from openwafer.cluster._messages import SaveCheckpoint, Span, Step

__all__ = [
    "BatchFunction",
    "CheckpointDone",
    "Coordinator",
    "Hosts",
    "Job",
    "SaveCheckpoint",
    "Span",
    "Step",
    "StepDone",
    "check_device",
    "choose_kernels",
    "device_memory",
    "encode_extra",
    "has_own_memory",
    "measure_bodies",
    "measure_disks",
    "read_token",
    "serve_host",
]
