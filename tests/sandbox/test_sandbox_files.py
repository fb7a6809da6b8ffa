"""What a confined process sees of the machine's files, and what it may write."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from confined import Mount, run, tier_or_skip

from openwafer.base import InputError
from openwafer.sandbox import interpreter_paths

TRY = "import sys\ntry:\n    open({path!r}, {mode!r}).write('x') if 'r' not in {mode!r} else print(open({path!r}).read())\nexcept OSError as error:\n    print(type(error).__name__)\n"  # noqa: E501


def attempt(path: object, mode: str) -> str:
    return TRY.format(path=str(path), mode=mode)


def test_what_was_not_mounted_cannot_be_read(tier: str, tmp_path: Path) -> None:
    """The file is there, and its mode lets everybody read it: only the sandbox stands between."""
    secret = tmp_path / "secret"
    secret.write_text("a password")
    secret.chmod(0o644)

    story = run(attempt(secret, "r"), tiers=[tier])

    assert story.text in ("FileNotFoundError", "PermissionError")


@pytest.mark.parametrize("path", ["/etc/shadow", "/proc/1/environ", "/etc/hostname"])
def test_the_machine_s_own_secrets_cannot_be_read(tier: str, path: str) -> None:
    """Also those that root could read: the process has no rights even where the appliance runs as root."""
    story = run(attempt(path, "r"), tiers=[tier])

    assert story.text in ("FileNotFoundError", "PermissionError")


def test_a_mount_is_read_and_not_written(tier: str, shared: Path) -> None:
    """A data set is shared by jobs, so a mount is read-only unless it says otherwise."""
    (shared / "data").write_text("samples")

    story = run(
        attempt(shared / "data", "r") + attempt(shared / "data", "w") + attempt(shared / "new", "w"),
        tiers=[tier],
        mounts=(Mount(path=str(shared)),),
    )

    assert story.lines[0] == "samples"
    assert all(line in ("OSError", "PermissionError") for line in story.lines[1:])
    assert len(story.lines) == 3
    assert (shared / "data").read_text() == "samples"


def test_a_writable_mount_is_written(tier: str, tmp_path: Path) -> None:
    """Some pipelines keep a cache; that is declared, and then it works."""
    tmp_path.chmod(0o777)  # root gives itself up and is nobody inside

    story = run(
        attempt(tmp_path / "new", "w"), tiers=[tier], mounts=(Mount(path=str(tmp_path), writable=True),)
    )

    assert story.lines == []
    assert (tmp_path / "new").read_text() == "x"


@pytest.mark.parametrize(
    "path", ["/usr/new", "/etc/passwd", "/new", "/proc/sys/kernel/core_pattern", "/dev/new"]
)
def test_nothing_else_can_be_written(tier: str, path: str) -> None:
    """The core pattern is how a root without capabilities would still get out of a careless container."""
    story = run(attempt(path, "w"), tiers=[tier])

    assert story.text in ("OSError", "PermissionError", "FileNotFoundError")


def test_scratch_space_is_private_and_limited(tier: str) -> None:
    """It is where HOME and TMPDIR are; a file that outgrows it is refused, so that no disk of ours fills."""
    story = run(
        "import os, tempfile\n"
        "for folder in (os.environ['HOME'], os.getcwd()):\n"
        "    print(os.listdir(folder) in ([], ['.at0']))\n"
        "with tempfile.TemporaryFile() as file:\n"
        "    file.write(b'x' * (1 << 20)); file.flush(); print('written')\n"
        "    try:\n"
        "        for _ in range(100): file.write(b'x' * (1 << 20)); file.flush()\n"
        "    except OSError as error: print(error.strerror)\n",
        tiers=[tier],
    )

    assert story.lines[:3] == ["True", "True", "written"]
    assert story.lines[3] in ("File too large", "No space left on device")


def test_attributes_of_its_own_user_s_files_stay_as_they_are(tier: str, tmp_path: Path) -> None:
    """Landlock does not look at chmod, so the filter of system calls must."""
    (tmp_path / "data").write_text("samples")
    (tmp_path / "data").chmod(0o600)

    story = run(
        f"import os\ntry:\n    os.chmod({str(tmp_path / 'data')!r}, 0o777)\nexcept OSError as error:\n    print('refused')\n",
        tiers=[tier],
        mounts=(Mount(path=str(tmp_path)),),
    )

    assert story.text == "refused"
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o600


def test_a_mount_outside_of_the_volumes_is_refused(tier: str, tmp_path: Path) -> None:
    """The job names its mounts, the appliance's owner what may be mounted."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "theirs").mkdir()

    with pytest.raises(InputError, match="theirs lies outside of the volumes of this appliance"):
        run(
            "pass",
            tiers=[tier],
            mounts=(Mount(path=str(tmp_path / "theirs")),),
            volumes=(str(tmp_path / "mine"),),
        )


def test_a_link_out_of_the_volumes_is_refused(tier: str, tmp_path: Path) -> None:
    """A user may make links in a volume; what counts is where they lead when they are opened."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/link").symlink_to("/etc")

    with pytest.raises(InputError, match="leads to /etc, which lies outside"):
        run(
            "pass",
            tiers=[tier],
            mounts=(Mount(path=str(tmp_path / "mine/link")),),
            volumes=(str(tmp_path / "mine"),),
        )


def test_a_mount_that_is_not_there_is_named(tier: str, tmp_path: Path) -> None:
    """It is the user's mistake, so it is an InputError with the path."""
    with pytest.raises(InputError, match="missing cannot be opened"):
        run("pass", tiers=[tier], mounts=(Mount(path=str(tmp_path / "missing")),))


def test_a_mount_below_the_temporary_folder_is_seen_there(shared: Path) -> None:
    """The process has a /tmp of its own, which must not hide what was mounted inside of it."""
    tier_or_skip("namespaces")
    (shared / "data").write_text("samples")

    story = run(attempt(shared / "data", "r") + attempt("/tmp/own", "w"), mounts=(Mount(path=str(shared)),))

    assert story.text == "samples"


def test_an_interpreter_is_found_without_running_it(tmp_path: Path) -> None:
    """A job may name one, and running it would already be running what nobody confined."""
    environment = tmp_path / "client"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin/python").symlink_to(Path(sys.executable).resolve())
    (environment / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")

    found = interpreter_paths(str(environment / "bin/python"))

    assert found[0] == str(environment)
    assert str(Path(sys.executable).resolve().parent.parent) in found or str(
        Path(sys.executable).resolve()
    ).startswith("/usr/bin")


def test_a_program_that_stands_in_a_wide_folder_is_no_interpreter(tmp_path: Path) -> None:
    """Its prefix would be shown, and that would be the whole of it."""
    with pytest.raises(InputError, match="there is no Python interpreter at"):
        interpreter_paths(str(tmp_path / "python"))
    if Path("/bin/sh").exists() and not Path("/bin").is_symlink():
        with pytest.raises(InputError, match="cannot be shown"):
            interpreter_paths("/bin/sh")
