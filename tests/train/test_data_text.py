"""ByteText, python_stdlib and TokenFile: language-modelling windows from files."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openwafer.base import InputError, StorageError
from openwafer.train.data import ByteText, TokenFile, from_dataset, python_stdlib


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "b" / "one.py").write_bytes(b"print(1)")
    (tmp_path / "a.txt").write_bytes(b"hello")
    (tmp_path / "empty.py").write_bytes(b"")
    (tmp_path / "c.bin").write_bytes(b"\x7fELF\0\0")
    (tmp_path / ".git" / "config.py").write_bytes(b"hidden")
    return tmp_path


def all_bytes(data):
    samples = [data[i] for i in range(len(data))]
    return bytes(torch.cat([s["input_ids"] for s in samples]).tolist() + samples[-1]["labels"][-1:].tolist())


def test_text_files_are_joined_in_sorted_order_with_a_zero_byte_after_each(folder):
    """The order does not depend on the file system; binaries and hidden files are not text."""
    data = ByteText(folder, seq_len=1)

    assert all_bytes(data) == b"hello\0print(1)\0"
    assert [file.name for file in data.files] == ["a.txt", "one.py"]
    assert data.text_bytes == 15


@pytest.mark.parametrize("pattern", ["*.py", "b/*"])
def test_a_pattern_chooses_by_name_or_by_relative_path(folder, pattern):
    """Both ways of writing it are common."""
    assert all_bytes(ByteText(folder, 1, pattern=pattern)) == b"print(1)\0"


def test_a_file_given_by_name_is_taken_as_it_is(folder):
    """Who names a file means it; the order is the caller's."""
    data = ByteText([folder / "b" / "one.py", str(folder / "a.txt")], 1, pattern="*.md")

    assert all_bytes(data) == b"print(1)\0hello\0"


@settings(deadline=None)
@given(text=st.binary(min_size=2, max_size=60), seq_len=st.integers(1, 8), data=st.data())
def test_windows_do_not_overlap_and_labels_are_the_next_bytes(tmp_path_factory, text, seq_len, data):
    """Every byte is predicted at most once per epoch, from the byte before it."""
    if len(text) < seq_len:
        return
    path = tmp_path_factory.mktemp("text") / "t"
    path.write_bytes(text)
    windows = ByteText(path, seq_len)
    i = data.draw(st.integers(0, len(windows) - 1))
    whole = [*text, 0]

    assert len(windows) == len(text) // seq_len
    assert windows[i]["input_ids"].tolist() == whole[i * seq_len : (i + 1) * seq_len]
    assert windows[i]["labels"].tolist() == whole[i * seq_len + 1 : (i + 1) * seq_len + 1]
    assert windows[i]["labels"].dtype == windows[i]["input_ids"].dtype == torch.int64
    assert torch.equal(windows[-1]["labels"], windows[len(windows) - 1]["labels"])


def test_reading_ends_at_the_limit(folder):
    """The limit counts bytes of the joined text, so memory is bounded."""
    assert all_bytes(ByteText(folder, 1, limit_bytes=9)) == b"hello\0pri"


def test_a_stored_text_is_mapped_and_not_sent_along(folder, tmp_path):
    """Workers that share the file need neither a copy in memory nor one through the pipe."""
    (folder / "a.txt").write_bytes(b"x" * 100_000)
    (folder / "all.bytes").write_bytes(b"left there by an earlier run")
    store = tmp_path / "all.bytes"

    stored, held = ByteText(folder, 7, store=store), ByteText(folder, 7, pattern="*[ty]")
    stored[0]
    sent = pickle.dumps(stored)

    assert len(sent) < 10_000
    assert store.stat().st_size == stored.text_bytes == held.text_bytes
    assert torch.equal(pickle.loads(sent)[-1]["labels"], held[-1]["labels"])


def test_a_store_that_cannot_be_written_is_a_storage_error(folder):
    """And nothing half-written is left behind."""
    with pytest.raises(StorageError, match="cannot be written"):
        ByteText(folder, 1, store=folder / "missing" / "store")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda f: ByteText(f / "nowhere", 4), "nowhere is not there"),
        (lambda f: ByteText(f, 4, pattern="*.md"), r"no file matching '\*.md' in"),
        (lambda f: ByteText([], 4), "no text file in an empty list"),
        (
            lambda f: ByteText(f, 400),
            "2 files of .* hold 15 bytes, less than one window of 401; lower seq_len",
        ),
        (lambda f: ByteText(f / "empty.py", 4), "hold 0 bytes"),
        (lambda f: ByteText(f, 0), "seq_len is 0"),
        (lambda f: ByteText(f, 8, limit_bytes=8), "holds no window of seq_len=8; allow 9"),
        (lambda f: python_stdlib(8, "test"), "no split 'test'; use 'train' or 'eval'"),
    ],
)
def test_text_that_cannot_be_used_says_why(folder, make, text):
    """Found before the run, with what to do next."""
    with pytest.raises(InputError, match=text):
        make(folder)


def test_a_window_outside_of_the_text_is_an_index_error(folder):
    """Plain iteration over a data set ends by it."""
    with pytest.raises(IndexError):
        ByteText(folder, 1)[14]
    assert len(list(ByteText(folder, 1))) == 14


def test_the_standard_library_is_split_by_file():
    """No file is in both splits, tests and installed packages in none, and it is the same text again."""
    train, held_out = python_stdlib(64), python_stdlib(64, "eval")

    assert train.text_bytes == 4 * 2**20
    assert 0.02 < held_out.text_bytes / python_stdlib(64, limit_bytes=2**30).text_bytes < 0.1
    assert not set(train.files) & set(held_out.files)
    assert not any(
        {"test", "tests", "site-packages"} & set(file.parts) for file in train.files + held_out.files
    )
    assert b"import" in bytes(torch.cat([train[i]["input_ids"] for i in range(200)]).tolist())
    assert python_stdlib(64, "eval").files == held_out.files
    assert python_stdlib(64, limit_bytes=1000).text_bytes == 1000


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("side", ["train.json", "train.bin.json", "train.meta", None])
def test_token_files_are_read_in_the_type_that_they_were_written(tmp_path, dtype, side):
    """The type comes from the side file or from the argument; guessing it would train on noise."""
    path = tmp_path / "train.bin"
    np.arange(100, 131).astype(dtype).tofile(path)
    if side:
        (tmp_path / side).write_text(json.dumps({"dtype": dtype, "vocab_size": 131}))

    data = TokenFile(path, 10, dtype=None if side else dtype)

    assert (len(data), data.tokens, data.vocab_size) == (3, 31, 131 if side else None)
    assert data[2]["input_ids"].tolist() == list(range(120, 130))
    assert data[2]["labels"].tolist() == list(range(121, 131))
    assert torch.equal(pickle.loads(pickle.dumps(data))[1]["labels"], data[1]["labels"])


def test_npy_files_know_their_own_type_and_feed_a_source(tmp_path):
    """The header says it; and the windows are a data set like any other."""
    np.save(tmp_path / "t.npy", np.arange(13, dtype=np.int32))

    source = from_dataset(TokenFile(tmp_path / "t.npy", 4), 3, shuffle=False)

    assert source.batch(0)["labels"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]


def test_a_token_outside_of_the_vocabulary_is_found_when_read(tmp_path):
    """On a device it would be an out-of-bounds lookup with no name; often the dtype is wrong."""
    np.array([1, 2, 3, 4, 99], np.uint16).tofile(tmp_path / "t.bin")

    data = TokenFile(tmp_path / "t.bin", 2, dtype="uint16", vocab_size=50)

    assert data[0]["labels"].tolist() == [2, 3]
    with pytest.raises(InputError, match="window 1 has token 99, but vocab_size is 50; check the tokenizer"):
        data[1]


def write(name, content):
    def at(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return at


def save(array):
    def at(folder):
        np.save(folder / "t.npy", array)
        return folder / "t.npy"

    return at


def cut(at):
    def shortened(folder):
        path = at(folder)
        path.write_bytes(path.read_bytes()[:-3])
        return path

    return shortened


@pytest.mark.parametrize(
    ("make", "dtype", "text"),
    [
        (lambda folder: folder / "t.bin", "uint16", "t.bin is not there"),
        (write("t.bin", b"1234"), None, r"type of the token ids .* unknown; pass dtype='uint16'.*t\.json"),
        (write("t.bin", b"1234"), "float32", "dtype 'float32' is none of uint16, uint32"),
        (
            write("t.bin", b"12345"),
            "uint16",
            "5 bytes, which is no whole number of uint16 tokens; it is truncated",
        ),
        (write("t.bin", b""), "uint16", "holds 0 tokens, less than one window of 3"),
        (write("t.bin", b"1234"), "uint16", "holds 2 tokens, less than one window of 3"),
        (write("t.npy", b"junk"), None, "cannot be read as a .npy file"),
        (cut(save(np.arange(9))), None, "cannot be read as a .npy file"),
        (save(np.zeros((3, 3), np.int64)), None, r"int64 of shape \[3, 3\], not a flat array"),
        (save(np.zeros(9)), None, "holds float64"),
    ],
)
def test_a_token_file_that_cannot_be_used_says_why(tmp_path, make, dtype, text):
    """Before the run, not at step 90,000."""
    with pytest.raises(InputError, match=text):
        TokenFile(make(tmp_path), 2, dtype=dtype)


@pytest.mark.parametrize("side", [b"{", b"[]", b'{"vocab_size": "many"}'])
def test_a_broken_side_file_is_named(tmp_path, side):
    """Falling back to a guess would train on noise."""
    write("t.bin", b"1234")(tmp_path)
    with pytest.raises(InputError, match=r"t\.json (cannot be read as JSON|must hold a JSON object)"):
        TokenFile(write("t.json", side)(tmp_path).with_suffix(".bin"), 1)
