"""Jobs as bytes, for roles in processes of their own."""

from __future__ import annotations

import msgspec

from openwafer.cluster._job import Job


def encode_job(job: Job) -> bytes:
    """The job as msgpack."""
    return msgspec.msgpack.encode(job)


def decode_job(data: bytes) -> Job:
    """Read a job."""
    return msgspec.msgpack.decode(data, type=Job)
