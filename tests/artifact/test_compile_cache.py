"""CompileCache: folders that are whole or not there, and the texts that tell changed code."""

from __future__ import annotations

import os
import threading

import pytest
from torch import nn

from openwafer.artifact import CompileCache, open_plan, packages_token, token_of
from openwafer.base import InputError, PlanError, StorageError
from openwafer.train import LocalCluster, Trainer
from openwafer.train.optim import SGD
from run_cases import Numbers, squared_error


@pytest.fixture(scope="module")
def plan():
    trainer = Trainer(
        nn.Linear(8, 4), optimizer=SGD(lr=0.1), loss=squared_error, cluster=LocalCluster(processes=False)
    )
    return trainer.plan(Numbers())


def test_what_was_kept_is_found_again_whole(tmp_path, plan):
    """Plan, description and the front end's own files."""
    cache = CompileCache(tmp_path / "compile")
    assert cache.find("train_1") is None

    folder = cache.keep("train_1", plan, {"more.json": b"{}"})

    assert cache.find("train_1", whole="more.json") == folder
    assert open_plan(folder) == plan
    assert {file.name for file in folder.iterdir()} == {"plan.json", "plan.txt", "more.json"}


def test_a_folder_that_is_out_of_date_is_replaced_and_else_the_first_stays(tmp_path, plan):
    """Two jobs may compile one program at once: whoever is second has the same plan."""
    cache = CompileCache(tmp_path)
    cache.keep("cs_1", plan, {"who": b"first"})
    cache.keep("cs_1", plan, {"who": b"second"})
    assert (tmp_path / "cs_1" / "who").read_bytes() == b"first"

    cache.keep("cs_1", plan, {"who": b"third"}, replace=True)

    assert (tmp_path / "cs_1" / "who").read_bytes() == b"third"
    assert os.listdir(tmp_path) == ["cs_1"]


def test_many_writers_at_once_leave_one_whole_folder(tmp_path, plan):
    """Also when each of them replaces what is there."""
    cache, failed = CompileCache(tmp_path), []

    def write():
        try:
            cache.keep("train_1", plan, {"more.json": b"{}"}, replace=True)
        except StorageError as error:
            failed.append(error)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failed
    assert open_plan(tmp_path / "train_1") == plan
    assert os.listdir(tmp_path) == ["train_1"]


def test_a_place_that_cannot_be_written_is_told(tmp_path, plan):
    """With what to do."""
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match=r"cannot write .*train_1.*make room"):
        CompileCache(tmp_path / "file").keep("train_1", plan, {})


def test_pruning_leaves_those_used_last(tmp_path, plan):
    """And nothing of another front end."""
    cache = CompileCache(tmp_path)
    for index, name in enumerate(("train_a", "train_b", "train_c", "cs_a")):
        os.utime(cache.keep(name, plan, {}), (1000 - index, 1000 - index))
    (tmp_path / ".train_d.left").mkdir()
    os.utime(tmp_path / ".train_d.left", (1000, 1000))  # by a writer that was killed
    (tmp_path / ".train_e.now").mkdir()

    cache.prune("train_", 2)

    assert sorted(os.listdir(tmp_path)) == [".train_e.now", "cs_a", "train_a", "train_b"]


def test_a_plan_that_is_gone_or_was_changed_is_refused(tmp_path, plan):
    """A body that does not match its key might compute anything."""
    with pytest.raises(InputError, match="no compiled program"):
        open_plan(tmp_path)
    folder = CompileCache(tmp_path).keep("train_1", plan, {})
    (folder / "plan.json").write_text(
        (folder / "plan.json").read_text().replace("aten.mse_loss", "aten.l1_loss")
    )

    with pytest.raises(PlanError, match="changed after it was written"):
        open_plan(folder)


def test_code_is_told_apart_by_what_it_says_and_not_by_when_it_was_copied(tmp_path):
    """A job's recipe is a copy, made anew for each job."""
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("x = 1")
    two.write_text("x = 1")
    os.utime(two, (1, 1))
    assert token_of(one) == token_of(two)

    two.write_text("x = 2")

    assert token_of(one) != token_of(two)
    assert token_of(tmp_path / "three.py") == "absent"


def test_a_package_is_told_apart_by_every_file_below_it(tmp_path, monkeypatch):
    """Loaded or not: what is not loaded yet may be when the program is planned."""
    package = tmp_path / "told_apart"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("told_apart")
    before = packages_token(["told_apart"])
    assert packages_token(["told_apart"]) == before

    (package / "inner" / "later.py").write_text("x = 1")

    assert packages_token(["told_apart"]) != before
