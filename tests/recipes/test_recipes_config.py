"""LocalCluster and RunConfig: what they refuse, what they decide, how they print."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from openwafer.base import MIB, InputError
from openwafer.train._config import LocalCluster, RunConfig
from openwafer.train.data import from_dataset
from openwafer.train.optim import AdamW, Cosine, DynamicLossScale, clip_by_global_norm, from_torch, per_group


def data():
    return from_dataset([torch.zeros(2)] * 8, 2)


def minimal(**changes):
    return RunConfig(
        **{
            "name": "a",
            "model": functools.partial(nn.Linear, 2, 3),
            "train": data,
            "optimizer": AdamW(),
            "steps": 5,
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"systems": 0}, "systems is 0, but it must be a whole number, at least 1"),
        ({"systems": 2.0}, "systems is 2.0"),
        ({"system_memory": "12 parsecs"}, "'12 parsecs' is not a size"),
        ({"system_memory": 0}, "system_memory is 0; give a size such as 512MiB"),
        ({"memoryx": "tape"}, "memoryx is 'tape'; write ram, disk, disk:/path"),
        ({"memoryx": "ram:/x"}, "memoryx is 'ram:/x'"),
        ({"memoryx": "disk:"}, "memoryx is 'disk:'"),
        ({"memoryx": "disk:/a,"}, "memoryx is 'disk:/a,'"),
        ({"memoryx": "disk:/a,/a"}, "each shard needs a folder of its own"),
        ({"memoryx": "disk:/a,/b", "memoryx_shards": 3}, "names 2 folders, but memoryx_shards is 3"),
        ({"memoryx_shards": 0}, "memoryx_shards is 0"),
        ({"execution": "fast"}, "execution is 'fast'; take one of 'auto', 'weight_streaming', 'pipelined'"),
        ({"microbatch": 0}, 'microbatch is 0, but it must be a number, "auto" or None'),
        ({"microbatch": "big"}, "microbatch is 'big'"),
        ({"recompute": "maybe"}, "recompute is 'maybe'; take one of 'auto', True, False"),
        ({"processes": "yes"}, "processes is 'yes'"),
        ({"threads": 0}, "threads is 0"),
        ({"matmul": "blas"}, "matmul is 'blas'; take one of"),
        ({"device": "abacus"}, "device is 'abacus'; write cpu"),
        ({"device": "tpu"}, "device is 'tpu'; write cpu, cuda"),
        ({"device": "cuda", "memoryx_memory": "auto"}, "measured for systems on the CPU only; give a size"),
        ({"stall_s": 0}, "stall_s is 0"),
        ({"stall_s": float("nan")}, "stall_s is nan"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused_where_it_is_written(changes, text):
    """Not minutes later, in a role."""
    with pytest.raises(InputError) as error:
        LocalCluster(**changes)

    assert text in str(error.value)


def test_a_cluster_decides_what_was_left_open():
    """Threads for one system, processes for several; the cores shared, at least one each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

    assert not LocalCluster().uses_processes
    assert LocalCluster(systems=2).uses_processes
    assert not LocalCluster(systems=2, processes=False).uses_processes
    assert LocalCluster().threads_per_system == cores
    assert LocalCluster(systems=10 * cores).threads_per_system == 1
    assert LocalCluster(threads=3).threads_per_system == 3


def test_sizes_and_places_are_read_once_for_all_roles():
    """What people write, as what roles need."""
    cluster = LocalCluster(system_memory="512MiB", memoryx="disk:~/weights")

    assert cluster.system_memory_bytes == 512 * MIB
    run = Path("run")
    assert (cluster.store, cluster.store_folders(run)) == ("disk", (Path.home() / "weights",))
    assert LocalCluster(memoryx="disk").store_folders(run) == (run / "memoryx",)
    assert (LocalCluster().store, LocalCluster().store_folders(run)) == ("ram", ())


def test_memoryx_shards_have_a_folder_each() -> None:
    """One on each disk that the user names, so that they are read at the same time; else side by side."""
    run = Path("run")
    named = LocalCluster(memoryx="disk:/a,/b")
    shared = LocalCluster(memoryx="disk:/a", memoryx_shards=2)

    assert (named.shards, named.store_folders(run)) == (2, (Path("/a"), Path("/b")))
    assert shared.store_folders(run) == (Path("/a/shard-0"), Path("/a/shard-1"))
    assert LocalCluster(memoryx="disk", memoryx_shards=2).store_folders(run) == (
        run / "memoryx" / "shard-0",
        run / "memoryx" / "shard-1",
    )
    assert (LocalCluster(memoryx_shards=3).shards, LocalCluster().shards) == (3, 1)
    assert LocalCluster().system_memory_bytes is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": ""}, "name is ''; it names a folder"),
        ({"name": "a/b"}, "name is 'a/b'"),
        ({"model": nn.Linear(2, 2)}, "model is a Linear, but it must be a function that makes one"),
        ({"train": data()}, "train is a DatasetSource, but it must be a function that makes one"),
        ({"train": None}, "train is None"),
        ({"eval": 3}, "eval is a int"),
        ({"loss": "mse"}, "loss is a str, but it must be a function or None"),
        ({"metrics": {"accuracy": 0.5}}, "metric 'accuracy' is a float"),
        ({"optimizer": "adamw"}, "optimizer is a str, but it must be an update rule such as AdamW"),
        ({"optimizer": AdamW}, "optimizer is the class AdamW"),
        ({"steps": 0}, "steps is 0, but it must be a whole number, at least 1"),
        ({"steps": True}, "steps is True"),
        ({"eval_every": -1}, "eval_every is -1"),
        ({"eval_every": 2}, "eval_every is 2, but there is no eval data"),
        ({"eval_batches": 0}, "eval_batches is 0"),
        ({"checkpoint_every": -1}, "checkpoint_every is -1"),
        ({"keep_checkpoints": 0}, "keep_checkpoints is 0"),
        ({"precision": "fp8"}, "precision is 'fp8'; take one of 'fp32'"),
        ({"cluster": "local"}, "cluster is a str"),
    ],
)
def test_a_run_that_cannot_be_is_refused_where_it_is_written(changes, text):
    """The model and the data are not built for it."""
    with pytest.raises(InputError) as error:
        minimal(**changes)

    assert text in str(error.value)


def test_the_run_folder_follows_the_name():
    """Unless it is given."""
    assert minimal(name="x").run_folder == Path("runs/x")
    assert minimal(folder="~/here").run_folder == Path.home() / "here"


def test_a_config_is_derived_not_changed():
    """Frozen data can be handed to every role; what is derived is checked again."""
    config = minimal()

    assert dataclasses.replace(config, steps=9).steps == 9
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 9
    with pytest.raises(InputError, match="steps is -1"):
        dataclasses.replace(config, steps=-1)


def test_describe_shows_every_field_of_everything():
    """Nested rules and schedules, partials by argument name, functions by name, infinities as text."""
    rule = DynamicLossScale(clip_by_global_norm(AdamW(lr=Cosine(0.5, 0.0, 9)), 1.0))
    config = minimal(
        optimizer=rule,
        metrics={"a": torch.mean, "b": lambda x: x},
        cluster=LocalCluster(stall_s=float("inf")),
    )

    described = config.describe()

    assert list(described) == [field.name for field in dataclasses.fields(RunConfig)]
    assert list(described["cluster"])[1:] == [field.name for field in dataclasses.fields(LocalCluster)]
    assert described["optimizer"]["rule"]["rule"]["lr"] == {
        "kind": "Cosine",
        "peak": 0.5,
        "end": 0.0,
        "steps": 9,
    }
    assert described["model"] == {
        "kind": "torch.nn.modules.linear.Linear",
        "in_features": 2,
        "out_features": 3,
    }
    assert described["train"].endswith("test_recipes_config.data")
    assert described["cluster"]["stall_s"] == "inf"
    json.dumps(described)
    assert LocalCluster().describe()["memoryx"] == "ram"
    assert "memoryx: ram" in str(LocalCluster()).splitlines()


def test_text_nests_and_lists_what_has_no_name():
    """Groups of rules print one below the other, by place."""
    rule = per_group([(lambda name, _: "norm" in name, AdamW(lr=0.1)), (lambda *_: True, AdamW(lr=0.2))])

    text = str(minimal(optimizer=rule))

    assert [line for line in text.splitlines() if "lr:" in line] == ["        lr: 0.1", "        lr: 0.2"]
    assert "metrics: none" in text.splitlines()
    assert "0x" not in text


def test_equal_configs_print_alike_whatever_objects_they_hold():
    """A resumed run is another process: no address may show."""
    one, two = (minimal(optimizer=from_torch(functools.partial(torch.optim.RMSprop, lr=0.1))) for _ in "12")

    assert one.describe() == two.describe()
    assert str(one) == str(two)
    assert str(one) != str(minimal())


def test_a_callable_object_prints_as_its_class():
    """Its address would change from run to run."""

    class Loss:
        def __call__(self, output, target):
            return output.mean()

    assert minimal(loss=Loss()).describe()["loss"].endswith("Loss")
