"""Whether a cluster can ever run a job, and the folder that a job begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from openwafer.appliance._config import NodeConfig
from openwafer.appliance._folder import JobFolder, write_whole
from openwafer.appliance._queue import Amounts
from openwafer.appliance._spec import JobSpec
from openwafer.base import InputError, StorageError

MOST_FILES_BYTES = 32 << 20


def check(
    spec: JobSpec, files: Mapping[str, bytes], config: NodeConfig, there: Amounts, volumes: Sequence[str] = ()
) -> None:
    """volumes: of the job's user, in place of the cluster's.

    Raises InputError for what this cluster can never run, and for files and folders that nobody should touch."""
    least = min(spec.systems, spec.min_systems or spec.systems)
    for what, asked, has in (
        ("systems", least, there.systems),
        ("compile slots", spec.compile_slots, there.compile_slots),
        ("bytes of MemoryX memory", spec.memoryx_bytes, there.memoryx_bytes),
    ):
        if asked > has:
            raise InputError(
                f"the job asks for {asked} {what}, and this cluster has {has}; ask for less, or bring the cluster up with more"
            )
    if "{job}" not in spec.folder and not Path(spec.folder).is_dir():
        raise InputError(
            f"the job's working directory {spec.folder} is no folder on the appliance; name another"
        )
    for mount in spec.mounts:
        _check_mount(mount, volumes or [str(volume) for volume in config.volumes])
    if sum(map(len, files.values())) > MOST_FILES_BYTES:
        raise InputError(
            f"the files of the job have more than {MOST_FILES_BYTES >> 20} MiB; put data where the appliance can read it"
        )
    for name in files:
        path = Path(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
            raise InputError(
                f"a file of the job is called {name!r}; give a path below the job's source folder"
            )


def write_folder(folder: JobFolder, spec: JobSpec, files: Mapping[str, bytes]) -> None:
    """Make the job's folder. Raises StorageError; what was made is then still there."""
    try:
        folder.path.mkdir(parents=True, mode=0o700)
        folder.artefacts.mkdir()
        folder.source.mkdir()
        for name, data in files.items():
            (folder.source / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(folder.source / name, data)
        folder.log.touch()
    except OSError as error:
        raise StorageError(
            f"the job's folder {folder.path} cannot be made: {error.strerror}; make room, or check permissions"
        ) from error
    write_whole(folder.spec, msgspec.json.format(msgspec.json.encode(spec), indent=2) + b"\n")


def _check_mount(mount: str, volumes: Sequence[str]) -> None:
    path = Path(mount)
    if not path.is_absolute() or not path.is_dir():
        raise InputError(f"the mount {mount} is no folder on the appliance; give the full path of one")
    real = path.resolve()
    if volumes and not any(real.is_relative_to(Path(volume).resolve()) for volume in volumes):
        raise InputError(
            f"the mount {mount} lies in no volume that its user may use; those are {', '.join(volumes)}"
        )
