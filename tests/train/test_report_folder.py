"""RunFolder: one run per folder, one process at a time, and nothing half written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import msgspec
import pytest

from openwafer.base import InputError, RunFolderError, StorageError
from openwafer.train.report import RunFolder, _files

CONFIG = {"model": "gpt", "optimizer": {"lr": 0.1, "name": "adam"}, "steps": 10}


def config_in(folder):
    return msgspec.json.decode(folder.config.read_bytes())


def test_a_new_folder_holds_the_config_and_the_places_for_the_rest(tmp_path):
    """The other parts of a run write below paths that exist from the start."""
    with RunFolder.create(tmp_path / "runs" / "a", CONFIG) as folder:
        assert config_in(folder) == CONFIG
        assert folder.checkpoints.is_dir()
        assert folder.tensorboard.is_dir()
        assert folder.previous_config is None
        folder.write(folder.plan_text, "layers\n")

    assert (tmp_path / "runs" / "a" / "plan.txt").read_text() == "layers\n"


def test_naming_a_folder_makes_nothing(tmp_path):
    """Readers of a run name its files without taking it."""
    folder = RunFolder(tmp_path / "a")

    assert folder.metrics == tmp_path / "a" / "metrics.jsonl"
    assert not folder.path.exists()


def test_a_second_run_in_a_folder_is_refused_with_the_pid_of_the_first(tmp_path):
    """Two runs in one folder would overwrite each other's checkpoints."""
    code = (
        "import sys, time; from openwafer.train.report._folder import RunFolder\n"
        f"held = RunFolder.create({str(tmp_path)!r}, {{}}); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"

        with pytest.raises(RunFolderError, match=f"in use by process {holder.pid}.*wait for that run to end"):
            RunFolder.create(tmp_path, {}, resume=True)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()

    RunFolder.create(tmp_path, {}).close()  # a killed run does not block the next one


def test_one_process_cannot_open_a_folder_twice(tmp_path):
    """A notebook that starts training twice is told so, instead of waiting for itself."""
    with (
        RunFolder.create(tmp_path, {}),
        pytest.raises(RunFolderError, match=f"in use by this process, pid {os.getpid()}"),
    ):
        RunFolder.create(tmp_path, {})

    RunFolder.create(tmp_path, {}).close()


def test_another_config_is_refused_with_the_fields_that_differ(tmp_path):
    """Results of two configs in one folder cannot be told apart later."""
    RunFolder.create(tmp_path, CONFIG).close()
    other = {"model": "gpt", "optimizer": {"lr": 0.2, "name": "adam"}, "batch": 8}

    with pytest.raises(RunFolderError) as caught:
        RunFolder.create(tmp_path, other)

    text = str(caught.value)
    assert "differs in 3 fields" in text
    assert "optimizer.lr: 0.1 there, 0.2 asked" in text
    assert "batch: absent there, 8 asked" in text
    assert "steps: 10 there, absent asked" in text
    assert "name" not in text
    assert config_in(RunFolder(tmp_path)) == CONFIG
    RunFolder.create(tmp_path, CONFIG).close()  # the refusal let go of the lock


def test_a_config_with_many_differences_is_named_briefly(tmp_path):
    """An error that fills the screen hides its own advice."""
    RunFolder.create(tmp_path, {str(i): "x" * 500 for i in range(50)}).close()

    with pytest.raises(RunFolderError, match=r"differs in 50 fields.*and 38 more") as caught:
        RunFolder.create(tmp_path, {str(i): i for i in range(50)})

    assert len(str(caught.value)) < 2000


def test_a_resumed_run_may_change_the_config_and_keeps_the_files(tmp_path):
    """More steps for a finished run is a resume with another config."""
    with RunFolder.create(tmp_path, CONFIG) as folder:
        folder.write(folder.metrics, "kept")

    with RunFolder.create(tmp_path, CONFIG | {"steps": 20}, resume=True) as folder:
        assert config_in(folder)["steps"] == 20
        assert folder.previous_config == CONFIG
        assert folder.metrics.read_text() == "kept"


def test_overwrite_removes_the_earlier_run_and_nothing_else(tmp_path):
    """A stale checkpoint must not be resumed into the new run; the user's own notes are not ours."""
    with RunFolder.create(tmp_path, CONFIG) as folder:
        (folder.checkpoints / "step-5").mkdir()
        for path in (folder.metrics, folder.log, folder.loss_picture, tmp_path / "notes.md"):
            folder.write(path, "old")

    with RunFolder.create(tmp_path, {"model": "bert"}, overwrite=True) as folder:
        assert config_in(folder) == {"model": "bert"}
        left = {path.name for path in tmp_path.iterdir()}

    assert left == {"config.json", "lock", "checkpoints", "tensorboard", "notes.md"}
    assert not list(folder.checkpoints.iterdir())


def test_a_damaged_config_is_refused_unless_resume_or_overwrite_is_asked(tmp_path):
    """Nobody can say which run the folder holds, so nobody should train into it by accident."""
    RunFolder(tmp_path).config.write_text('{"model": ')

    with pytest.raises(RunFolderError, match=r"config\.json cannot be read.*overwrite"):
        RunFolder.create(tmp_path, CONFIG)

    with RunFolder.create(tmp_path, CONFIG, resume=True) as folder:
        assert config_in(folder) == CONFIG


def test_resume_and_overwrite_together_are_refused(tmp_path):
    """One keeps the earlier run, the other removes it."""
    with pytest.raises(InputError, match="resume and overwrite"):
        RunFolder.create(tmp_path, {}, resume=True, overwrite=True)


def test_a_config_that_is_not_json_is_refused_before_anything_is_made(tmp_path):
    """config.json must say what ran; an object's repr would not."""
    with pytest.raises(InputError, match=r"cannot be written as JSON.*numbers, text"):
        RunFolder.create(tmp_path / "a", {"model": object()})

    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_is_not_a_run_folder(tmp_path, below):
    """The usual slip is to name a checkpoint file."""
    (tmp_path / "file").touch()

    with pytest.raises(RunFolderError, match=r"is a file.*name a folder"):
        RunFolder.create(tmp_path / "file" / below, {})


def test_a_folder_that_cannot_be_made_is_a_storage_error():
    """/proc takes no folders, not even root's."""
    with pytest.raises(StorageError, match=r"cannot write /proc/openwafer.*choose another folder"):
        RunFolder.create("/proc/openwafer", {})


def test_a_full_disk_leaves_the_old_config_and_a_free_lock(tmp_path, monkeypatch):
    """A config that is half new would name a run that never was."""
    RunFolder.create(tmp_path, CONFIG).close()

    def full(_fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(_files.os, "fsync", full)
        with pytest.raises(StorageError, match=r"config\.json: No space left.*free in.*make room and resume"):
            RunFolder.create(tmp_path, {"model": "bert"}, resume=True)

    assert config_in(RunFolder(tmp_path)) == CONFIG
    assert not list(tmp_path.glob(".*partial"))
    RunFolder.create(tmp_path, CONFIG).close()
