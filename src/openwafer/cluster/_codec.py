"""Jobs as bytes, for roles in processes of their own."""

from __future__ import annotations

import msgspec

from openwafer.cluster._job import Job

# Made here, while one thread imports this module: msgspec looks into a type's fields when it first decodes the type, and
# two role threads that did so at the same time crashed or hung.
_JOB = msgspec.msgpack.Decoder(Job)


def encode_job(job: Job) -> bytes:
    """The job as msgpack."""
    return msgspec.msgpack.encode(job)


def decode_job(data: bytes) -> Job:
    """Read a job. Any thread may."""
    return _JOB.decode(data)
