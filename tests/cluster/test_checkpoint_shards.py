"""Checkpoints of tensors that records hold in parts: whole for every reader, whoever cut them and however."""

from __future__ import annotations

from itertools import pairwise, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from store_cases import filled, random_values

from openwafer.artifact import Part, TensorType, make_record
from openwafer.base import CheckpointError, InputError
from openwafer.cluster.store import (
    Checkpoint,
    CheckpointWriter,
    RamStore,
    aligned_buffer,
    initialise,
    open_weights,
    verify_checkpoint,
    view_tensors,
)

ROWS, WIDTH = 23, 5
WEIGHT, MOMENT, STEP, NORM = "wte.weight", "wte.weight/exp_avg", "wte.weight/step", "norm.weight"


def records(cuts):
    """A table in shards that begin at `cuts`, each with a moment and a step count, and a norm beside the first."""
    made = []
    for start, stop in pairwise([*cuts, ROWS]):
        shard = WEIGHT if len(cuts) == 1 else f"{WEIGHT}[{start}:{stop}]"
        kind = TensorType("float32", (stop - start, WIDTH))
        weights = [(shard, kind, "bfloat16", True)]
        if not made:
            weights.insert(0, (NORM, TensorType("bfloat16", (WIDTH,)), "bfloat16", True))
        state = [(f"{shard}/exp_avg", kind), (f"{shard}/step", TensorType("float32", ()))]
        parts = {
            shard: Part(WEIGHT, (ROWS, WIDTH), start),
            f"{shard}/exp_avg": Part(MOMENT, (ROWS, WIDTH), start),
            f"{shard}/step": Part(STEP, (), start),
        }
        made.append(make_record(shard, weights, state, parts if len(cuts) > 1 else None))
    return made


def values_for(cuts, whole):
    """The values of each tensor of `records(cuts)`, cut out of the whole ones."""
    found = {}
    for record in records(cuts):
        for tensor in (*record.weights, *record.state):
            value = whole[tensor.whole]
            if tensor.part is not None and tensor.shape:
                value = value[tensor.part.start : tensor.part.start + tensor.shape[0]]
            found[tensor.name] = value
    return found


def written(folder, cuts, whole, order=None):
    """A checkpoint of the table in shards, added in some order."""
    parts, values = records(cuts), values_for(cuts, whole)
    with CheckpointWriter(folder, 1, parts, {}) as writer:
        for index in order or range(len(parts)):
            writer.add(index, filled(parts[index], values))
        return writer.commit()


WHOLE = random_values(records([0]))


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_parts_added_in_any_order_make_one_tensor(order, tmp_path):
    """MemoryX adds records from last to first, and others as they come; the file is the same."""
    path = written(tmp_path, [0, 9, 17], WHOLE, order)

    found = {}
    for file in path.glob("*.safetensors"):
        found.update(load_file(file))
    assert found.keys() == WHOLE.keys()
    assert all(torch.equal(found[name], WHOLE[name]) for name in WHOLE)
    assert verify_checkpoint(path).state_dict().keys() == {WEIGHT, NORM}


def test_a_table_lies_in_one_file_that_the_index_names(tmp_path):
    """transformers and others open the file that the index names, and find the tensor there whole."""
    path = written(tmp_path, [0, 9, 17], WHOLE)

    opened = open_weights(path)
    assert opened.types[WEIGHT] == TensorType("float32", (ROWS, WIDTH))
    assert torch.equal(opened[WEIGHT], WHOLE[WEIGHT])
    assert sorted(file.name for file in path.glob("weights-*")) == ["weights-00001-of-00003.safetensors"]


cut_lists = st.sets(st.integers(1, ROWS - 1), max_size=4).map(lambda cuts: [0, *sorted(cuts)])


@settings(deadline=None, max_examples=25)
@given(before=cut_lists, after=cut_lists)
def test_a_checkpoint_loads_into_records_of_any_cut(before, after, tmp_path_factory):
    """What is written in some parts, or whole, is read in others: each record takes its own rows."""
    checkpoint = Checkpoint.open(written(tmp_path_factory.mktemp("cut"), before, WHOLE))
    expected = values_for(after, WHOLE)

    checkpoint.check(records(after))
    for record in records(after):
        buffer = checkpoint.load_record(record, aligned_buffer(record.nbytes))
        for name, value in view_tensors(record, buffer).items():
            assert torch.equal(value, expected[name]), name


def test_a_checkpoint_that_lacks_a_part_is_not_committed(tmp_path):
    """Its file would hold rows of nothing."""
    parts, values = records([0, 9, 17]), values_for([0, 9, 17], WHOLE)
    writer = CheckpointWriter(tmp_path, 1, parts, {})
    for index in (0, 2):
        writer.add(index, filled(parts[index], values))

    with pytest.raises(CheckpointError, match=r"lacks 1 of 3 records \(first: 'wte.weight\[9:17\]'\)"):
        writer.commit()
    writer.abort()


def test_parts_that_leave_a_gap_are_refused(tmp_path):
    """Before anything is written: the bytes between them would be zeros that nobody meant."""
    parts = records([0, 9, 17])

    with pytest.raises(InputError, match=r"parts of 'wte.weight' .* not all of it once"):
        CheckpointWriter(tmp_path, 1, [parts[0], parts[2]], {})


def test_another_vocabulary_is_named_when_a_checkpoint_is_read(tmp_path):
    """The whole shapes are compared, so that a shard never takes rows of a longer or shorter table."""
    shorter = {**WHOLE, WEIGHT: WHOLE[WEIGHT], MOMENT: WHOLE[MOMENT]}
    checkpoint = Checkpoint.open(written(tmp_path, [0, 9], shorter))
    shard = f"{WEIGHT}[0:9]"
    longer = make_record(
        "longer",
        [(shard, TensorType("float32", (9, WIDTH)), "float32", True)],
        [],
        {shard: Part(WEIGHT, (ROWS + 1, WIDTH), 0)},
    )

    with pytest.raises(
        CheckpointError, match=rf"'wte.weight' is float32\[{ROWS}, 5\] there, float32\[24, 5\] here"
    ):
        checkpoint.load_record(longer, aligned_buffer(longer.nbytes))


@pytest.mark.parametrize("kind", ["safetensors", "torch", "mapping"])
def test_rows_of_imported_weights_are_read_alone(kind, tmp_path):
    """A shard of an imported table needs its own rows; the others stay where they are."""
    table = WHOLE[WEIGHT]
    source = {"table": table}
    if kind == "safetensors":
        source = tmp_path / "model.safetensors"
        save_file({"table": table}, source)
    elif kind == "torch":
        source = tmp_path / "model.pt"
        torch.save({"table": table}, source)

    found = open_weights(source).rows("table", 9, 17)

    assert torch.equal(found, table[9:17])


def test_initial_values_fill_shards_from_the_whole(tmp_path):
    """A store asks for the user's name and takes its rows."""
    parts = records([0, 9, 17])
    store = RamStore(parts)

    for index in range(3):
        initialise(store, index, WHOLE)

    rows = [view_tensors(part, store.read(i)) for i, part in enumerate(parts)]
    table = torch.cat(
        [found[f"{WEIGHT}[{a}:{b}]"] for found, (a, b) in zip(rows, pairwise([0, 9, 17, 23]), strict=True)]
    )
    assert torch.equal(table, WHOLE[WEIGHT])
