"""What the dashboard asks the node for: who sees what, what is counted, and what Prometheus and Grafana read."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from appliance_cases import shell, wait_for, wait_until
from dashboard_cases import HOSTILE, TwoHosts, Up, appliance, run_job

from openwafer.appliance.dashboard import page
from openwafer.artifact import Plan

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "graph"))
from graph_cases import planned  # noqa: E402


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with appliance(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture
def empty(up: Up) -> Iterator[Up]:
    """The same, with nothing that runs or waits."""
    yield up
    for job in up.node.queue():
        up.node.cancel(job.id)
    for job in up.node.queue():
        wait_for(up.node, job.id)


def test_the_page_loads_nothing_else_and_may_run_nothing_else(up: Up) -> None:
    """It has to work without a network; and the policy lets only this script run, which may make no markup of text."""
    answer = httpx.get(up.url + "/", trust_env=False)

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert not re.search(
        r"https?://(?!www\.w3\.org/2000/svg)|@import|<link(?! rel=\"icon\")|<script src", answer.text
    )
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", answer.text)
    assert not re.search(r"/\*(STYLE|SCRIPT)\*/", page().text)
    assert len(answer.text) < 80_000


@pytest.mark.parametrize(
    "path", ["/v1/board", "/v1/jobs/ID/view", "/v1/jobs/ID/series", "/v1/jobs/ID/timeline"]
)
def test_what_the_page_asks_for_takes_a_token_that_may_see_it(empty: Up, path: str) -> None:
    """The page itself tells nothing; a job of another user looks like one that does not exist."""
    job = empty.node.submit(shell("true"))
    path = path.replace("ID", job.id)

    assert httpx.get(empty.url + path, trust_env=False).status_code == 401
    assert empty.ask(path, "ann").status_code == 200
    assert empty.ask(path, "bob").status_code == (200 if path == "/v1/board" else 404)


def test_others_see_that_a_system_is_taken_and_not_by_whom(empty: Up) -> None:
    """Names and labels of jobs are their users'."""
    job = run_job(empty, name="secret", labels={"secret": "yes"})

    told = empty.json("/v1/board", "bob")
    assert [system["holder"] for system in told["systems"]] == [0, -1]
    assert (told["jobs"], told["labels"], told["users"], told["counts"]) == ([], [], [], {})
    assert "secret" not in json.dumps(told)
    assert job.id not in json.dumps(told)
    assert empty.json("/v1/board", "ann")["holders"][0]["name"] == "secret"


def test_the_map_says_which_jobs_are_on_which_host(tmp_path: Path) -> None:
    """Over several machines: who looks for the one that is slow finds its jobs, and others' without a name."""
    with appliance(tmp_path, TwoHosts()) as up:
        run_job(up, name="secret")

        told = up.json("/v1/board", "bob")
        where = [(host["address"], host["systems"], host["holders"]) for host in told["hosts"]]
        assert where == [("10.0.0.1", 0, []), ("10.0.0.2", 2, [0])]
        assert "secret" not in json.dumps(told)
        assert [host["jobs"] for host in up.json("/v1/cluster")["hosts"]] == [0, 1]


def test_the_table_shows_what_runs_then_the_queue_in_its_order_then_what_ended(empty: Up) -> None:
    """A queued job says its place, which counts everybody's jobs, and what it waits for."""
    ended = wait_for(empty.node, empty.node.submit(shell("exit 3", labels={"run": "order"})).id)
    runs = wait_for(
        empty.node, empty.node.submit(shell("sleep 100", systems=2, labels={"run": "order"})).id, "running"
    )
    late = empty.node.submit(shell("true", labels={"run": "order"}))
    soon = empty.node.submit(shell("true", priority=150, user="bob", labels={"run": "order"}))

    rows = empty.json("/v1/board?label=run%3Dorder")["jobs"]
    assert [(row["id"], row["place"]) for row in rows] == [
        (runs.id, 0),
        (soon.id, 1),
        (late.id, 2),
        (ended.id, 0),
    ]
    assert "1 system" in rows[1]["waits_for"]
    assert [row["place"] for row in empty.json("/v1/board?label=run%3Dorder", "ann")["jobs"]] == [0, 2, 0]


def test_filters_hold_together(empty: Up) -> None:
    """Each narrows what the others left; the limit says when it left something out."""
    node = empty.node
    wait_for(node, node.submit(shell("sleep 100", systems=2)).id, "running")
    for n in range(4):
        node.submit(
            shell("true", name=f"Sweep{n}", user="ann" if n % 2 else "bob", labels={"team": f"t{n // 2}"})
        )

    def names(query: str) -> list[str]:
        return [row["name"] for row in empty.json(f"/v1/board?state=queued&{query}")["jobs"]]

    assert names("text=sweep") == ["Sweep0", "Sweep1", "Sweep2", "Sweep3"]
    assert names("text=sweep&user=ann") == ["Sweep1", "Sweep3"]
    assert names("text=sweep&user=ann&label=team%3Dt0") == ["Sweep1"]
    assert names("text=t1+sweep3") == ["Sweep3"]
    assert names("state=failed&text=nothing") == []
    cut = empty.json("/v1/board?text=sweep&limit=3")
    assert (len(cut["jobs"]), cut["more"]) == (3, True)
    assert empty.ask("/v1/board?limit=0").status_code == 400
    assert empty.ask("/v1/board?label=x").json()["error"]["message"] == "label is 'x'; write name=value"


def test_a_job_shows_what_its_plan_predicts_and_what_is_measured_and_never_mixes_them(empty: Up) -> None:
    """Memory by role and traffic: MemoryX sends once what every system receives, and receives once what all of them sum."""
    plan: Plan = planned("mnist", systems=2, microbatch=4)
    job = run_job(empty, plan, steps=40)

    view = empty.json(f"/v1/jobs/{job.id}/view", "ann")
    roles = {role["name"]: role for role in view["roles"]}
    assert list(roles) == ["system0", "system1", "memoryx", "input0", "input1", "coordinator"]
    assert roles["system0"]["planned_bytes"] == plan.systems[0].memory.peak
    assert roles["system0"]["use"] is None
    assert roles["coordinator"]["planned_bytes"] is None
    assert roles["coordinator"]["use"]["memory_bytes"] > 0
    streamed = sum(record.stream_bytes for record in plan.records)
    assert roles["memoryx"]["out_per_s"] >= 4 * streamed  # a step takes a quarter of a second
    assert (
        roles["memoryx"]["in_per_s"]
        == roles["system0"]["out_per_s"]
        == 4 * sum(record.gradient_bytes for record in plan.records)
    )
    assert roles["system0"]["in_per_s"] == roles["memoryx"]["out_per_s"] + roles["input0"]["out_per_s"]
    assert view["flops_per_s"] == plan.flops_per_step / 0.25
    assert view["plan"]["record_bytes"] == sum(record.nbytes for record in plan.records)
    assert (view["progress"]["step"], view["progress"]["steps"]) == (40, 100)
    assert view["samples"][-1][1] == roles["coordinator"]["use"]["memory_bytes"]
    assert {"run/loss.png", "log", "run/plan.txt"} <= {file["name"] for file in view["files"]}
    assert [moment["text"].split(":")[0] for moment in view["moments"]] == ["queued", "scheduled", "running"]

    ended = empty.node.cancel(job.id)
    wait_for(empty.node, ended.id)
    view = empty.json(f"/v1/jobs/{job.id}/view", "ann")
    assert view["samples"] == []
    assert all(role["use"] is None and role["in_per_s"] is None for role in view["roles"])


def test_roles_that_are_processes_are_measured_by_their_names(empty: Up) -> None:
    """The cluster names the processes of roles; what else a job starts is told apart from them."""
    role = "import time; open('/proc/self/comm', 'w').write('NAME'); time.sleep(100)"
    starts = [f'{sys.executable} -c "{role.replace("NAME", name)}" &' for name in ("memoryx", "system0")]
    script = f"{' '.join(starts)} sleep 100 & wait"
    job = wait_for(empty.node, empty.node.submit(shell(script)).id, "running")

    def names() -> set[str]:
        return {role["name"] for role in empty.json(f"/v1/jobs/{job.id}/view")["roles"]}

    wait_until(lambda: names() == {"coordinator", "memoryx", "system0", "others"}, "its roles' names")


def test_series_and_timeline_of_a_run_that_writes_them(empty: Up) -> None:
    """And of one that has none."""
    job, bare = run_job(empty), wait_for(empty.node, empty.node.submit(shell("sleep 100")).id, "running")

    series = empty.json(f"/v1/jobs/{job.id}/series?points=10")
    assert len(series["points"]) == 10
    assert (series["points"][0][0], series["points"][-1][1], series["evaluations"]) == (1, 40, [[40, 0.5]])
    timeline = empty.json(f"/v1/jobs/{job.id}/timeline")
    assert timeline["length_us"] == 10_000
    assert timeline["lanes"][0]["busy"] == 0.8
    assert empty.json(f"/v1/jobs/{bare.id}/series") == {"points": [], "evaluations": []}
    assert empty.json(f"/v1/jobs/{bare.id}/timeline") is None


def test_running_jobs_are_told_to_prometheus_and_only_to_who_may_see_them(empty: Up) -> None:
    """An administrator's token reads all; a user's token the user's own."""
    job = run_job(empty, name=HOSTILE)

    whole, other = empty.ask("/metrics").text, empty.ask("/metrics", "bob").text
    row = re.search(rf'wafer_job_loss{{job_id="{job.id}",name="([^\n]*)",user="ann"}} 0\.1\n', whole)
    assert row is not None
    assert row[1] == HOSTILE.replace("\\", "\\\\").replace('"', '\\"')
    assert f'wafer_job_steps{{job_id="{job.id}"' in whole
    assert re.search(
        rf'wafer_role_memory_bytes{{job_id="{job.id}",.*role="coordinator",user="ann"}} \d', whole
    )
    assert job.id not in other
    assert "wafer_resource_total" in other


def test_the_grafana_board_asks_only_for_metrics_that_there_are(empty: Up) -> None:
    """A renamed metric would leave a panel empty without a word."""
    run_job(empty)
    exposed = set(re.findall(r"^# TYPE (\w+) ", empty.ask("/metrics").text, re.M))
    board = json.loads((ROOT / "docs" / "grafana.json").read_text(encoding="utf-8"))
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\b(?:wafer|process)_\w+", target["expr"])
    }
    shown = json.dumps(board)

    assert len(asked) > 10
    assert asked <= exposed
    assert {name for name in exposed if name.startswith("wafer_")} - asked <= {
        "wafer_job_restarts_since_checkpoint"
    }
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert "http" not in shown
