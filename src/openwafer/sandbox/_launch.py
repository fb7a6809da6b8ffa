"""The launcher: a small process that confines itself step by step and then becomes, or watches, the confined one.

caller -- this process: namespaces, view of files -- first process: limits, rights, Landlock, seccomp -- the program
          stays as its supervisor                    (only with namespaces; reaps)
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from openwafer.base import InputError
from openwafer.sandbox import _kernel as kernel
from openwafer.sandbox import _landlock as landlock
from openwafer.sandbox import _namespaces as namespaces
from openwafer.sandbox._confinement import Limits
from openwafer.sandbox._seccomp import Filter, Refusals
from openwafer.sandbox._spec import DEVICES, Spec, decode, open_places
from openwafer.sandbox._supervise import Report, Supervisor, Usage, usage_of, usage_of_everything

# What the machine tells everybody about itself; a process of its own namespace sees all of its own /proc instead.
_PROC_FILES = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/self", "/proc/filesystems")

_SPARE_PROCESSES = 64
"""Between where the supervisor ends who starts too many, and says so, and where the kernel refuses to start more."""


def main() -> None:
    """Read a Spec from standard input, run it, and report how it went."""
    with open(0, "rb", closefd=True) as file:
        spec = decode(file.read())
    os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)  # becomes 0
    report = Report(spec.report)
    try:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        tier, missing = _choose(spec)
        if tier is None:
            report.tell("unavailable", missing=missing)
            return
        _run(spec, tier, missing, report)
    except InputError as error:
        report.tell("failed", text=str(error), user=True)
    except (OSError, AssertionError) as error:
        report.tell("failed", text=f"{type(error).__name__}: {error}", user=False)


def _choose(spec: Spec) -> tuple[str | None, list[str]]:
    missing = []
    filters = _has_seccomp()
    if not filters:
        missing.append("seccomp: this kernel or machine does not have it")
    if "namespaces" in spec.tiers:
        why = namespaces.unavailable()
        if why is None and filters:
            return "namespaces", missing
        if why is not None:
            missing.append(f"namespaces: {why}")
    if "landlock" in spec.tiers:
        if landlock.version() and filters:
            return "landlock", missing
        if not landlock.version():
            missing.append("Landlock: this kernel does not have it")
    return ("none" if spec.confinement.unconfined else None), missing


def _has_seccomp() -> bool:
    """A filter of no length is refused as such, and not as something unknown."""
    if kernel.machine() not in kernel.AUDIT_ARCH:
        return False
    try:
        kernel.call("seccomp", 1, 0, None)
    except OSError as error:
        return error.errno == 14  # EFAULT
    return False


def _run(spec: Spec, tier: str, missing: list[str], report: Report) -> None:
    if tier == "namespaces":
        namespaces.enter()
    # 1. a child confines itself for good, says how, and goes on as the program
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        _become(spec, tier, theirs)
    theirs.close()
    for descriptor in spec.descriptors:
        os.close(descriptor)
    # 2. this process watches: with namespaces it sees the same files, and the child's processes in /proc
    said, listener = _receive(ours)
    if "failed" in said:
        os.waitpid(child, 0)
        report.tell("failed", text=said["failed"], user=said["user"])
        return
    report.tell("started", tier=tier, active=said["active"], missing=[*missing, *said["missing"]])
    measure: Callable[[], Usage] = usage_of_everything if tier == "namespaces" else lambda: usage_of(child)
    supervisor = Supervisor(
        child,
        spec.life,
        report,
        spec.confinement.limits,
        spec.shared_bytes,
        measure,
        Refusals(listener) if listener is not None else None,
    )
    status = supervisor.run()
    code = os.waitstatus_to_exitcode(status)
    if tier == "namespaces" and code > 128:
        code = 128 - code  # as the first process told it
    report.tell("ended", code=code, killed=supervisor.killed, peak_bytes=supervisor.peak_bytes)


def _become(spec: Spec, tier: str, channel: socket.socket) -> NoReturn:
    """In the child: confine, tell the supervisor, run. Never returns."""
    try:
        try:
            # The order matters: rights are needed for everything but the last two.
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            for descriptor in (spec.life, spec.report):
                os.close(descriptor)
            active, missing = [], []
            if tier == "namespaces":
                places = open_places(spec.confinement)
                problem = namespaces.build_view(places, spec.confinement)
                for place in places:
                    os.close(place.descriptor)
                missing += (
                    []
                    if problem is None
                    else [f"{problem}, so the memory of each process is limited but not the sum"]
                )
                active.append("namespaces (users, files, processes, network, IPC)")
            rules = _rules(spec, tier)
            _limit(spec.confinement.limits, tier)
            active.append("limits (memory, processes, time)")
            kernel.forbid_capabilities()
            if tier == "namespaces" and os.getuid() == 0:
                user, group = namespaces.confined_ids()
                os.setgroups([])
                os.setresgid(group, group, group)
                os.setresuid(user, user, user)
                kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user takes it back
            kernel.drop_capabilities()
            kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
            if tier != "none" and landlock.version():
                active.append(landlock.restrict(rules))
            listener = None
            if tier != "none":
                listener = Filter(alone=tier != "namespaces", own_pid=os.getpid()).install()
                active.append("seccomp, told of refusals" if listener is not None else "seccomp")
        except (OSError, InputError) as error:
            user_error = isinstance(error, InputError)
            _send(channel, {"failed": str(error), "user": user_error}, None)
            os._exit(125)
        _send(channel, {"active": active, "missing": missing}, listener)
        if tier != "namespaces":
            _execute(spec, tier)
        # The first process of a namespace cannot be killed by those in it, and gathers those whose parents are gone.
        program = os.fork()
        if program == 0:
            _execute(spec, tier)
        _keep_only(())
        while True:
            pid, status = os.wait()
            if pid == program:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)
    finally:
        os._exit(126)


def _rules(spec: Spec, tier: str) -> list[tuple[int, bool]]:
    """What Landlock leaves: with namespaces all that is in view, else the places themselves."""
    if tier == "none":
        return []
    if tier == "namespaces":
        paths = [("/", False), (namespaces.SCRATCH, True), ("/dev/shm", True)]
        paths += [(path, True) for path in (*spec.confinement.scratch_at, *DEVICES)]
        paths += [(mount.path, True) for mount in spec.confinement.mounts if mount.writable]
        return [(os.open(path, os.O_PATH), writable) for path, writable in paths]
    rules = [(place.descriptor, place.writable) for place in open_places(spec.confinement)]
    rules.append((os.open(spec.scratch, os.O_PATH), True))
    rules += [(os.open(path, os.O_PATH), True) for path in DEVICES]
    return rules + [(os.open(path, os.O_PATH), False) for path in _PROC_FILES if os.path.exists(path)]


def _limit(limits: Limits, tier: str) -> None:
    """Inherited by everything that is started. RLIMIT_NPROC counts per user, so it says something only in a namespace."""
    wanted = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, limits.memory_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_FSIZE, limits.scratch_bytes),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_RTPRIO, 0),
    ]
    if tier == "namespaces":
        wanted.append((resource.RLIMIT_NPROC, limits.processes + _SPARE_PROCESSES))
    if limits.cpu_s is not None:
        wanted.append((resource.RLIMIT_CPU, max(1, round(limits.cpu_s))))
    for kind, value in wanted:
        _, hard = resource.getrlimit(kind)
        hard = sys.maxsize if hard == resource.RLIM_INFINITY else hard
        # At the soft limit of time comes SIGXCPU, which says why; SIGKILL, at the hard one, would not.
        later = 5 if kind == resource.RLIMIT_CPU else 0
        resource.setrlimit(kind, (min(value, hard), min(value + later, hard)))
    os.nice(limits.nice)


def _execute(spec: Spec, tier: str) -> NoReturn:
    try:
        _keep_only(spec.descriptors)
        if tier == "namespaces":
            home, temporary = (
                namespaces.SCRATCH,
                "/tmp" if "/tmp" in spec.confinement.scratch_at else namespaces.SCRATCH,
            )
        else:
            home = temporary = spec.scratch
        os.chdir(home)
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(spec.argv[0], spec.argv, {**spec.environment, "HOME": home, "TMPDIR": temporary})
    except OSError as error:
        print(f"cannot start {spec.argv[0]}: {error.strerror}", file=sys.stderr, flush=True)
    finally:
        os._exit(127)


def _keep_only(descriptors: Iterable[int]) -> None:
    """Close everything but standard input, output and these."""
    first = 3
    for descriptor in sorted(descriptors):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, 1 << 20)


def _send(channel: socket.socket, said: dict[str, object], descriptor: int | None) -> None:
    socket.send_fds(channel, [json.dumps(said).encode()], [] if descriptor is None else [descriptor])
    channel.close()


def _receive(channel: socket.socket) -> tuple[dict[str, list[str]], int | None]:
    data, descriptors, _, _ = socket.recv_fds(channel, 1 << 16, 1)
    channel.close()
    if not data:
        raise OSError(0, "the confined process ended while it confined itself")
    return json.loads(data), descriptors[0] if descriptors else None
