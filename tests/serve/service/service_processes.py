"""`wafer` as a process, and what a client does with it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAM = "import sys; from openwafer.cli import main; sys.argv[0] = 'wafer'; main()"
WAIT_S = 120.0


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of a command that must not see this shell's keys and log level."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WAFER_")}
    return {**kept, "OMP_NUM_THREADS": "1", **(more or {})}


def wafer(*words: object, given: str = "", more: Mapping[str, str] | None = None) -> Any:
    """One command to its end."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        input=given, capture_output=True, text=True, timeout=WAIT_S, env=environment(more),
    )  # fmt: skip


@dataclass
class Running:
    """A command that runs, and every line that it wrote to standard output."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return next(m[1] for line in self.lines if (m := re.match(r"serving at (\S+)/v1", line)))

    def wait_for(self, begin: str) -> None:
        """Return when a line that begins so was written."""
        self.until(lambda: any(line.startswith(begin) for line in [*self.lines]), begin)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            assert self.process.poll() is None, (what, self.lines, self.errors())
            assert time.monotonic() < end, (what, self.lines)
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Its exit status, when it has ended by itself."""
        return self.process.wait(WAIT_S)

    def errors(self) -> str:
        """What it wrote to standard error, after its end."""
        if self.process.stderr is None or self.process.poll() is None:
            return ""
        return self.process.stderr.read()


@contextmanager
def started(
    *words: object,
    program: str = PROGRAM,
    more: Mapping[str, str] | None = None,
    errors: Any = subprocess.PIPE,
    given: Any = subprocess.DEVNULL,
) -> Iterator[Running]:
    """A command that goes on running; killed at the end if it still does. given: its standard input."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, words)],
        stdin=given, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment(more),
    )  # fmt: skip
    running = Running(process)
    assert process.stdout is not None
    out = process.stdout
    reader = threading.Thread(target=lambda: running.lines.extend(iter(out.readline, "")))
    reader.start()
    try:
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        for file in (process.stdout, process.stderr):
            if file is not None:
                file.close()


@contextmanager
def serving(*words: object, **more: Any) -> Iterator[Running]:
    """`wafer serve` with these words, when it answers."""
    with started("serve", *words, "--port", 0, **more) as running:
        running.wait_for("serving at")
        yield running


def long_chat(tokens: int = 6000) -> dict[str, Any]:
    """A request for an answer of exactly so many tokens."""
    return {
        "model": "demo",
        "messages": [{"role": "user", "content": "Go on."}],
        "temperature": 0,
        "max_completion_tokens": tokens,
        "min_completion_tokens": tokens,
    }


def key_file(folder: Path, *keys: str) -> Path:
    path = folder / "keys"
    path.write_text("\n".join(keys) + "\n")
    path.chmod(0o600)
    return path
