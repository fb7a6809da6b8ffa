"""The store of jobs: the same in SQLite and in PostgreSQL, and clear about what is wrong with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from appliance_cases import config, shell, wait_for

from openwafer.appliance import Job, ManagementNode
from openwafer.appliance._store import Store
from openwafer.base import InputError, StorageError


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server of its own, on a socket in a folder; skipped where there is none to start."""
    # Debian keeps the server's commands off the path, in a folder for each version.
    path = os.pathsep.join([os.environ["PATH"], *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])
    initdb, server_command = (shutil.which(name, path=path) for name in ("initdb", "postgres"))
    if initdb is None or server_command is None:
        pytest.skip("needs initdb and postgres, of Debian's package postgresql")
    folder = Path(tempfile.mkdtemp(prefix="wafer-pg-"))
    # It refuses to run as root.
    user = "nobody" if os.getuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
    data = folder / "data"
    initialise = [initdb, "-D", str(data), "-A", "trust", "-U", "wafer", "--no-sync"]
    subprocess.run(initialise, check=True, stdout=subprocess.DEVNULL, user=user, cwd=folder)
    options = ["-c", "listen_addresses=", "-k", str(folder), "-F"]
    with open(folder / "log", "w+") as log:
        server = subprocess.Popen(
            [server_command, "-D", str(data), *options], stdout=log, stderr=log, user=user, cwd=folder
        )
        try:
            url = f"postgresql+psycopg://wafer@/postgres?host={folder}"
            for _ in range(600):
                try:
                    Store(url).close()
                    break
                except StorageError:
                    assert server.poll() is None, (folder / "log").read_text()
                    threading.Event().wait(0.1)
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # at once; SIGTERM would wait for whoever is connected
            server.wait()
            shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    kind = request.param
    url = f"sqlite:///{tmp_path}/jobs.sqlite" if kind == "sqlite" else request.getfixturevalue("postgres")
    opened = Store(url)
    _empty(opened)
    yield opened
    _empty(opened)
    opened.close()


def _empty(store: Store) -> None:
    with store._transaction("empty") as connection:
        connection.exec_driver_sql("DELETE FROM wafer_jobs")


def job(id: str, created: float, **changes: object) -> Job:
    """A queued job."""
    made = Job(
        id=id,
        spec=shell("true"),
        state="queued",
        user="ann",
        priority=299,
        created=created,
        order=created,
        version=1,
    )
    return msgspec.structs.replace(made, **changes)


def test_what_was_put_is_found_again_as_it_was(store: Store) -> None:
    """A record comes back equal, whatever it holds."""
    first = job("a", 1.0, labels={"größe": "ü"}, reason='it\'s "quoted"\n')
    store.add(first)
    assert store.get("a") == first
    newer = msgspec.structs.replace(first, state="running", version=2, systems=("system-0",))
    store.put(newer)
    assert store.get("a") == newer
    assert store.get("b") is None
    with pytest.raises(InputError, match="there is a job a already"):
        store.add(first)


def test_jobs_are_found_by_state_user_workflow_and_labels_newest_first(store: Store) -> None:
    """What `wafer jobs` asks for; the limit counts jobs that meet every condition."""
    in_workflow = msgspec.structs.replace(shell("true"), workflow="wflow-x")
    store.add(job("a", 1.0, labels={"team": "nlp"}))
    store.add(job("b", 2.0, state="succeeded", user="bob", labels={"team": "nlp"}))
    store.add(job("c", 3.0, state="running", spec=in_workflow))
    store.add(job("d", 4.0, labels={"team": "vision"}))
    store.add(job("e", 5.0, spec=in_workflow))

    def ids(**conditions: object) -> list[str]:
        return [found.id for found in store.find(**conditions)]  # type: ignore[arg-type]

    assert ids() == ["e", "d", "c", "b", "a"]
    assert ids(limit=2) == ["e", "d"]
    assert ids(states=("succeeded", "running")) == ["c", "b"]
    assert ids(user="bob") == ["b"]
    assert ids(workflow="wflow-x") == ["e", "c"]
    assert ids(labels={"team": "nlp"}, limit=1) == ["b"]
    assert [found.id for found in store.live()] == ["a", "c", "d", "e"]
    first = store.first_of("wflow-x")
    assert first is not None
    assert first.id == "c"


def test_a_node_works_on_postgresql_as_on_sqlite_and_keeps_others_out(postgres: str, tmp_path: Path) -> None:
    """Two nodes with a state folder each would start the same jobs twice."""
    with ManagementNode(config(tmp_path / "one", store=postgres)) as node:
        done = wait_for(node, node.submit(shell("true")).id)
        assert done.state == "succeeded"
        with pytest.raises(InputError, match="another management node has the job store postgresql"):
            ManagementNode(config(tmp_path / "two", store=postgres))
    with ManagementNode(config(tmp_path / "one", store=postgres)) as node:
        assert node.job(done.id) == done


def test_a_store_of_another_release_is_not_touched(tmp_path: Path) -> None:
    """Its records may mean something else."""
    url = f"sqlite:///{tmp_path}/jobs.sqlite"
    store = Store(url)
    with store._transaction("change") as connection:
        connection.exec_driver_sql("UPDATE wafer_schema SET version = 99")
    store.close()
    with pytest.raises(
        InputError, match="has the tables of version 99, and this openwafer those of version 1"
    ):
        Store(url)


@pytest.mark.parametrize(
    ("url", "kind", "text"),
    [
        ("jobs.sqlite", InputError, "is no store that can be opened"),
        ("oracle9://x/y", InputError, "is no store that can be opened"),
        ("sqlite:////nowhere/at/all/jobs.sqlite", StorageError, "unable to open database file"),
    ],
)
def test_a_store_that_cannot_be_opened_is_said_so(url: str, kind: type[Exception], text: str) -> None:
    """In a sentence; a password in the URL is not repeated."""
    with pytest.raises(kind, match=text):
        Store(url)


def test_a_damaged_store_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    """An empty list of jobs would be believed."""
    file = tmp_path / "jobs.sqlite"
    file.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(StorageError, match=r"cannot open the job store sqlite:///.*not a database"):
        Store(f"sqlite:///{file}")


def test_threads_may_use_a_store_at_the_same_time(store: Store) -> None:
    """The node's thread and those of the interface do."""
    errors: list[Exception] = []

    def work(name: str) -> None:
        try:
            for index in range(20):
                store.add(job(f"{name}-{index}", float(index)))
                store.find(limit=5)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(store.find(limit=1000)) == 80
