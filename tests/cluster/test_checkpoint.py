"""Checkpoints hold every tensor by the user's name, and other programs read them as they are."""

from __future__ import annotations

import json
import tempfile
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from store_cases import filled, linear_records, random_values, record_lists, same

from openwafer.artifact import Record, make_record
from openwafer.base import CheckpointError, InputError
from openwafer.cluster.store import (
    Checkpoint,
    CheckpointWriter,
    DiskStore,
    RamStore,
    aligned_buffer,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    open_weights,
    save_checkpoint,
    verify_checkpoint,
    view_tensors,
)


def filled_store(records: list[Record], step: int = 1, seed: int = 0) -> RamStore:
    store = RamStore(records)
    for index, record in enumerate(records):
        store.write(index, step, filled(record, random_values(records, seed)))
    return store


def read_all(store: RamStore | DiskStore) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for index, record in enumerate(store.records):
        tensors.update(view_tensors(record, store.read(index, aligned_buffer(record.nbytes))))
    return tensors


def resplit(records: list[Record], parts: int) -> list[Record]:
    """The same tensors, cut into records in another way and order."""
    weights = [weight for record in records for weight in record.weights]
    state = [tensor for record in records for tensor in record.state]
    return [
        make_record(
            f"part{part}",
            [(w.name, w.type, w.dtype, w.trained) for w in weights[part::parts]],
            [(s.name, s.type) for s in state[parts - 1 - part :: parts]],
        )
        for part in range(parts)
    ]


globals_of_jobs = st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False), max_size=3)


@given(records=record_lists(), globals=globals_of_jobs, parts=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_checkpoint_gives_back_what_was_saved(
    records: list[Record], globals: dict[str, float], parts: int, seed: int
) -> None:
    """Any layout, into the same records and into others; plain safetensors agrees on every file."""
    values = random_values(records, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = save_checkpoint(folder, filled_store(records, 9, seed), 9, globals)

        for target in (RamStore(records), RamStore(resplit(records, parts))):
            checkpoint = load_checkpoint(path, target, verify=True)
            assert (checkpoint.step, checkpoint.globals) == (9, globals)
            assert same(read_all(target), values)
            assert {target.step_of(index) for index in range(len(target.records))} == {9}

        weights = {name: values[name] for record in records for name in (w.name for w in record.weights)}
        assert same(checkpoint.state_dict(), weights)
        from_files: dict[str, torch.Tensor] = {}
        for file in path.glob("*.safetensors"):
            from_files.update(safetensors.torch.load_file(file))
        assert same(from_files, values)


def test_the_folder_is_what_transformers_and_safetensors_tools_expect(tmp_path: Path) -> None:
    """Weights apart from optimizer state, an index with every weight, format `pt`."""
    records = linear_records(2)
    path = save_checkpoint(tmp_path, filled_store(records, 12), 12, {})

    assert path == tmp_path / "checkpoint-12"
    assert sorted(file.name for file in path.iterdir()) == [
        "manifest.json",
        "model.safetensors.index.json",
        "state-00001-of-00002.safetensors",
        "state-00002-of-00002.safetensors",
        "weights-00001-of-00002.safetensors",
        "weights-00002-of-00002.safetensors",
    ]
    index = json.loads((path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * (41 * 2 + 1600 * 4)
    assert index["weight_map"]["h.1.weight"] == "weights-00002-of-00002.safetensors"
    assert len(index["weight_map"]) == 4
    with safetensors.safe_open(path / "weights-00001-of-00002.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert same(dict(open_weights(path)), Checkpoint.open(path).state_dict())


def test_extra_comes_back_as_it_was(tmp_path: Path) -> None:
    """Data position, configuration and generator states; bytes and integer keys included."""
    extra = {"position": {3: [1, 2]}, "rng": b"\x00\xff", "config": {"lr": 1e-3, "name": "gpt", "none": None}}
    records = linear_records(1)
    path = save_checkpoint(tmp_path, filled_store(records), 1, {"nan": float("nan")}, extra)
    checkpoint = Checkpoint.open(path)
    assert checkpoint.extra == extra
    assert repr(checkpoint.globals["nan"]) == "nan"
    with pytest.raises(InputError, match="`extra` of a checkpoint must hold numbers"):
        CheckpointWriter(tmp_path, 2, records, {}, {"model": object()})
    assert list_checkpoints(tmp_path) == (path,)


def test_records_are_added_in_any_order_from_any_thread(tmp_path: Path) -> None:
    """MemoryX copies each record out when the run is done with it."""
    records = linear_records(6)
    values = random_values(records)
    writer = CheckpointWriter(tmp_path, 5, records, {"step": 5.0})
    threads = [
        threading.Thread(target=lambda i=i: writer.add(i, filled(records[i], values)))
        for i in (4, 1, 5, 0, 3, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list_checkpoints(tmp_path) == ()
    path = writer.commit()

    assert list_checkpoints(tmp_path) == (path,)
    store = RamStore(records)
    load_checkpoint(path, store)
    assert same(read_all(store), values)


def test_a_writer_refuses_to_commit_what_is_not_all_there(tmp_path: Path) -> None:
    """A checkpoint without a layer is none."""
    records = linear_records(2)
    writer = CheckpointWriter(tmp_path, 5, records, {})
    writer.add(1, filled(records[1], random_values(records)))
    with pytest.raises(InputError, match="record 1 of the checkpoint of step 5 was added twice"):
        writer.add(1, filled(records[1], random_values(records)))
    with pytest.raises(InputError, match="already writing a checkpoint of step 5"):
        CheckpointWriter(tmp_path, 5, records, {})
    with pytest.raises(CheckpointError, match=r"lacks 1 of 2 records \(first: 'layer.0'\)"):
        writer.commit()
    writer.abort()
    with pytest.raises(CheckpointError, match="already committed or aborted"):
        writer.add(0, filled(records[0], random_values(records)))
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_not_at_the_step_is_not_saved(tmp_path: Path) -> None:
    """Half of an update is no state of the run."""
    records = linear_records(2)
    store = filled_store(records, 1)
    store.write(1, 2, store.read(1))
    with pytest.raises(CheckpointError, match=r"not at step 2: record 0 \('layer.0'\) is at step 1"):
        save_checkpoint(tmp_path, store, 2, {})
    assert list(tmp_path.iterdir()) == []


def test_a_disk_store_saves_and_resumes(tmp_path: Path) -> None:
    """The store of a killed run is torn; the checkpoint refills it."""
    records = linear_records(2)
    store = DiskStore(tmp_path / "store", records, cached={1})
    for index, record in enumerate(records):
        store.write(index, 3, filled(record, random_values(records)))
    path = save_checkpoint(tmp_path, store, 3, {"loss_scale": 2.0})
    store.write(0, 4, filled(records[0], random_values(records, 1)))
    store.close()
    with pytest.raises(CheckpointError, match="torn"):
        DiskStore(tmp_path / "store", records)

    store = DiskStore(tmp_path / "store", records, fresh=True)
    checkpoint = load_checkpoint(path, store)
    store.flush(checkpoint.step, checkpoint.globals)
    assert (store.step, store.globals) == (3, {"loss_scale": 2.0})
    assert same(read_all(store), random_values(records))
    store.close()


def test_keep_removes_what_was_written_first(tmp_path: Path) -> None:
    """A long run must not fill the disk; the newest stays even if its step is lower, after a rewind."""
    store = filled_store(linear_records(1))
    for step in (8, 9, 10):
        for index in range(len(store.records)):
            store.keep(index, step)
        save_checkpoint(tmp_path, store, step, {}, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    store.keep(0, 2)
    save_checkpoint(tmp_path, store, 2, {}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    with pytest.raises(InputError, match="keep=0"):
        save_checkpoint(tmp_path, store, 2, {}, keep=0)


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    """A rewound run comes to the same step again, and its values count."""
    records = linear_records(1)
    save_checkpoint(tmp_path, filled_store(records, 4, seed=1), 4, {})
    path = save_checkpoint(tmp_path, filled_store(records, 4, seed=2), 4, {})
    store = RamStore(records)
    load_checkpoint(path, store)
    assert same(read_all(store), random_values(records, 2))
    assert list(tmp_path.iterdir()) == [path]


def test_the_latest_checkpoint_is_that_of_the_highest_step(tmp_path: Path) -> None:
    """By number, not by text: 10 comes after 9."""
    assert latest_checkpoint(tmp_path / "none yet") is None
    store = filled_store(linear_records(1), 9)
    save_checkpoint(tmp_path, store, 9, {})
    store.keep(0, 10)
    save_checkpoint(tmp_path, store, 10, {})
    latest = latest_checkpoint(tmp_path)
    assert latest == tmp_path / "checkpoint-10"
    assert verify_checkpoint(latest).step == 10


def test_a_checkpoint_of_another_model_says_what_differs(tmp_path: Path) -> None:
    """First names of each kind, and the nearest match, instead of a stack of keys."""
    records = linear_records(3)
    path = save_checkpoint(tmp_path, filled_store(records), 1, {})
    renamed = make_record(
        "layer.0",
        [(w.name.replace("weight", "kernel"), w.type, w.dtype, True) for w in records[0].weights],
        [],
    )
    wider = linear_records(2, width=41)[1]
    store = RamStore([renamed, wider])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, store)
    text = str(caught.value)
    assert "it lacks 'h.0.kernel' (nearest: 'h.0.weight')" in text
    assert "the model lacks 'h.0.weight', " in text
    assert "'h.1.bias' is bfloat16[41] there, bfloat16[42] here" in text
    assert "and 4 more; of another type" in text
    assert store.step_of(1) == -1

    checkpoint = Checkpoint.open(path)
    with pytest.raises(CheckpointError, match=r"it lacks 'h.0.kernel'"):
        checkpoint.load_record(renamed, aligned_buffer(renamed.nbytes))
    with pytest.raises(CheckpointError, match=r"no tensor 'h.0.wight' \(nearest: 'h.0.weight'\)"):
        checkpoint.tensor("h.0.wight")
    checkpoint.load_record(records[1], aligned_buffer(records[1].nbytes))  # extra names are no fault here
