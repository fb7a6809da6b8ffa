"""Reading checkpoints, whole and damaged ones."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from openwafer.base import CheckpointError, InputError, StorageError, UnsupportedModelError
from openwafer.serve.model import Checkpoint, Loader, Precision, layer_plan, make_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("demo"), layers=2, hidden=64)


@pytest.fixture
def folder(demo, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(demo, tmp_path / "model")


def rewrite(folder, change):
    """Let `change` edit the tensors, by name."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def shard(folder):
    """Deal the tensors over three files and an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {}
    for part in range(3):
        file = f"model-{part + 1:05d}-of-00003.safetensors"
        save_file({name: tensors[name] for name in names[part::3]}, folder / file)
        places |= dict.fromkeys(names[part::3], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_fused_tensor_holds_its_sources_row_by_row(demo, dtype):
    """As stored, and converted as torch converts."""
    stored = load_file(demo / "model.safetensors")
    prefix = "model.layers.1.self_attn"
    expected = torch.cat([stored[f"{prefix}.{part}_proj.weight"] for part in "qkv"]).to(dtype)
    checkpoint = Checkpoint(demo)

    qkv = checkpoint.load(layer_plan(checkpoint.config, 1)["qkv"], dtype)

    assert qkv.dtype == dtype
    assert torch.equal(qkv, expected)


def test_shards_read_as_one_file_does(demo, folder):
    """The index says where each tensor is."""
    shard(folder)
    whole, parts = Checkpoint(demo), Checkpoint(folder)

    for name, stored in whole.tensors.items():
        a, b = torch.empty(stored.shape, dtype=stored.dtype), torch.empty(stored.shape, dtype=stored.dtype)
        whole.read(name, a)
        parts.read(name, b)
        assert torch.equal(a, b)


def test_a_large_tensor_is_converted_in_pieces(folder, monkeypatch):
    """Pieces are whole rows; the last may be shorter. Here 5 rows of 128 bytes at a time."""
    monkeypatch.setattr("openwafer.serve.model._checkpoint._CHUNK_BYTES", 5 * 128 + 1)
    expected = load_file(folder / "model.safetensors")["lm_head.weight"].float()
    head = torch.empty(expected.shape)

    Checkpoint(folder).read("lm_head.weight", head)

    assert torch.equal(head, expected)


def test_names_may_lack_the_prefix(folder):
    """Checkpoints of the bare model are written without `model.`."""
    rewrite(folder, lambda t: [t.__setitem__(n.removeprefix("model."), t.pop(n)) for n in list(t)])

    assert Checkpoint(folder).tensors["norm.weight"].shape == (64,)


def test_progress_counts_every_byte_once(demo):
    """The bar ends full, and never runs back."""
    seen = []
    checkpoint = Checkpoint(demo)
    loader = Loader(checkpoint, Precision(torch.float32), progress=lambda *report: seen.append(report))

    loader.embedding()
    for index in range(checkpoint.config.layers):
        loader.layer(index)
    loader.head()

    done = [report[1] for report in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1][2] == sum(stored.nbytes for stored in checkpoint.tensors.values())
    assert [report[0] for report in seen][:2] == ["embedding", "layer 0"]


def test_a_part_of_the_layers_has_a_bar_of_its_own(demo):
    """A stage of a pipeline loads its layers only."""
    seen = []
    checkpoint = Checkpoint(demo)
    loader = Loader(
        checkpoint,
        Precision(torch.float32),
        layers=range(1, 2),
        embedding=False,
        head=False,
        progress=lambda *report: seen.append(report),
    )

    loader.layer(1)

    assert seen[-1][1] == seen[-1][2] > 0


def test_a_missing_tensor_is_named(folder):
    """Before anything is loaded."""
    rewrite(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))

    with pytest.raises(
        CheckpointError, match=r"no tensor 'layers\.1\.mlp\.up_proj\.weight'.*copy the folder"
    ):
        Checkpoint(folder)


def test_a_missing_head_asks_whether_it_is_tied(folder):
    """Then config.json is what is wrong."""
    rewrite(folder, lambda tensors: tensors.pop("lm_head.weight"))

    with pytest.raises(CheckpointError, match="must say tie_word_embeddings"):
        Checkpoint(folder)


def test_a_wrong_shape_names_both(folder):
    """Weights and config.json of two models."""
    rewrite(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(65)}))

    with pytest.raises(
        CheckpointError, match=r"'norm\.weight' has shape \[65\], and config\.json asks for \[64\]"
    ):
        Checkpoint(folder)


def test_whole_numbers_are_no_weights(folder):
    """A quantised checkpoint whose config.json does not say so."""
    rewrite(folder, lambda t: t.update({"lm_head.weight": t["lm_head.weight"].to(torch.int8)}))

    with pytest.raises(UnsupportedModelError, match="stored as int8"):
        Checkpoint(folder)


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_truncated_file_is_damaged(folder, keep):
    """Cut in the length, in the header and in the data."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:keep])

    with pytest.raises(
        CheckpointError, match=r"model\.safetensors is damaged: \d+ bytes found, \d+ expected"
    ):
        Checkpoint(folder)


def test_a_file_that_shrinks_after_it_was_opened_is_an_error(folder):
    """Mapped, it would have killed the process."""
    checkpoint = Checkpoint(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    last = max(checkpoint.tensors, key=lambda name: checkpoint.tensors[name].offset)
    stored = checkpoint.tensors[last]

    with pytest.raises(CheckpointError, match="became shorter"):
        checkpoint.read(last, torch.empty(stored.shape, dtype=stored.dtype))
    path.unlink()
    with pytest.raises(StorageError, match="cannot be opened any more"):
        checkpoint.read(last, torch.empty(stored.shape, dtype=stored.dtype))


def test_a_missing_shard_is_named(folder):
    """With how many there should be."""
    shard(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()

    with pytest.raises(
        CheckpointError, match=r"model-00002-of-00003\.safetensors is missing: one of 3 files"
    ):
        Checkpoint(folder)


def test_an_index_that_lies_is_found(folder):
    """A tensor that its file does not hold, a file outside of the folder, no index at all."""
    shard(folder)
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": places | {"extra": "model-00001-of-00003.safetensors"}}))
    with pytest.raises(CheckpointError, match="places 'extra' in model-00001"):
        Checkpoint(folder)
    index.write_text(json.dumps({"weight_map": places | {"extra": "../other.safetensors"}}))
    with pytest.raises(CheckpointError, match="is no plain file name"):
        Checkpoint(folder)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="is no index of shards"):
        Checkpoint(folder)
    index.unlink()
    with pytest.raises(InputError, match=r"3 \.safetensors files and no model\.safetensors\.index\.json"):
        Checkpoint(folder)


def test_other_formats_are_named(folder):
    """Weights that are there, but not as safetensors."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    with pytest.raises(InputError, match=r"pytorch_model\.bin cannot be served, convert it to safetensors"):
        Checkpoint(folder)


def test_demos_of_one_seed_are_the_same(demo, tmp_path):
    """So that an answer can be repeated."""
    again = make_demo(tmp_path / "again", layers=2, hidden=64)
    other = make_demo(tmp_path / "other", seed=1, layers=2, hidden=64)

    for path in demo.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()
    assert (other / "model.safetensors").read_bytes() != (demo / "model.safetensors").read_bytes()


def test_a_demo_that_cannot_be_written_says_where(tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match="cannot be written to"):
        make_demo(tmp_path / "file", layers=1, hidden=32)
