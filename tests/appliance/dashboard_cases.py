"""What the tests of the dashboard share: an appliance with users, and jobs with the files of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from appliance_cases import config, shell, wait_for

from openwafer.appliance import Command, Engine, Host, Job, JobFolder, LocalEngine, ManagementNode, Outcome
from openwafer.appliance._users import Users
from openwafer.appliance.web import Listen, Service
from openwafer.artifact import Plan, plan_to_json

HOSTILE = '<img src=x onerror="document.title=1"></title><script>document.title=2</script>&amp;\u202eevil'
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360f8cf500f0003860180a5c6a14b0000000049454e44ae426082"
)


@dataclass
class Up:
    """An appliance with ann, bob, and ada who administrates."""

    node: ManagementNode
    users: Users
    url: str
    tokens: dict[str, str]

    def ask(self, path: str, user: str = "ada") -> httpx.Response:
        headers = {"authorization": f"Bearer {self.tokens[user]}"}
        return httpx.get(self.url + path, headers=headers, trust_env=False)

    def json(self, path: str, user: str = "ada") -> Any:
        answer = self.ask(path, user)
        assert answer.status_code == 200, answer.text
        return answer.json()


class TwoHosts(Engine):
    """Jobs of this machine, of which it says that they run on the second of two."""

    def __init__(self) -> None:
        self._engine = LocalEngine()
        self._folders: list[JobFolder] = []

    def start(self, folder: JobFolder, command: Command) -> None:
        self._engine.start(folder, command)
        self._folders.append(folder)

    def look(self, folder: JobFolder, number: int) -> Outcome:
        return self._engine.look(folder, number)

    def interrupt(self, folder: JobFolder) -> None:
        self._engine.interrupt(folder)

    def kill(self, folder: JobFolder) -> None:
        self._engine.kill(folder)

    def hosts(self) -> list[Host]:
        ids = tuple(folder.path.name for folder in self._folders)
        return [Host("front", "10.0.0.1", 0, ()), Host(HOSTILE, "10.0.0.2", 2, ids)]


@contextmanager
def appliance(folder: Path, engine: Engine | None = None, **changes: Any) -> Iterator[Up]:
    """One that is up. Its jobs are ended with it."""
    users = Users(folder / "users.json")
    tokens = {name: users.add(name, admin=name == "ada") for name in ("ann", "bob", "ada")}
    with ManagementNode(config(folder, grace_s=5.0, **changes), engine) as node:
        with Service(node, users, Listen(), "1.2").in_background() as url:
            yield Up(node, users, url, tokens)
        for job in node.queue():
            node.cancel(job.id)
        node.drain()


def run_job(
    up: Up, plan: Plan | None = None, *, steps: int = 40, script: str = "exec sleep 100", **changes: Any
) -> Job:
    """A job that runs, with the files that a training run of so many steps leaves."""
    job = wait_for(up.node, up.node.submit(shell(script, **changes)).id, "running")
    run = up.node.folder(job.id).run
    run.mkdir(exist_ok=True)
    (run / "config.json").write_text('{"steps": 100}')
    lines: list[dict[str, Any]] = [
        {"kind": "train", "step": n, "loss": 4.0 / n, "logs": {"lr": 0.1}, "samples": 8, "seconds": 0.25}
        for n in range(1, steps + 1)
    ]
    lines.append({"kind": "eval", "step": steps, "loss": 0.5, "samples": 8, "seconds": 0.1})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "loss.png").write_bytes(PNG)
    names = [("process_name", 0, "system0"), ("thread_name", 1, "system0")]
    spans = [
        ("forward a", "forward", 0.0, 5e3),
        ("wait b", "wait", 5e3, 2e3),
        ("backward a", "backward", 7e3, 3e3),
    ]
    events: list[dict[str, Any]] = [
        {"name": what, "ph": "M", "pid": 1, "tid": thread, "args": {"name": name}}
        for what, thread, name in names
    ]
    events.append({"name": "step 3", "ph": "i", "s": "g", "pid": 1, "tid": 1, "ts": 0.0})
    events += [
        {"name": name, "cat": kind, "ph": "X", "pid": 1, "tid": 1, "ts": at, "dur": length}
        for name, kind, at, length in spans
    ]
    (run / "timeline.json").write_text(json.dumps({"traceEvents": events}))
    if plan is not None:
        (run / "plan.json").write_bytes(plan_to_json(plan))
        (run / "plan.txt").write_text("a plan in words")
    return job
