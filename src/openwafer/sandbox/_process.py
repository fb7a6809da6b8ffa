"""A confined process, as whoever started it sees it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from openwafer.base import InputError, RoleError, format_bytes
from openwafer.sandbox._confinement import Confinement, Layers
from openwafer.sandbox._spec import Spec, encode

TIERS = ("namespaces", "landlock")
_LINE_BYTES = 4096
_LAST_LINES_S = 10.0
"""How long `on_line` may take for what the process said last."""
OUTPUT_BYTES = 4 << 20
"""Output of one confined process that is passed on; a disk is not its to fill."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that the process tried and was not allowed; the call failed with EPERM and the process went on."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How a confined process ended."""

    code: int
    """Exit status, or minus the signal that killed it."""
    why: str
    """In words, for a log."""
    contained: bool
    """It was ended because it reached a limit."""
    asked: bool
    """`kill` was called."""


class Confined:
    """A running confined process; `start` makes it. Threads may call everything here.

    The process and all that it started end with this object's process, with `kill`, and with the first process they
    come from; the kernel sees to it, also after kill -9.
    """

    def __init__(
        self, launcher: subprocess.Popen[bytes], life: int, report: int, scratch: str, limits: Confinement
    ) -> None:
        self.layers: Layers | None = None
        self._launcher, self._life, self._scratch, self._confinement = launcher, life, scratch, limits
        self._report = os.fdopen(report, "rb")
        self._lock = threading.Lock()
        self._known = threading.Event()
        self._over = threading.Event()
        self._ended: Ended | None = None
        self._problem: Exception | None = None
        self._asked = False

    @property
    def ended(self) -> Ended | None:
        """None while it runs."""
        return self._ended

    def wait(self, timeout_s: float | None = None) -> Ended | None:
        """Wait for its end, when all of its output has been passed on; None if it has not come by then."""
        self._over.wait(timeout_s)
        return self._ended

    def kill(self) -> None:
        """End it, and all that it started, now. Does nothing for one that has ended."""
        with self._lock:
            self._asked = True
            if self._life >= 0:
                os.close(self._life)
                self._life = -1

    def _watched_by(
        self, output: IO[bytes], on_line: Callable[[str], None], on_refused: Callable[[Refused], None]
    ) -> None:
        self._output = threading.Thread(target=_pass_on, args=(output, on_line), name="sandbox", daemon=True)
        self._output.start()
        threading.Thread(target=self._watch, args=(on_refused,), name="sandbox", daemon=True).start()

    def _watch(self, on_refused: Callable[[Refused], None]) -> None:
        try:
            for line in self._report:
                told = json.loads(line)
                kind = told["kind"]
                if kind == "started":
                    self.layers = Layers(told["tier"], tuple(told["active"]), tuple(told["missing"]))
                    self._known.set()
                elif kind == "refused":
                    on_refused(Refused(told["what"], told["why"]))
                elif kind == "unavailable":
                    self._problem = _unavailable(told["missing"])
                elif kind == "failed":
                    self._problem = (InputError if told["user"] else RoleError)(told["text"])
                elif kind == "ended":
                    self._ended = _described(told, self._confinement, self._asked)
        finally:
            self.kill()
            self._launcher.wait()
            self._output.join(_LAST_LINES_S)
            if self._ended is None:
                self._ended = Ended(self._launcher.returncode, "its launcher was killed", False, self._asked)
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._report.close()
            self._known.set()
            self._over.set()

    def _await_start(self) -> None:
        self._known.wait()
        if self._problem is not None:
            self._over.wait()
            raise self._problem


def start(
    argv: Sequence[str],
    confinement: Confinement,
    *,
    environment: Mapping[str, str] | None = None,
    descriptors: Sequence[int] = (),
    shared_bytes: int = 0,
    on_line: Callable[[str], None] | None = None,
    on_refused: Callable[[Refused], None] | None = None,
    tiers: Sequence[str] = TIERS,
) -> Confined:
    """Run a program so that it can touch only what `confinement` lists; returns when it is confined and runs.

    argv[0] is an absolute path that is among the places it can see. `descriptors` are open in it under their numbers, with
    `shared_bytes` of memory behind them. Its output goes line by line to `on_line`, made printable, at most OUTPUT_BYTES of
    it. `on_refused` hears of refused system calls. Both are called by threads of this object.

    Raises InputError if a mount is not there or not allowed, or if this machine can confine nobody and
    `confinement.unconfined` is not set; RoleError if confining failed.
    """
    scratch = tempfile.mkdtemp(prefix="openwafer-sandbox-")
    life, report = os.pipe(), os.pipe()
    inherited = [*descriptors, life[0], report[1]]
    spec = Spec(
        argv=list(argv),
        environment=dict(environment or {}),
        confinement=confinement,
        scratch=scratch,
        descriptors=list(descriptors),
        shared_bytes=shared_bytes,
        life=life[0],
        report=report[1],
        tiers=list(tiers),
    )
    try:
        launcher = subprocess.Popen(
            [sys.executable, "-I", "-m", "openwafer.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=inherited,
            start_new_session=True,  # Ctrl-C is for whoever started it
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        )
    except BaseException:
        for descriptor in (*life, *report):
            os.close(descriptor)
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    os.close(life[0])
    os.close(report[1])
    process = Confined(launcher, life[1], report[0], scratch, confinement)
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    process._watched_by(launcher.stdout, on_line or (lambda line: None), on_refused or (lambda refused: None))
    try:
        with launcher.stdin as stdin:
            stdin.write(encode(spec))
    except BrokenPipeError:
        pass  # it has ended; the watcher knows why
    process._await_start()
    return process


def _pass_on(output: IO[bytes], on_line: Callable[[str], None]) -> None:
    left = OUTPUT_BYTES
    with output:
        while line := output.readline(_LINE_BYTES):
            if left > 0:
                on_line(printable(line.decode(errors="replace").rstrip("\n")))
                left -= len(line)
                if left <= 0:
                    on_line(f"(more than {format_bytes(OUTPUT_BYTES)} of output: the rest is dropped)")


def printable(text: str) -> str:
    """Text of a stranger without what moves a terminal's cursor or forges a line."""
    return "".join(c if c.isprintable() or c in "\t" else "�" for c in text)


def _described(told: dict[str, Any], confinement: Confinement, asked: bool) -> Ended:
    code, limits = told["code"], confinement.limits
    if told["killed"] == "memory":
        why = f"it used more than its {format_bytes(limits.memory_bytes)} of memory ({format_bytes(told['peak_bytes'])})"
    elif told["killed"] == "processes":
        why = f"it started more than its {limits.processes} processes and threads"
    elif code == -24:
        why = f"it used more than its {limits.cpu_s:.0f} s of processor time"
    elif told["killed"] == "stopped":
        return Ended(code, "it was stopped", False, True)
    elif code < 0:
        why = f"it was killed by signal {-code}"
        return Ended(code, why, False, asked)
    else:
        return Ended(code, f"it ended with exit code {code}", False, asked)
    return Ended(code, f"{why} and was ended", True, asked)


def _unavailable(missing: list[str]) -> InputError:
    return InputError(
        "this machine offers nothing to confine the code of others with: "
        + "; ".join(missing)
        + ". Let users have namespaces (user.max_user_namespaces; with AppArmor kernel.apparmor_restrict_unprivileged_userns=0) "
        "or run a kernel with Landlock (5.13 or later). Who trusts every user with all that this account may do can allow "
        "unconfined input workers instead"
    )
