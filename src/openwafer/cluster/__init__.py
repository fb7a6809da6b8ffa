"""The roles of the cluster: MemoryX, SwarmX, System, input worker, and the coordinator of a job."""

from openwafer.cluster._calibrate import measure_bodies, measure_disk
from openwafer.cluster._coordinator import CheckpointDone, Coordinator, StepDone, encode_extra
from openwafer.cluster._inputs import BatchFunction
from openwafer.cluster._job import Job
from openwafer.cluster._matmul import choose_kernels
from openwafer.cluster._messages import SaveCheckpoint, Span, Step

__all__ = [
    "BatchFunction",
    "CheckpointDone",
    "Coordinator",
    "Job",
    "SaveCheckpoint",
    "Span",
    "Step",
    "StepDone",
    "choose_kernels",
    "encode_extra",
    "measure_bodies",
    "measure_disk",
]
