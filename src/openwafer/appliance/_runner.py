"""Runs the command of one job, and outlives the management node: started by path, so that it loads nothing of ours.

    python -I _runner.py <job folder>

It locks `alive` for its life and writes its process id and the number of the start there, reads what to start from
`start.json`, gives the command `log` as its output, passes SIGINT and SIGTERM on to it, and writes `exit` when the command
and all that it started are gone: a job's resources are free then, and only then. Everything that the command leaves behind
becomes a child of this process, is given a while to end, and is killed. If this process is killed, the kernel kills the
command. If `start.json` tells of a later start, the node gave this one up, as it does when a host is cut off: this process
kills its command then.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType

LEAVE_S = 15.0
"""For what the command left behind: roles that notice its death, and give shared memory back."""
HEED_S = 2.0
"""Between looks whether this start is still the latest; a new start waits longer than that for the job's lock."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main(folder: str) -> int:
    """Run the job in `folder` once. Returns the status that its `exit` file says."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whoever started this may block signals in its threads
    alive = os.open(os.path.join(folder, "alive"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.flock(alive, fcntl.LOCK_EX)
    with open(os.path.join(folder, "start.json"), encoding="utf-8") as file:
        start = json.load(file)
    told = os.pread(alive, 64, 0).split()
    if len(told) == 2 and int(told[1]) >= start["number"]:
        return 0  # a node died while it started us, and its successor did the same: the other one was first
    partial = _reserve(folder)
    os.ftruncate(alive, 0)
    os.pwrite(alive, b"%d %d\n" % (os.getpid(), start["number"]), 0)
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if libc is not None:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    log = os.open(os.path.join(folder, "log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    pending: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def forward(number: int, frame: FrameType | None) -> None:
        if child is None:
            pending.append(number)
        else:
            _pass_on(child, number)

    for passed in (signal.SIGINT, signal.SIGTERM):
        signal.signal(passed, forward)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    parent = os.getpid()

    def before_exec() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)

    began = time.time()
    try:
        child = subprocess.Popen(
            start["command"],
            cwd=start["folder"],
            env=start["environment"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
            preexec_fn=before_exec,
        )
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(log, f"cannot start {error.filename}: {error.strerror}\n".encode())
        status = 127 if error.errno == errno.ENOENT else 126
    else:
        for number in pending:
            _pass_on(child, number)
        threading.Thread(target=_heed, args=(folder, start["number"], child.pid), daemon=True).start()
        status = child.wait()
    _reap()
    ended = {"status": status, "began": began, "ended": time.time(), "start": start["number"]}
    _settle(folder, partial, json.dumps(ended).encode())
    return status


def _heed(folder: str, number: int, group: int) -> None:
    """Kill the command once the node has started the job anew, elsewhere."""
    while True:
        time.sleep(HEED_S)
        try:
            with open(os.path.join(folder, "start.json"), encoding="utf-8") as file:
                latest = json.load(file)["number"]
        except (OSError, ValueError):
            continue  # storage that is away for a while says nothing of the job
        if latest > number:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            return


def _pass_on(child: subprocess.Popen[bytes], number: int) -> None:
    """To the whole group, as a terminal does: a shell waits for what it runs, and that has to be told."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def _reserve(folder: str) -> int:
    """A file that `exit` is made of, with its bytes taken already: a disk that fills up cannot keep a job from ending."""
    fd = os.open(
        os.path.join(folder, "exit.partial"), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644
    )
    os.write(fd, b" " * 256)
    os.fsync(fd)
    return fd


def _settle(folder: str, partial: int, told: bytes) -> None:
    while True:
        try:
            os.pwrite(partial, told.ljust(256), 0)
            os.fsync(partial)
            os.replace(os.path.join(folder, "exit.partial"), os.path.join(folder, "exit"))
            return
        except FileNotFoundError:
            return  # the folder was removed: nobody asks any more
        except OSError:
            time.sleep(1.0)


def _reap() -> None:
    """Wait until nothing that the command started is left; what stays too long is killed."""
    end = time.monotonic() + LEAVE_S
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid:
            continue
        if time.monotonic() > end:
            for left in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(left, signal.SIGKILL)
        time.sleep(0.02)


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


if __name__ == "__main__":
    sys.exit(0 if main(sys.argv[1]) == 0 else 1)
