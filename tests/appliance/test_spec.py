"""Specs that cannot be meant are refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from appliance_cases import config, shell

from openwafer.appliance import JobSpec, ManagementNode, NodeConfig, parse_priority
from openwafer.base import InputError

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no command": ({"command": ()}, "a job needs a command"),
    "more systems than there are": ({"systems": 3}, "asks for 3 systems, and this cluster has 2"),
    "more memory than there is": ({"memoryx_bytes": 2000}, "asks for 2000 bytes of MemoryX memory"),
    "more slots than there are": ({"compile_slots": 9}, "asks for 9 compile slots, and this cluster has 1"),
    "a negative number": ({"systems": -1}, "systems is -1; give 0 or more"),
    "too few systems": ({"min_systems": 2}, "min_systems is 2, but the job asks for 1 systems"),
    "a priority beyond p3": ({"priority": 400}, "priority 400 does not exist"),
    "no time": ({"time_limit_s": 0.0}, "time_limit_s is 0.0; give a number of seconds above 0"),
    "restarts of what cannot be resumed": ({"max_restarts": 1}, "without resume_command"),
    "a label with spaces": ({"labels": {"team": "a b"}}, "team=a b is no label"),
    "a folder that is not there": (
        {"folder": "/nowhere/at/all"},
        "/nowhere/at/all is no folder on the appliance",
    ),
    "a mount that is not there": ({"mounts": ("/nowhere/at/all",)}, "the mount /nowhere/at/all is no folder"),
    "a variable with an equals sign": ({"environment": {"A=B": "1"}}, "a name in environment"),
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with ManagementNode(config(tmp_path_factory.mktemp("cluster"))) as node:
        yield node


@pytest.mark.parametrize(("changes", "text"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_job_that_can_never_run_is_refused_at_once_and_leaves_nothing(
    node: ManagementNode, changes: dict[str, Any], text: str
) -> None:
    """Better now than after hours in a queue."""
    before = list((node.config.folder / "jobs").glob("*"))
    with pytest.raises(InputError, match=text):
        node.submit(shell("true", **changes))
    assert node.jobs() == []
    assert list((node.config.folder / "jobs").glob("*")) == before


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../up", ""])
def test_files_of_a_job_stay_below_its_folder(node: ManagementNode, name: str) -> None:
    """Whoever may submit a job must not be able to write elsewhere by it."""
    with pytest.raises(InputError, match="give a path below the job's source folder"):
        node.submit(shell("true"), {name: b"x"})


def test_a_mount_outside_the_volumes_is_refused_even_through_a_link(tmp_path: Path) -> None:
    """A link inside a volume is as far outside as what it points to."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    with ManagementNode(config(tmp_path / "state", volumes=(inside,))) as node:
        assert node.submit(shell("true", mounts=(str(inside),))).spec.mounts == (str(inside),)
        for mount in (outside, inside / "link", inside / ".."):
            with pytest.raises(InputError, match="lies in no volume that its user may use"):
                node.submit(shell("true", mounts=(str(mount),)))


def test_priorities_are_bands_or_numbers() -> None:
    """p1 means the last place of its band, as clients of the real appliance know it."""
    assert [parse_priority(text) for text in ("p0", "P1", "p2", "p3", "0", "150")] == [
        99,
        199,
        299,
        399,
        0,
        150,
    ]
    for text in ("p4", "-1", "400", "high", ""):
        with pytest.raises(InputError, match="priority"):
            parse_priority(text)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"systems": 0}, "a cluster with systems = 0 runs nothing"),
        ({"memoryx": "tape:/dev/st0"}, "memoryx is 'tape:/dev/st0'"),
        ({"memoryx": "disk:"}, "memoryx is 'disk:'"),
        ({"memoryx_bytes": 0}, "MemoryX of 0 bytes holds nothing"),
        ({"volumes": (Path("/nowhere/at/all"),)}, "the volume /nowhere/at/all is no folder"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    """Before anything listens."""
    with pytest.raises(InputError, match=text):
        NodeConfig(**{"folder": tmp_path, **changes})


def test_a_spec_survives_the_store(tmp_path: Path) -> None:
    """What was asked for is what a later node starts."""
    spec = shell(
        "true", labels={"team": "nlp"}, environment={"A": "1"}, time_limit_s=9.0, mounts=(str(tmp_path),)
    )
    with ManagementNode(config(tmp_path / "state"), paused=False) as node:
        job = node.submit(spec)
        assert node.job(job.id).spec == spec
    with ManagementNode(config(tmp_path / "state"), paused=True) as node:
        assert node.job(job.id).spec == spec
        assert isinstance(node.job(job.id).spec, JobSpec)
