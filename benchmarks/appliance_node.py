"""What a management node takes that holds many queued jobs and many followers of a log.

    python benchmarks/appliance_node.py --json appliance_node.json

`wafer cluster up` is a process of its own, with SQLite on the disk of --folder. One job has the only system and writes
--lines lines a second; --jobs jobs wait for it, and --followers clients, in one other process, read its log as it grows.
Meanwhile somebody lists the queue once a second. CPU is that of the node's process, as a share of one core, over --seconds;
memory is the largest that the process had. A line's way is from its writing to the coming of the piece that it ends. A
submission is one POST, answered when the job is safe on the disk; `start` is from the end of the running job to the start of
the next one's process.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from _common import describe_machine, entry, finish, parser_of, print_table, run_worker, workspace

from openwafer.appliance import JobFolder, JobSpec
from openwafer.appliance.client import Client, Contact
from openwafer.base import EngineError, InputError


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--jobs", type=int, default=1000, help="that wait")
    parser.add_argument("--followers", type=int, default=50, help="of one log")
    parser.add_argument("--lines", type=float, default=20.0, help="that the log grows by in a second")
    parser.add_argument("--seconds", type=float, default=30.0, help="of measuring")
    options = parser.parse_args()
    if options.jobs < 1 or options.followers < 1:
        raise InputError(
            "without waiting jobs and followers there is nothing to measure; give at least 1 of each"
        )
    print(describe_machine())
    with workspace(options.folder) as folder:
        figures = _measure(folder, options)
    rows = [
        ["jobs that wait", figures["jobs"]],
        ["followers of a log", figures["followers"]],
        ["submissions per second", f"{figures['submissions_per_s']:.0f}"],
        ["slowest submission, ms", f"{figures['slowest_submission_s'] * 1e3:.0f}"],
        ["CPU of the node, % of a core", f"{figures['cpu'] * 100:.1f}"],
        ["memory of the node, MiB", f"{figures['rss'] / 2**20:.0f}"],
        ["listing 100 jobs, ms", f"{figures['list_s'] * 1e3:.0f}"],
        ["a line's way to a follower, ms", f"{figures['delay_s'] * 1e3:.0f}"],
        ["lines missing in all followers", figures["missing"]],
        ["start, ms", f"{figures['start_s'] * 1e3:.0f}"],
    ]
    print_table(["", "measured"], rows)
    finish(options, figures)


def _measure(folder: Path, options: Any) -> dict[str, Any]:
    state = folder / "state"
    environment = {**os.environ, "XDG_CONFIG_HOME": str(folder / "config")}
    words = ["cluster", "up", "--systems", "1", "--folder", str(state), "--port", "0", "--grace-seconds", "5"]
    node = subprocess.Popen(
        [sys.executable, "-m", "openwafer.cli", *words], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        client = Client(_contact(folder, node))
        script = f'while :; do date "+line %s.%N"; sleep {1 / options.lines}; done'
        running = client.submit(_job(script))
        took = []
        began = time.perf_counter()
        waiting = []
        for _ in range(options.jobs):
            start = time.perf_counter()
            waiting.append(client.submit(_job("true")))
            took.append(time.perf_counter() - start)
        submitting_s = time.perf_counter() - began
        contact = {"url": client.url, "token": (state / "token").read_text().strip(), "id": running.id}
        followed: list[dict[str, Any]] = []
        settings = {**contact, "followers": options.followers, "seconds": options.seconds + 2}
        follower = threading.Thread(target=lambda: followed.append(run_worker(__file__, "follow", settings)))
        follower.start()
        time.sleep(2.0)  # until all of them are connected
        process = psutil.Process(node.pid)
        before, began, listing = process.cpu_times(), time.perf_counter(), []
        while time.perf_counter() - began < options.seconds:
            start = time.perf_counter()
            assert client.jobs(states=("queued",))[0].waits_for
            listing.append(time.perf_counter() - start)
            time.sleep(max(0.0, 1.0 - listing[-1]))
        after, seconds = process.cpu_times(), time.perf_counter() - began
        follower.join()
        rss = process.memory_info().rss
        with suppress(OSError):
            status = Path(f"/proc/{node.pid}/status").read_text()
            rss = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))
        client.cancel(running.id)
        ended = _wait(client, running.id)
        first = _wait(client, waiting[0].id)
        for job in waiting[1:]:
            client.cancel(job.id)
        client.close()
        return {
            "jobs": len(waiting),
            "followers": options.followers,
            "submissions_per_s": len(waiting) / submitting_s,
            "slowest_submission_s": max(took),
            "cpu": (after.user + after.system - before.user - before.system) / seconds,
            "rss": rss,
            "list_s": statistics.median(listing),
            "delay_s": followed[0]["delay_s"],
            "missing": _missing(JobFolder(state / "jobs" / running.id), followed[0]["lines"]),
            "start_s": (first.scheduled or 0.0) - (ended.ended or 0.0),
        }
    finally:
        node.terminate()
        node.wait()


def _job(script: str) -> JobSpec:
    return JobSpec(kind="train", command=("sh", "-c", script), systems=1)


def _contact(folder: Path, node: subprocess.Popen[bytes]) -> Contact:
    while node.poll() is None:
        found = Contact.left({"XDG_CONFIG_HOME": str(folder / "config")})
        if found is not None:
            return found
        time.sleep(0.05)
    raise EngineError(f"the management node ended with status {node.returncode}; see what it wrote above")


def _wait(client: Client, id: str) -> Any:
    while not (job := client.job(id)).is_final:
        time.sleep(0.02)
    return job


def _missing(folder: JobFolder, followers: list[list[str]]) -> int:
    """Lines of the log, from a follower's first to its last, that it did not get."""
    log = [line for line in folder.log.read_text().splitlines() if line.startswith("line")]
    place = {line: index for index, line in enumerate(log)}
    return sum(place[lines[-1]] - place[lines[0]] + 1 - len(lines) for lines in followers)


def follow(settings: dict[str, Any]) -> dict[str, Any]:
    """Followers, as one process: the whole lines that each got, and the median time from a line's writing to its coming."""

    async def one(client: httpx.AsyncClient, delays: list[float]) -> list[str]:
        import json

        text, seen = "", 0
        path = f"/v1/jobs/{settings['id']}/log?follow=true"
        async with client.stream("GET", path) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    now = time.time()
                    text += json.loads(line[6:])
                    newest = text[: text.rfind("\n") + 1].splitlines()[-1:]
                    if seen and newest and newest[0].startswith("line"):
                        delays.append(now - float(newest[0].split()[1]))
                    seen += 1
                if time.time() > end:
                    break
        whole = text[: text.rfind("\n") + 1]
        return [line for line in whole.splitlines() if line.startswith("line")]

    async def every() -> tuple[list[list[str]], list[float]]:
        delays: list[float] = []
        headers = {"authorization": f"Bearer {settings['token']}"}
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=settings["url"], headers=headers, limits=limits, timeout=60.0, trust_env=False
        ) as client:
            return await asyncio.gather(*(one(client, delays) for _ in range(settings["followers"]))), delays

    end = time.time() + settings["seconds"]
    lines, delays = asyncio.run(every())
    return {"lines": lines, "delay_s": statistics.median(delays)}


if __name__ == "__main__":
    entry(main, {"follow": follow})
