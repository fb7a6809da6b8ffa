"""The store keeps what it was given, in RAM and on disk, in files that others can read."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from store_cases import filled, linear_records, random_values, record_lists, same

from openwafer.artifact import Record, TensorType, make_record
from openwafer.base import PAGE_BYTES, CheckpointError, InputError
from openwafer.cluster.store import (
    NO_VALUES,
    DiskStore,
    RamStore,
    aligned_buffer,
    initialise,
    view_tensors,
)


@pytest.fixture(params=["disk", "memory file system"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on the file system of the tests, and one in memory, where direct I/O is often refused."""
    if request.param == "disk":
        yield tmp_path / "store"
        return
    if not Path("/dev/shm").is_dir():
        pytest.skip("no file system in memory here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name) / "store"


def read_all(store: DiskStore | RamStore) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for index, record in enumerate(store.records):
        tensors.update(view_tensors(record, store.read(index, aligned_buffer(record.nbytes))))
    return tensors


def real_tensors(path: Path) -> dict[str, torch.Tensor]:
    return {k: v for k, v in safetensors.torch.load_file(path).items() if not k.startswith("_pad.")}


@given(records=record_lists(), cached=st.sets(st.integers(0, 3)), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_disk_store_gives_back_what_it_was_given(
    records: list[Record], cached: set[int], seed: int
) -> None:
    """Any layout, cached or not, survives a flush and another process's opening; safetensors agrees."""
    values = random_values(records, seed)
    cached = {index for index in cached if index < len(records)}
    with tempfile.TemporaryDirectory() as folder:
        store = DiskStore(folder, records, cached)
        for index, record in enumerate(records):
            store.write(index, 7, filled(record, values))
        store.flush(7, {"loss_scale": float("inf"), "lr": 0.1})
        store.close()

        again = DiskStore(folder, records, cached)
        assert same(read_all(again), values)
        assert (again.step, again.globals) == (7, {"loss_scale": float("inf"), "lr": 0.1})
        again.verify()
        again.close()

        from_files: dict[str, torch.Tensor] = {}
        for path in Path(folder, "records").iterdir():
            from_files.update(real_tensors(path))
        assert same(from_files, values)


def test_record_files_are_safetensors_with_page_aligned_data(folder: Path) -> None:
    """The layout of a record is the layout of its file, so that a region is one aligned read."""
    records = linear_records(1)
    values = random_values(records)
    store = DiskStore(folder, records)
    store.write(0, 3, filled(records[0], values))

    path = next((folder / "records").iterdir())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"status": "complete", "step": f"{3:020d}", "record": "layer.0"}
        assert torch.equal(file.get_tensor("h.0.weight/exp_avg"), values["h.0.weight/exp_avg"])
    data_at = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert data_at % PAGE_BYTES == 0
    assert path.stat().st_size == data_at + records[0].nbytes
    store.close()


def test_weights_reads_the_weight_region_only(folder: Path) -> None:
    """A forward pass needs no optimizer state, and the stats count what moved."""
    records = linear_records(2)
    values = random_values(records)
    store = DiskStore(folder, records)
    store.write(1, 1, filled(records[1], values))
    assert store.stats.bytes_written == records[1].nbytes

    into = aligned_buffer(records[1].weight_bytes)
    view = store.weights(1, into)

    assert len(view) == records[1].weight_bytes
    assert bytes(view) == bytes(filled(records[1], values)[: len(view)])
    assert store.stats.bytes_read == records[1].weight_bytes
    assert store.stats.read_s > 0
    store.close()


def test_a_large_record_moves_in_chunks(folder: Path) -> None:
    """Regions above one chunk (8 MiB) cross its boundary unharmed."""
    records = linear_records(1, width=1600)
    values = random_values(records)
    store = DiskStore(folder, records)
    store.write(0, 1, filled(records[0], values))

    assert same(read_all(store), values)
    store.close()


def test_ram_records_are_read_and_updated_in_place() -> None:
    """RAM is the store: no copy on a read, none on a write of the same memory."""
    records = linear_records(2)
    store = RamStore(records)
    initialise(store, 0, random_values(records))

    view = store.weights(0)
    view_tensors(records[0], store.read(0))["h.0.weight"].fill_(5)
    store.write(0, 1, store.read(0))

    assert torch.frombuffer(view, dtype=torch.float32)[-1024 // 4 - 1600 :].eq(5).any()
    assert (store.step_of(0), store.step_of(1)) == (1, NO_VALUES)


def test_ram_store_uses_segments_that_others_map() -> None:
    """Systems on the host map the same segment, so a write must reach it."""
    records = linear_records(1)
    segment = SharedMemory(create=True, size=records[0].nbytes)
    try:
        store = RamStore(records, [segment.buf])
        buffer = filled(records[0], random_values(records))
        store.write(0, 4, buffer)
        assert bytes(segment.buf[: records[0].nbytes]) == bytes(buffer)
        store.close()
    finally:
        segment.close()
        segment.unlink()


def test_a_short_buffer_is_refused() -> None:
    """A segment of another plan would be overrun."""
    records = linear_records(1)
    with pytest.raises(InputError, match=r"'layer.0' needs \d+ bytes, the buffer has 4096"):
        RamStore(records, [aligned_buffer(4096)])


def test_cached_records_reach_the_disk_at_flush(tmp_path: Path) -> None:
    """A record in RAM costs no disk traffic per step; until the flush the old checkpoint stands."""
    records = linear_records(2)
    first, second = random_values(records, 1), random_values(records, 2)
    store = DiskStore(tmp_path, records, cached={0, 1})
    for index, record in enumerate(records):
        store.write(index, 1, filled(record, first))
    store.flush(1, {})
    written = store.stats.bytes_written
    for index, record in enumerate(records):
        store.write(index, 2, filled(record, second))

    assert store.stats.bytes_written == written
    assert store.read(0) is not None
    assert same(read_all(store), second)
    store.close()  # as a crash: not flushed

    again = DiskStore(tmp_path, records)
    assert again.step == 1
    assert same(read_all(again), first)
    again.close()


def test_frozen_records_need_no_write_per_step(tmp_path: Path) -> None:
    """A record without trained weights carries every step; one that is trained must be at the flushed one."""
    frozen = make_record("embed", [("e", TensorType("float32", (3,)), "float32", False)], [])
    records = [frozen, *linear_records(1)]
    values = random_values(records)
    store = DiskStore(tmp_path, records)
    for index, record in enumerate(records):
        store.write(index, 0, filled(record, values))
    store.flush(0, {})
    store.write(1, 1, filled(records[1], values))
    moved = store.stats.bytes_written
    store.flush(1, {})
    assert store.stats.bytes_written == moved

    with pytest.raises(CheckpointError, match=r"not at step 2: record 1 \('layer.0'\) is at step 1"):
        store.flush(2, {})
    store.keep(1, 2)
    store.flush(2, {})
    store.close()

    again = DiskStore(tmp_path, records)
    assert again.step == 2
    assert again.step_of(0) == again.step_of(1) == 2
    assert same(read_all(again), values)
    again.close()


def test_fresh_reuses_the_files_and_gives_up_the_values(tmp_path: Path) -> None:
    """A run that loads a checkpoint refills the files; until then they hold nothing that may be read."""
    records = linear_records(2)
    store = DiskStore(tmp_path, records)
    for index, record in enumerate(records):
        store.write(index, 1, filled(record, random_values(records)))
    store.flush(1, {})
    store.close()
    inodes = {path.name: path.stat().st_ino for path in (tmp_path / "records").iterdir()}

    store = DiskStore(tmp_path, records[:1], fresh=True)

    assert {path.name: path.stat().st_ino for path in (tmp_path / "records").iterdir()} == dict(
        [sorted(inodes.items())[0]]
    )
    assert store.step is None
    with pytest.raises(CheckpointError, match="has no values yet"):
        store.read(0, aligned_buffer(records[0].nbytes))
    store.close()
    with pytest.raises(CheckpointError, match="is reserved at step 0, it was never flushed"):
        DiskStore(tmp_path, records[:1])


def test_the_manifest_lists_files_with_sizes_and_hashes(tmp_path: Path) -> None:
    """People and tools check a store without openwafer: the manifest is plain JSON."""
    records = linear_records(1)
    store = DiskStore(tmp_path, records)
    store.write(0, 2, filled(records[0], random_values(records)))
    store.flush(2, {"step": 2.0}, hashes=False)
    body = json.loads((tmp_path / "manifest.json").read_text())["body"]
    assert body["records"][0]["xxh3"] == ""

    store.flush(2, {"step": 2.0})
    body = json.loads((tmp_path / "manifest.json").read_text())["body"]
    file = tmp_path / "records" / body["records"][0]["file"]
    assert (body["step"], body["globals"]) == (2, {"step": "2.0"})
    assert len(body["records"][0]["xxh3"]) == 16
    assert body["records"][0]["nbytes"] == file.stat().st_size
    store.close()


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_initialise_fills_one_record_from_any_source(kind: str, tmp_path: Path) -> None:
    """A mapping, a function or pairs; weights are cast to the stored dtype, state starts at zero."""
    records = linear_records(3)
    values = random_values(records)
    doubles = {name: value.double() if value.is_floating_point() else value for name, value in values.items()}
    weights = {name: value for name, value in doubles.items() if "/" not in name}
    store = RamStore(records) if kind == "ram" else DiskStore(tmp_path, records)

    scratch = aligned_buffer(records[0].nbytes)
    initialise(store, 0, doubles, scratch=scratch)
    initialise(store, 1, weights.__getitem__, scratch=scratch)
    initialise(store, 2, iter(doubles.items()))

    expected = {
        name: value if "h.1." not in name or name in weights else value * 0 for name, value in values.items()
    }
    assert same(read_all(store), expected)
    assert store.step_of(2) == 0
    store.close()


def test_equal_values_make_equal_bytes() -> None:
    """Hashes compare runs, so what a reused scratch held between the tensors must not reach the store."""
    records = linear_records(1)
    values = random_values(records)
    first, second = RamStore(records), RamStore(records, [filled(records[0], values)])
    initialise(first, 0, values)
    initialise(second, 0, values)
    assert first.read(0) == second.read(0)


def test_initialise_says_what_is_missing_or_misshapen() -> None:
    """The user sees the wrong name beside the right one."""
    records = linear_records(1)
    store = RamStore(records)
    values = random_values(records)
    values["h.0.weigth"] = values.pop("h.0.weight")
    with pytest.raises(CheckpointError, match=r"no value for weight 'h.0.weight'.*nearest: 'h.0.weigth'"):
        initialise(store, 0, values)
    values["h.0.weight"] = torch.zeros(3)
    with pytest.raises(InputError, match=r"must be float32\[40, 40\].*is float32\[3\]"):
        initialise(store, 0, values)


def test_one_name_in_two_records_is_refused() -> None:
    """Checkpoints go by names."""
    record = linear_records(1)[0]
    with pytest.raises(InputError, match="a name stands for one tensor"):
        RamStore([record, record])
