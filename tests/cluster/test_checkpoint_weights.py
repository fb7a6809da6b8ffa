"""Weights of other programs come in by name, one tensor at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from store_cases import linear_records, random_values, same

from openwafer.artifact import TensorType, make_record
from openwafer.base import CheckpointError, InputError
from openwafer.cluster.store import (
    DiskStore,
    RamStore,
    aligned_buffer,
    initialise,
    open_weights,
    save_checkpoint,
    view_tensors,
)

VALUES = {name: value for name, value in random_values(linear_records(2)).items() if "/" not in name}


def write_sharded(folder: Path) -> None:
    """Two shards and an index, as transformers writes them."""
    folder.mkdir()
    weight_map = {}
    for i in range(2):
        part = {name: value for name, value in VALUES.items() if name.startswith(f"h.{i}.")}
        file = f"model-0000{i + 1}-of-00002.safetensors"
        safetensors.torch.save_file(part, folder / file, {"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    )


def write_torch_sharded(folder: Path) -> None:
    folder.mkdir()
    weight_map = {}
    for i in range(2):
        part = {name: value for name, value in VALUES.items() if name.startswith(f"h.{i}.")}
        torch.save(part, folder / f"pytorch_model-{i}.bin")
        weight_map.update(dict.fromkeys(part, f"pytorch_model-{i}.bin"))
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_single(folder: Path) -> None:
    folder.mkdir()
    safetensors.torch.save_file(VALUES, folder / "model.safetensors")


def write_unindexed(folder: Path) -> None:
    folder.mkdir()
    for i in range(2):
        part = {name: value for name, value in VALUES.items() if name.startswith(f"h.{i}.")}
        safetensors.torch.save_file(part, folder / f"part{i}.safetensors")


def write_bin(folder: Path) -> None:
    folder.mkdir()
    torch.save(VALUES, folder / "pytorch_model.bin")


def write_pt(path: Path) -> None:
    torch.save({"state_dict": VALUES, "epoch": 3}, path)


def write_legacy_pt(path: Path) -> None:
    torch.save(VALUES, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    "write",
    [
        write_sharded,
        write_torch_sharded,
        write_single,
        write_unindexed,
        write_bin,
        write_pt,
        write_legacy_pt,
    ],
)
def test_every_common_form_reads_the_same(write: object, tmp_path: Path) -> None:
    """transformers folders of both kinds, single files, wrapped and old files of torch.save."""
    assert callable(write)
    write(tmp_path / "weights")
    weights = open_weights(tmp_path / "weights")
    assert same(dict(weights), VALUES)
    assert weights.types["h.0.bias"] == TensorType("bfloat16", (41,))


def test_a_state_dict_is_weights_too() -> None:
    """A module in memory, whose entries that are no tensors are left out."""
    module = torch.nn.Linear(3, 2)
    weights = open_weights({**module.state_dict(), "_extra_state": {"a": 1}})
    assert same(dict(weights), dict(module.state_dict()))
    assert not weights["weight"].requires_grad


def test_names_are_mapped_and_left_out(tmp_path: Path) -> None:
    """The foreign model has a prefix and buffers that ours does not have."""
    write_single(tmp_path / "w")
    weights = open_weights(
        tmp_path / "w", lambda name: None if name.endswith("bias") else name.replace("h.", "blocks.")
    )
    assert set(weights) == {"blocks.0.weight", "blocks.1.weight"}
    assert "h.0.weight" not in weights
    with pytest.raises(InputError, match=r"maps 'h.\d.\w+' and 'h.\d.\w+' both to 'x'"):
        open_weights(tmp_path / "w", lambda name: "x")


def test_foreign_weights_fill_a_store_record_by_record(tmp_path: Path) -> None:
    """The import of a model larger than RAM; half-precision files fill float32 masters."""
    write_sharded(tmp_path / "w")
    records = linear_records(2)
    store = DiskStore(tmp_path / "store", records)
    weights = open_weights(tmp_path / "w")
    for index in range(len(records)):
        initialise(store, index, weights)
    store.flush(0, {})
    found = view_tensors(records[1], store.read(1, aligned_buffer(records[1].nbytes)))
    assert torch.equal(found["h.1.weight"], VALUES["h.1.weight"])
    assert not found["h.1.weight/exp_avg"].any()
    store.close()


def test_a_file_is_read_one_tensor_at_a_time(tmp_path: Path) -> None:
    """Opening reads no data, and a tensor that was dropped is not kept: files may be larger than RAM."""
    tensors = {f"t{i}": torch.full((1 << 18,), float(i)) for i in range(16)}
    safetensors.torch.save_file(tensors, tmp_path / "m.safetensors")
    weights = open_weights(tmp_path / "m.safetensors")
    (tmp_path / "m.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"m.safetensors is missing"):
        weights["t3"]
    (tmp_path / "elsewhere").rename(tmp_path / "m.safetensors")

    first = weights["t3"]
    assert first.eq(3).all()
    first.zero_()
    assert weights["t3"].eq(3).all()  # read again, not shared


def test_faults_of_foreign_files_are_named(tmp_path: Path) -> None:
    """Each message says which file, and what to do."""
    with pytest.raises(InputError, match=r"no weights at .*nothing: no such file"):
        open_weights(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"no weights in .*none of model.safetensors.index.json"):
        open_weights(tmp_path)
    write_sharded(tmp_path / "w")
    (tmp_path / "w" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors is missing"):
        open_weights(tmp_path / "w")
    index = tmp_path / "w" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"other": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"places 'other' in model-00001.*does not hold it"):
        open_weights(tmp_path / "w")
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(CheckpointError, match="is no plain file name"):
        open_weights(tmp_path / "w")
    (tmp_path / "bad.pt").write_bytes(b"nothing of torch")
    with pytest.raises(CheckpointError, match=r"bad.pt cannot be read as weights"):
        open_weights(tmp_path / "bad.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(CheckpointError, match=r"holds a dict without tensors, not a state dict"):
        open_weights(tmp_path / "empty.pt")
    (tmp_path / "short.safetensors").write_bytes(b"\x08\0\0")
    with pytest.raises(CheckpointError, match=r"short.safetensors is damaged: 3 bytes found, 8 expected"):
        open_weights(tmp_path / "short.safetensors")


@pytest.mark.slow
def test_transformers_loads_a_checkpoint_unchanged(tmp_path: Path) -> None:
    """With the model's config.json beside them, the weights are a transformers folder: no conversion."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=11, n_positions=4)
    model = transformers.GPT2LMHeadModel(config)
    parameters = dict(model.named_parameters())  # the tied head is not among them
    records = [
        make_record(
            key,
            [
                (name, TensorType("float32", tuple(p.shape)), "float32", True)
                for name, p in parameters.items()
                if (name.split(".")[2] if ".h." in name else "rest") == key
            ],
            [(f"{key}/step", TensorType("int64", ()))],
        )
        for key in ("0", "1", "rest")
    ]
    store = RamStore(records)
    for index in range(3):
        initialise(store, index, {name: p.detach() for name, p in parameters.items()})
    path = save_checkpoint(tmp_path, store, 0, {})
    config.save_pretrained(path)

    loaded = transformers.GPT2LMHeadModel.from_pretrained(path)

    assert same(
        {k: p.detach() for k, p in loaded.named_parameters()}, {k: p.detach() for k, p in parameters.items()}
    )


class Evil:
    """Unpickles to a call."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_code_in_a_file_is_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights from the internet are data: a pickle that calls something is refused."""
    torch.save({"w": torch.ones(1), "evil": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil.pt cannot be read as weights"):
        open_weights(tmp_path / "evil.pt")
    assert "executed" not in capsys.readouterr().out
