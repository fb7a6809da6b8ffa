"""TokenHdf5: the common layouts, one file or many, and what a damaged one says."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
import torch

from openwafer.base import InputError
from openwafer.train.data import TokenHdf5, _hdf5, from_dataset


def write(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return path


def packed(first, samples, seq_len=4):
    """[N, 3, S]: ids counting from `first`, a mask that leaves out the last, labels shifted by one."""
    ids = first + np.arange(samples * seq_len, dtype=np.int32).reshape(samples, seq_len)
    mask = np.ones_like(ids)
    mask[:, -1] = 0
    return np.stack([ids, mask, ids + 1], axis=1)


def test_the_packed_layout_is_ids_mask_labels(tmp_path):
    """`data` [N, 3, S], as the Model Zoo's preparation scripts write it."""
    data = TokenHdf5(write(tmp_path / "a.h5", data=packed(10, 2)))

    assert (len(data), data.seq_len) == (2, 4)
    assert {k: v.tolist() for k, v in data[1].items()} == {
        "input_ids": [14, 15, 16, 17],
        "attention_mask": [1, 1, 1, 0],
        "labels": [15, 16, 17, 18],
    }
    assert all(v.dtype == torch.int64 for v in data[1].values())


@pytest.mark.parametrize(
    "keys", [("input_ids",), ("input_ids", "labels"), ("input_ids", "attention_mask", "labels")]
)
def test_the_layout_of_one_dataset_per_name_gives_what_it_holds(tmp_path, keys):
    """Labels and masks are optional: a masked-language-model run makes its own."""
    values = {key: np.full((3, 5), i, np.uint16) for i, key in enumerate(keys)}

    sample = TokenHdf5(write(tmp_path / "a.h5", **values))[2]

    assert {k: v.tolist() for k, v in sample.items()} == {key: [i] * 5 for i, key in enumerate(keys)}


def test_labels_can_be_ignored_where_the_mask_is_zero(tmp_path):
    """cross_entropy knows no mask, but skips -100."""
    data = TokenHdf5(write(tmp_path / "a.h5", data=packed(0, 1)), ignore_index=-100)

    assert data[0]["labels"].tolist() == [1, 2, 3, -100]


def test_a_folder_is_one_data_set_in_sorted_order(tmp_path, monkeypatch):
    """Every sample of every file has an index, also with more files than may be open, and after pickling."""
    monkeypatch.setattr(_hdf5, "_OPEN_FILES", 2)
    (tmp_path / "deep").mkdir()
    sizes = {"a.h5": 2, "b.hdf5": 1, "c.h5": 0, "deep/d.h5": 3}
    for number, (name, samples) in enumerate(sizes.items()):
        write(tmp_path / name, data=packed(100 * number, samples))
    write(tmp_path / "notes.txt", data=packed(0, 9))

    data = TokenHdf5(tmp_path)
    source = from_dataset(pickle.loads(pickle.dumps(data)), 6, shuffle=False)

    assert source.batch(0)["input_ids"][:, 0].tolist() == [0, 4, 100, 300, 304, 308]
    assert data[-1]["input_ids"][0] == 308
    assert len(data._handles) == 2
    with pytest.raises(IndexError):
        data[6]


def truncated(path):
    path.write_bytes(path.read_bytes()[:-200])
    return path


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda f: f / "none.h5", "none.h5 is not there"),
        (lambda f: f, r"holds no \*.h5 or \*.hdf5 file"),
        (
            lambda f: truncated(write(f / "a.h5", data=packed(0, 50))),
            "a.h5 cannot be opened as HDF5 .*truncated",
        ),
        (lambda f: write(f / "a.h5", tokens=np.zeros((2, 3))), "neither 'data' nor 'input_ids', but tokens"),
        (lambda f: write(f / "a.h5"), "but nothing"),
        (
            lambda f: write(f / "a.h5", data=np.zeros((2, 2, 4), np.int32)),
            r"'data' has shape \[2, 2, 4\], need",
        ),
        (
            lambda f: write(f / "a.h5", data=np.zeros((2, 3, 4))),
            "'data' is of float64, not a dataset of integers",
        ),
        (lambda f: write(f / "a.h5", **{"data/x": np.zeros(2)}), "'data' is a group"),
        (lambda f: write(f / "a.h5", input_ids=np.zeros(4, int)), r"'input_ids' has shape \[4\]; need"),
        (
            lambda f: write(f / "a.h5", input_ids=np.zeros((2, 4), int), labels=np.zeros((2, 3), int)),
            "'labels' has shape",
        ),
        (lambda f: write(f / "a.h5", data=packed(0, 0)), "holds no samples"),
    ],
)
def test_files_that_cannot_be_used_say_why(tmp_path, make, text):
    """All files are opened when the data set is made, so a damaged one is found before the run."""
    with pytest.raises(InputError, match=text):
        TokenHdf5(make(tmp_path))


@pytest.mark.parametrize("other", [{"data": packed(0, 1, seq_len=5)}, {"input_ids": np.zeros((1, 4), int)}])
def test_files_of_different_layouts_are_refused(tmp_path, other):
    """A batch mixes samples of all files, so they must be made alike."""
    write(tmp_path / "a.h5", data=packed(0, 1))
    write(tmp_path / "b.h5", **other)

    with pytest.raises(
        InputError, match=r"b.h5 holds input_ids.* but .*a.h5 holds .*prepare all files alike"
    ):
        TokenHdf5(tmp_path)


def test_ignoring_needs_a_mask(tmp_path):
    """Without one there is nothing to ignore by, and the option would do nothing."""
    with pytest.raises(InputError, match="ignore_index needs labels and attention_mask"):
        TokenHdf5(write(tmp_path / "a.h5", input_ids=np.zeros((1, 4), int)), ignore_index=-100)


def test_a_chunk_that_is_damaged_names_file_and_sample(tmp_path):
    """The header may be whole while compressed data is not."""
    path = tmp_path / "a.h5"
    noise = np.random.default_rng(0).integers(0, 2**31, (4, 3, 2000), dtype=np.int32)
    with h5py.File(path, "w") as file:
        found = file.create_dataset("data", data=noise, chunks=(1, 3, 2000), compression="gzip")
        chunk = found.id.get_chunk_info(2)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(content)

    data = TokenHdf5(path)

    assert data[1]["input_ids"].tolist() == noise[1, 0].tolist()
    with pytest.raises(InputError, match=r"sample 2 of .*a.h5 cannot be read .*damaged"):
        data[2]
