"""The process of a client's job: `python -m openwafer.compat.appliance JOB_FOLDER ...`, started by the management node."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from openwafer.appliance import JobFolder, JobSpec
from openwafer.base import WaferError
from openwafer.compat.appliance._callers import only
from openwafer.compat.appliance._door import open_server
from openwafer.compat.appliance._requests import ACCOUNT_VARIABLE, REQUEST
from openwafer.compat.appliance._service import generic_handler
from openwafer.compat.appliance._wheel import wheel

_THREADS = 64
"""Each long poll and each transfer holds one."""
_LEAVE_S = 10.0


def main() -> int:
    """Serve one client until it leaves, or until the node ends the job. The exit status is that of a command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("compile_dir", type=Path, nargs="?")
    parser.add_argument("--memoryx", default="ram")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    folder = JobFolder(options.folder)
    ended = threading.Event()
    why = []

    def interrupted(number: int, frame: FrameType | None) -> None:
        why.append("the job was ended")
        ended.set()

    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    try:
        service = _service(folder, options)
        appliance = wheel().appliance.DESCRIPTOR.services_by_name["Appliance"]
        admit = only(os.getuid(), int(os.environ.get(ACCOUNT_VARIABLE) or os.getuid()))
        server, port = open_server([generic_handler(appliance, service, admit)], "127.0.0.1:0", _THREADS)
    except WaferError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    service.tell("ingress", address=f"127.0.0.1:{port}")
    service.tell("state", state="running", message="its coordinator waits for the client")
    service.done_or(ended)
    if why:
        service.cancel(why[0])
    service.close()
    server.stop(grace=2.0).wait()
    service.end(_LEAVE_S)
    failure = service.monitor.failure
    if failure is not None:
        service.tell("result", status="failed", message=failure.message)
        return 1
    if why:
        return 130
    service.tell("result", status="succeeded", message="the client has left")
    return 0


def _service(folder: JobFolder, options: argparse.Namespace) -> Any:
    """Of the job's kind. Imported here: a compile job needs no cluster, and each of them takes seconds to import."""
    spec = msgspec.json.decode(folder.spec.read_bytes(), type=JobSpec)
    cluster = wheel().cluster
    data = folder.file(f"source/{REQUEST}").read_bytes()
    if spec.kind == "compile":
        from openwafer.compat.appliance._compiler import Compiler

        request = cluster.CompileJobRequest.FromString(data)
        return Compiler(folder, request, options.compile_dir, options.memoryx.partition(":")[0])
    from openwafer.compat.appliance._coordinator import Coordinator, Place

    request = cluster.ExecuteJobRequest.FromString(data)
    return Coordinator(folder, request, Place(options.memoryx, options.threads))


if __name__ == "__main__":
    sys.exit(main())
