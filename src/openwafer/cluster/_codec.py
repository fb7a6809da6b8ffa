"""Jobs as bytes, for roles in processes of their own."""

from __future__ import annotations

import threading

import msgspec

from openwafer.cluster._job import Job

# Made here, while one thread imports this module: msgspec looks into a type's fields when it first decodes the type, and
# two role threads that did so at the same time crashed or hung.
_JOB = msgspec.msgpack.Decoder(Job)

# CPython 3.11 counts the depth of `ast.parse` for all threads together: two at once may end in a SystemError.
parsing = threading.Lock()


def encode_job(job: Job) -> bytes:
    """The job as msgpack."""
    return msgspec.msgpack.encode(job)


def decode_job(data: bytes) -> Job:
    """Read a job, its plan's bodies parsed. Any thread may."""
    job = _JOB.decode(data)
    with parsing:
        _ = job.plan.body  # parsed here and kept by the plan
    return job
