"""The REST interface: what it answers, and to whom."""

from __future__ import annotations

import io
import json
import re
import socket
import ssl
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from appliance_cases import config, shell, wait_for, wait_for_log, wait_until

from openwafer.appliance import JobSpec, ManagementNode
from openwafer.appliance._users import Users
from openwafer.appliance.client import Client, Contact
from openwafer.appliance.web import Listen, Service
from openwafer.base import EngineError, InputError, JobNotFoundError


@dataclass
class Appliance:
    """One that is up, with a token for each of its users: ann and bob, and ada, who administrates."""

    node: ManagementNode
    url: str
    tokens: dict[str, str]

    def client(self, name: str) -> Client:
        return Client(Contact(url=self.url, token=self.tokens[name]))

    def ask(self, method: str, path: str, user: str = "ann", **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.tokens[user]}", **more.pop("headers", {})}
        return httpx.request(method, self.url + path, headers=headers, trust_env=False, **more)


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    folder = tmp_path_factory.mktemp("cluster")
    users = Users(folder / "users.json")
    tokens = {name: users.add(name, admin=name == "ada") for name in ("ann", "bob", "ada")}
    with ManagementNode(config(folder, grace_s=5.0)) as node:
        with Service(node, users, Listen(), "1.2").in_background() as url:
            yield Appliance(node, url, tokens)
        for job in node.queue():
            node.cancel(job.id)
        node.drain()


def spec(script: str = "true", **changes: Any) -> JobSpec:
    return shell(script, **{"user": "", **changes})


ROUTES = [
    ("GET", "/v1/cluster"),
    ("POST", "/v1/cluster/down"),
    ("PATCH", "/v1/cluster/systems/system-0"),
    ("GET", "/v1/jobs"),
    ("POST", "/v1/jobs"),
    *((method, "/v1/jobs/ID" + rest) for method, rest in [("GET", ""), ("PATCH", ""), ("POST", "/cancel")]),
    ("POST", "/v1/jobs/ID/heartbeat"),
    *(("GET", f"/v1/jobs/ID/{what}") for what in ("log", "events", "metrics", "plan", "export", "files/log")),
    ("GET", "/metrics"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=lambda value: str(value))
def test_nothing_is_told_or_done_without_a_token_that_is_somebodys(
    appliance: Appliance, method: str, path: str
) -> None:
    """On loopback too: other users of the machine can connect."""
    job = appliance.node.submit(shell("true"))
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic YTpi"},
        {"authorization": "Bearer"},
    ):
        answer = httpx.request(
            method, appliance.url + path.replace("ID", job.id), headers=headers, trust_env=False
        )
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "token" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"), [route for route in ROUTES if "ID" in route[1]], ids=lambda value: str(value)
)
def test_another_users_job_looks_like_one_that_does_not_exist(
    appliance: Appliance, method: str, path: str
) -> None:
    """Bob may neither read nor change Ann's job, nor learn that there is one. An administrator may."""
    job = appliance.node.submit(shell("echo secret"))
    answers = [
        appliance.ask(method, path.replace("ID", id), "bob", json={}) for id in (job.id, "wsjob-aaaaaaaaaaaa")
    ]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].text.replace(job.id, "ID") == answers[1].text.replace("wsjob-aaaaaaaaaaaa", "ID")
    if path not in ("/v1/jobs/ID/plan", "/v1/jobs/ID/metrics"):
        assert appliance.ask(method, path.replace("ID", job.id), "ada", json={}).is_success


def test_lists_hold_a_users_own_jobs_and_an_administrators_everybodys(appliance: Appliance) -> None:
    """Whatever name the request asks for, and whatever name the job claims."""
    with appliance.client("ann") as ann, appliance.client("bob") as bob, appliance.client("ada") as ada:
        mine = ann.submit(spec(user="bob", labels={"list": "yes"}))
        assert mine.user == "ann"
        theirs = bob.submit(spec(labels={"list": "yes"}))
        assert [job.id for job in ann.jobs(labels=["list=yes"])] == [mine.id]
        assert ann.jobs(user="bob") == []
        assert [job.id for job in ada.jobs(labels=["list=yes"])] == [theirs.id, mine.id]
        assert [job.id for job in ada.jobs(user="bob", labels=["list=yes"])] == [theirs.id]


def test_what_only_administrators_may_do_is_refused_to_others(appliance: Appliance) -> None:
    """p0, systems, the end of it all, and other users' workflows."""
    with appliance.client("ann") as ann, appliance.client("ada") as ada:
        for refused in (
            lambda: ann.submit(spec(priority=99)),
            lambda: ann.prioritise(ann.submit(spec("sleep 5")).id, 0),
            lambda: ann.system("system-1", in_service=False),
            lambda: ann.down(),
        ):
            with pytest.raises(InputError, match=r"ann may not|administrator"):
                refused()
        workflow = appliance.node.new_workflow()
        ada.submit(spec(workflow=workflow, priority=5))
        with pytest.raises(JobNotFoundError):
            ann.submit(spec(workflow=workflow))
        told = ada.system("system-1", in_service=False, reason="dust")
        assert [(s.name, s.out_of_service) for s in told.systems] == [("system-0", ""), ("system-1", "dust")]
        ada.system("system-1", in_service=True)


def test_pages_of_other_sites_may_not_call(appliance: Appliance) -> None:
    """A browser would send what its user typed elsewhere."""
    answer = appliance.ask("GET", "/v1/jobs", headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    assert appliance.ask("GET", "/v1/jobs", headers={"origin": appliance.url}).is_success


@pytest.mark.parametrize(
    "name",
    ["../spec.json", "%2e%2e/%2e%2e/users.json", "/etc/passwd", "link", "run", "folder/link/passwd", "a%00b"],
)
def test_files_outside_a_jobs_folder_are_not_served(appliance: Appliance, name: str) -> None:
    """Neither by dots nor by links that the job itself made."""
    script = "ln -s /etc/passwd link; mkdir -p folder run; ln -s /etc folder/link; echo inside > folder/file"
    job = appliance.node.submit(shell(script))
    wait_for(appliance.node, job.id)
    answer = appliance.ask("GET", f"/v1/jobs/{job.id}/files/{name}")
    assert answer.status_code in (400, 404)
    assert "root:" not in answer.text
    inside = appliance.ask("GET", f"/v1/jobs/{job.id}/files/folder/file")
    assert inside.text == "inside\n"
    assert "sandbox" in inside.headers["content-security-policy"]


def test_a_log_is_followed_from_any_byte_to_the_end_of_the_job(appliance: Appliance) -> None:
    """Text in pieces, whole characters in each, and the stream ends with the job."""
    with appliance.client("ann") as ann:
        job = ann.submit(spec("for i in 1 2 3 4 5; do printf 'grüße %s ✓\\n' $i; sleep 0.05; done"))
        pieces = list(ann.follow_log(job.id))
        whole = "".join(pieces)
        assert len(pieces) > 1
        assert [line for line in whole.splitlines() if "gr" in line] == [f"grüße {i} ✓" for i in range(1, 6)]
        assert whole == "".join(ann.log(job.id))
        data = whole.encode()
        cut = data.index("3 ✓".encode())
        assert "".join(ann.follow_log(job.id, cut)).encode() == data[cut:]
        assert ann.job(job.id).is_final


def test_events_and_metrics_are_followed_as_records(appliance: Appliance) -> None:
    """Lines of JSON as they were written; half a line waits for its other half."""
    script = """
        mkdir run; printf '{"step":1}\\n{"st' > run/metrics.jsonl
        while [ ! -e go ]; do sleep 0.02; done
        printf 'ep":2}\\n' >> run/metrics.jsonl
    """
    job = appliance.node.submit(shell(script))
    path = f"/v1/jobs/{job.id}/metrics"
    wait_until(lambda: appliance.ask("GET", path).json()["records"])
    told = appliance.ask("GET", path).json()
    assert (told["records"], told["next"]) == ([{"step": 1}], 11)
    (appliance.node.folder(job.id).path / "go").touch()
    text = appliance.ask("GET", f"{path}?follow=true&since=11").text
    assert text == 'id: 22\ndata: [{"step":2}]\n\nevent: end\nid: 22\ndata: {"state":"succeeded"}\n\n'
    again = appliance.ask("GET", f"{path}?follow=true", headers={"last-event-id": "22"}).text
    assert again.startswith("event: end")
    with appliance.client("ann") as ann:
        assert [e["state"] for e in ann.follow_events(job.id) if e["kind"] == "state"][-1] == "succeeded"


def test_an_export_holds_all_of_a_job_and_checkpoints_if_asked(appliance: Appliance, tmp_path: Path) -> None:
    """One archive to send to whoever is asked for help; links are left out."""
    script = "mkdir -p run/checkpoints/checkpoint-1; echo w > run/checkpoints/checkpoint-1/weights; ln -s /etc/passwd p; echo x"
    job = appliance.node.submit(shell(script), {"recipe.py": b"pass\n"})
    wait_for(appliance.node, job.id)
    with appliance.client("ann") as ann:
        ann.export(job.id, tmp_path / "a.tar.gz")
        ann.export(job.id, tmp_path / "b.tar.gz", checkpoints=True)
    names = {}
    for name in "ab":
        with tarfile.open(tmp_path / f"{name}.tar.gz") as tar:
            names[name] = {member.removeprefix(f"{job.id}/") for member in tar.getnames()}
            log = tar.extractfile(f"{job.id}/log")
            assert log is not None
            assert log.read() == appliance.node.log(job.id)
    assert names["a"] == {"record.json", "spec.json", "log", "events.jsonl", "source/recipe.py"}
    assert names["b"] - names["a"] == {"run/checkpoints/checkpoint-1/weights"}
    assert not list(tmp_path.glob(".*partial"))


def test_waiting_for_a_change_answers_when_it_comes(appliance: Appliance) -> None:
    """So that nobody has to ask again and again."""
    with appliance.client("ann") as ann:
        job = ann.submit(spec("while [ ! -e go ]; do sleep 0.02; done"))
        job = wait_for(appliance.node, job.id, "running")
        threading.Timer(0.3, (appliance.node.folder(job.id).path / "go").touch).start()
        began = time.monotonic()
        assert ann.job(job.id, job.version, wait_s=30).state == "succeeded"
        assert time.monotonic() - began >= 0.25


MISTAKES = [
    ("POST", "/v1/jobs", b"{", 400, "the request's body is not as /openapi.json says"),
    ("POST", "/v1/jobs", b'{"spec": {"kind": "train"}}', 400, "missing required field `command`"),
    ("POST", "/v1/jobs", b'{"spec": {"kind": "dance", "command": ["x"]}}', 400, "Invalid enum value 'dance'"),
    ("POST", "/v1/jobs", b'{"spec": {"kind": "train", "command": [], "x": 1}}', 400, "unknown field `x`"),
    ("GET", "/v1/jobs?limit=many", b"", 400, "limit is 'many'; give a whole number"),
    ("GET", "/v1/jobs?label=x", b"", 400, "label is 'x'; write name=value"),
    ("GET", "/v1/jobs/wsjob-none/log?offset=-3", b"", 404, "there is no job 'wsjob-none'"),
    ("GET", "/v1/nothing", b"", 404, "there is no GET /v1/nothing here; /openapi.json says"),
    ("DELETE", "/v1/jobs", b"", 405, "there is no DELETE /v1/jobs here"),
    ("POST", "/v1/jobs", b" " * (50 << 20), 413, "more than 48 MiB"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "text"), MISTAKES, ids=lambda v: str(v)[:40])
def test_a_mistake_is_answered_with_a_sentence(
    appliance: Appliance, method: str, path: str, body: bytes, status: int, text: str
) -> None:
    """The same in every error's body."""
    answer = appliance.ask(method, path, content=body)
    assert answer.status_code == status
    assert text in answer.json()["error"]["message"]


def test_the_openapi_document_has_every_route_and_only_those(appliance: Appliance) -> None:
    """Made of the types that requests are read with, so that it cannot be another interface."""
    document = httpx.get(appliance.url + "/openapi.json", trust_env=False).json()
    described = {(method.upper(), path) for path, calls in document["paths"].items() for method in calls}
    from openwafer.appliance.web import make_app

    app = make_app(appliance.node, Users(appliance.node.config.folder / "users.json"), "1.2")
    served = {
        (method, re.sub(r":\w+", "", route.path))  # type: ignore[attr-defined]
        for route in app.routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    assert described == served - {("GET", "/openapi.json"), ("GET", "/")}
    assert "command" in document["components"]["schemas"]["JobSpec"]["properties"]


def test_prometheus_reads_jobs_and_resources(appliance: Appliance) -> None:
    """Totals of what has ended, gauges of what there is."""
    job = appliance.node.submit(shell("sleep 100"))
    wait_for(appliance.node, job.id, "running")
    text = appliance.ask("GET", "/metrics").text
    assert 'wafer_jobs{kind="train",state="running"}' in text
    assert 'wafer_resource_total{resource="systems"} 2.0' in text
    assert "process_resident_memory_bytes" in text
    appliance.node.cancel(job.id)
    wait_for(appliance.node, job.id)
    ended = re.search(
        r'wafer_jobs_ended_total\{state="cancelled"\} (\d+)', appliance.ask("GET", "/metrics").text
    )
    assert ended is not None
    assert int(ended[1]) >= 1


def test_a_user_with_volumes_of_their_own_mounts_these_and_no_others(tmp_path: Path) -> None:
    """A team's data is not for everybody who may submit jobs."""
    common, own = tmp_path / "common", tmp_path / "own"
    common.mkdir()
    own.mkdir()
    users = Users(tmp_path / "users.json")
    ann, bob = users.add("ann", volumes=[own]), users.add("bob")
    with (
        ManagementNode(config(tmp_path / "state", volumes=(common,))) as node,
        Service(node, users, Listen(), "1").in_background() as url,
    ):
        for token, may, may_not in ((ann, own, common), (bob, common, own)):
            with Client(Contact(url=url, token=token)) as client:
                taken = client.submit(spec(mounts=(str(may),)))
                assert wait_for(node, taken.id).state == "succeeded"
                with pytest.raises(InputError, match=f"no volume that its user may use; those are {may}"):
                    client.submit(spec(mounts=(str(may_not),)))


def test_a_follower_goes_on_when_another_node_is_up_again_and_misses_nothing(tmp_path: Path) -> None:
    """The job runs on without the node; its log is read from where the last piece ended."""
    users = Users(tmp_path / "users.json")
    token = users.add("ann")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    got: list[str] = []

    def start(node: ManagementNode) -> Any:
        return Service(node, users, Listen(port=port), "1").in_background()

    with Client(Contact(url=f"http://127.0.0.1:{port}", token=token)) as ann:
        with ManagementNode(config(tmp_path)) as node, start(node):
            job = ann.submit(
                spec(
                    "for i in $(seq 1 60); do echo line $i; sleep 0.02; done; while [ ! -e go ]; do sleep 0.02; done"
                )
            )
            follower = threading.Thread(target=lambda: got.extend(ann.follow_log(job.id)))
            follower.start()
            wait_for_log(node, job.id, "line 9")
            wait_until(lambda: any("line" in piece for piece in got))
        with ManagementNode(config(tmp_path)) as node, start(node):
            (node.folder(job.id).path / "go").touch()
            wait_for(node, job.id)
            follower.join(60)
            assert not follower.is_alive()
            assert "".join(got) == node.log(job.id).decode()


def test_an_appliance_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    """With what to do about it."""
    with (
        Client(Contact(url="http://127.0.0.1:9", token="x")) as client,
        pytest.raises(EngineError, match=r"at http://127.0.0.1:9 does not answer .*; see whether it is up"),
    ):
        client.cluster()


def test_beyond_this_machine_nothing_listens_without_a_certificate(tmp_path: Path) -> None:
    """Tokens would travel readable for everybody."""
    for host in ("0.0.0.0", "::", "192.0.2.1", "somewhere.example"):
        with pytest.raises(InputError, match="give --certificate and --key"):
            Listen(host=host)
    assert Listen(host="localhost").is_local
    with pytest.raises(InputError, match="a certificate needs its key"):
        Listen(certificate=tmp_path / "c.pem")


def test_tls_is_served_with_the_certificate_and_checked_by_the_client(tmp_path: Path) -> None:
    """The client trusts the certificate that it was given, and no other."""
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    made = subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        capture_output=True,
        check=False,
    )
    if made.returncode != 0:
        pytest.skip(f"needs openssl: {made.stderr.decode()}")
    key.chmod(0o644)
    users = Users(tmp_path / "users.json")
    token = users.add("ann")
    with ManagementNode(config(tmp_path / "state")) as node:
        with pytest.raises(InputError, match="is open to others; run: chmod 600"):
            Service(node, users, Listen(certificate=certificate, key=key), "1")
        key.chmod(0o600)
        with Service(node, users, Listen(certificate=certificate, key=key), "1").in_background() as url:
            assert url.startswith("https://")
            with Client(Contact(url=url, token=token, certificate=str(certificate))) as client:
                assert client.cluster().user == "ann"
            with (
                Client(Contact(url=url, token=token)) as client,
                pytest.raises(EngineError, match="certificate"),
            ):
                client.cluster()
        with pytest.raises(InputError, match="cannot be used"):
            Service(node, users, Listen(certificate=key, key=key), "1")
    assert ssl.OPENSSL_VERSION


def test_a_port_that_is_taken_is_said_to_be(tmp_path: Path) -> None:
    """Two appliances on one machine are a common thing to try."""
    users = Users(tmp_path / "users.json")
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        ManagementNode(config(tmp_path / "state")) as node,
        pytest.raises(InputError, match="is in use, perhaps by another server; choose another with --port"),
    ):
        Service(node, users, Listen(port=taken.getsockname()[1]), "1")


def test_contacts_are_found_in_options_environment_and_the_file_that_is_left(tmp_path: Path) -> None:
    """In this order; a token is never sent to another appliance than the one that it is for."""
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    with pytest.raises(InputError, match="no cluster is known: bring one up"):
        Contact.find(environment=environment)
    left = Contact(url="http://127.0.0.1:1", token="left")
    file = left.leave(environment)
    assert file.stat().st_mode & 0o777 == 0o600
    assert Contact.find(environment=environment) == left
    with pytest.raises(InputError, match="no token for http://elsewhere is known"):
        Contact.find("http://elsewhere", environment=environment)
    named = {**environment, "WAFER_CLUSTER": "http://named/", "WAFER_CLUSTER_TOKEN": "its"}
    assert Contact.find(environment=named) == Contact(url="http://named", token="its")
    token_file = tmp_path / "token"
    token_file.write_text("mine\n")
    token_file.chmod(0o644)
    with pytest.raises(InputError, match="is open to others"):
        Contact.find("http://x", token_file, environment=environment)
    token_file.chmod(0o600)
    assert Contact.find("http://x", token_file, environment=environment).token == "mine"
    Contact(url="http://other", token="").remove(environment)
    assert file.exists()
    left.remove(environment)
    assert not file.exists()


def test_answers_of_something_else_are_no_traceback(tmp_path: Path) -> None:
    """A URL is easily wrong."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if "cluster" in self.path else 500)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Client(Contact(url=f"http://127.0.0.1:{server.server_port}", token="x")) as client:
            with pytest.raises(EngineError, match="answers GET /v1/cluster with something else"):
                client.cluster()
            with pytest.raises(EngineError, match="an error 500 that no appliance sends"):
                client.job("x")
        server.shutdown()


def test_a_caller_that_leaves_in_the_middle_of_an_export_leaves_nothing_open(appliance: Appliance) -> None:
    """The archive is made while it is sent, by a thread that must not wait for nobody."""
    job = appliance.node.submit(shell("head -c 20000000 /dev/urandom > big"))
    wait_for(appliance.node, job.id)
    headers = {"authorization": f"Bearer {appliance.tokens['ann']}"}
    with httpx.stream(
        "GET", f"{appliance.url}/v1/jobs/{job.id}/export", headers=headers, trust_env=False
    ) as answer:
        assert len(next(answer.iter_raw())) > 0
    wait_until(lambda: not any("_write" in thread.name for thread in threading.enumerate()))


def test_json_of_a_job_is_what_the_document_says(appliance: Appliance) -> None:
    """Times are Unix seconds, `spec` is what was asked for."""
    job = appliance.ask(
        "POST", "/v1/jobs", json={"spec": {"kind": "train", "command": ["true"], "systems": 1}}
    ).json()
    assert {"id", "state", "spec", "user", "priority", "created", "version"} <= job.keys()
    assert (job["user"], job["priority"], job["spec"]["command"]) == ("ann", 299, ["true"])
    assert json.loads(io.StringIO(json.dumps(job)).read()) == job
