"""What `data=` takes: text, token files and HDF5, with a part kept for evaluation."""

from __future__ import annotations

import gzip

import h5py
import numpy as np
import pytest
import torch
from recipe_cases import load

from openwafer.base import InputError
from openwafer.train.data import ByteText


def every_id(source):
    batches = [source.batch(step) for step in range(source.steps_per_epoch)]
    return torch.cat([batch["input_ids"] for batch in batches])


@pytest.mark.parametrize("name", ["gpt", "llama", "bert"])
def test_the_end_of_a_text_is_kept_for_evaluation(name, tmp_path):
    """Of 200 windows of 32 bytes, the last twentieth, 10, is for evaluation; none is in both parts."""
    text = bytes(np.random.default_rng(0).integers(1, 255, 200 * 32 + 1, dtype=np.uint8))
    (tmp_path / "a.txt").write_bytes(text)
    config = load(name, size="tiny", data=str(tmp_path), batch=2)

    train, evaluation = config.train(), config.eval()

    assert (train.samples, evaluation.samples) == (190, 10)
    if name != "bert":  # whose inputs are masked
        windows = ByteText(tmp_path, 32)
        assert torch.equal(
            every_id(evaluation), torch.stack([windows[i]["input_ids"] for i in range(190, 200)])
        )


@pytest.mark.parametrize("name", ["gpt", "llama", "bert"])
def test_too_little_text_says_how_much_is_needed(name, tmp_path):
    """One batch for each part is the least."""
    (tmp_path / "a.txt").write_bytes(b"x" * 32 * 7)

    with pytest.raises(InputError, match=r"need a batch of 4 each; add (text|tokens) or lower batch"):
        load(name, size="tiny", data=str(tmp_path)).train()


@pytest.mark.parametrize("name", ["gpt", "llama", "bert", "vit", "mnist"])
def test_missing_data_is_an_error_with_its_path(name, tmp_path):
    """When the data is opened; the recipe itself reads none."""
    config = load(name, size="tiny", data=str(tmp_path / "nowhere"))

    with pytest.raises(InputError, match="nowhere"):
        config.train()


def test_llama_reads_token_files_of_both_kinds_in_a_folder(tmp_path):
    """Ids of a bare file take the dtype given; files follow one another in sorted order."""
    ids = np.arange(20 * 32 + 1) % 200
    ids.astype(np.uint16).tofile(tmp_path / "a.bin")
    np.save(tmp_path / "b.npy", ids[: 10 * 32 + 1])

    config = load("llama", size="tiny", data=str(tmp_path), dtype="uint16", batch=1)

    assert config.train().samples + config.eval().samples == 30
    batch = config.eval().batch(0)
    assert torch.equal(batch["labels"][:, :-1], batch["input_ids"][:, 1:])


def test_llama_takes_the_parts_that_a_folder_has(tmp_path):
    """`train.bin` and `val.bin`, as preparation scripts write them: nothing is held out of the first."""
    np.zeros(12 * 32 + 1, np.uint16).tofile(tmp_path / "train.bin")
    np.ones(5 * 32 + 1, np.uint16).tofile(tmp_path / "val.bin")

    config = load("llama", size="tiny", data=str(tmp_path), dtype="uint16")

    assert (config.train().samples, config.eval().samples) == (12, 4)  # whole batches of 4
    assert not every_id(config.train()).any()
    assert every_id(config.eval()).all()


def test_llama_refuses_tokens_beyond_its_vocabulary(tmp_path):
    """The embedding would fail in a role, far from the cause."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["input_ids"] = np.full((20, 16), 300)

    with pytest.raises(InputError, match="holds token 300, but this size has a vocabulary of 256"):
        load("llama", size="tiny", data=str(tmp_path)).train().batch(0)


def test_llama_reads_hdf5_with_its_loss_mask(tmp_path):
    """Where the mask is 0 no label counts; the mask itself does not go to the model."""
    packed = np.stack([np.full((20, 8), 7), np.tile([1, 0], (20, 4)), np.full((20, 8), 9)], axis=1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = packed

    batch = load("llama", size="tiny", data=str(tmp_path / "a.h5")).train().batch(0)

    assert set(batch) == {"input_ids", "labels"}
    assert batch["labels"][0].tolist() == [9, -100] * 4
    assert batch["input_ids"].eq(7).all()


def test_llama_shifts_hdf5_samples_that_have_no_labels(tmp_path):
    """Then a sample's own next tokens are its labels, one fewer than its tokens."""
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["input_ids"] = np.tile(np.arange(9), (20, 1))

    batch = load("llama", size="tiny", data=str(tmp_path)).train().batch(0)

    assert batch["input_ids"][0].tolist() == list(range(8))
    assert batch["labels"][0].tolist() == list(range(1, 9))


@pytest.mark.parametrize(("name", "layers_see"), [("mnist", 784), ("vit", 16)])
def test_mnist_files_are_28_pixels_wide(name, layers_see, tmp_path):
    """The model follows the data: 784 inputs, or patches of 4 x 4."""
    for part, count in (("train", 8), ("t10k", 6)):
        for kind, dims, magic in (("images", (count, 28, 28), 0x803), ("labels", (count,), 0x801)):
            head = magic.to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in dims)
            body = bytes(i % 10 for i in range(int(np.prod(dims))))
            (tmp_path / f"{part}-{kind}-idx{len(dims)}-ubyte.gz").write_bytes(gzip.compress(head + body))
    config = load(name, size="tiny", data=str(tmp_path), batch=4)

    pixels_BP, _ = config.train().batch(0)
    model = config.model()

    assert model(pixels_BP).shape == (4, 10)
    assert next(weight for weight in model.parameters() if weight.ndim == 2).shape[1] == layers_see


def test_a_patch_that_does_not_tile_is_refused():
    """Before the model fails to reshape."""
    with pytest.raises(InputError, match="patches of 3 x 3 do not tile images of 8 x 8"):
        load("vit", patch="3")


def test_mnist_takes_either_optimizer():
    """Each with the learning rate that suits it."""
    sgd, adam = load("mnist").describe()["optimizer"], load("mnist", optimizer="adam").describe()["optimizer"]

    assert (sgd["kind"], sgd["lr"], sgd["momentum"]) == ("SGD", 0.1, 0.9)
    assert (adam["kind"], adam["lr"]) == ("Adam", 1e-3)
    with pytest.raises(InputError, match="optimizer must be 'sgd' or 'adam', got 'lion'"):
        load("mnist", optimizer="lion")
