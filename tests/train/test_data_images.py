"""digits and mnist_files: images as flat vectors between 0 and 1."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

from openwafer.base import InputError
from openwafer.train.data import digits, from_dataset, mnist_files


def images_idx(pixels):
    return struct.pack(">IIII", 0x803, *pixels.shape) + pixels.tobytes()


def labels_idx(labels):
    return struct.pack(">II", 0x801, len(labels)) + bytes(labels)


PIXELS = np.arange(3 * 2 * 4, dtype=np.uint8).reshape(3, 2, 4) * 11
IMAGES, LABELS = images_idx(PIXELS), labels_idx([7, 0, 9])


def place(folder, split="train", images=IMAGES, labels=LABELS, end=""):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}-images-idx3-ubyte{end}").write_bytes(images)
    (folder / f"{split}-labels-idx1-ubyte{end}").write_bytes(labels)


def test_the_bundled_digits_are_split_once_and_for_all():
    """Both splits hold all ten digits in equal parts, share no image, and together are the whole set."""
    train, held_out = digits(), digits("eval")

    assert (len(train), len(held_out)) == (1433, 364)
    assert (train.pixels, train.classes, held_out.classes) == (64, 10, 10)
    held_out_labels = torch.stack([label for _, label in held_out])
    assert 35 <= min(torch.bincount(held_out_labels)) <= max(torch.bincount(held_out_labels)) <= 37
    image, label = train[0]
    assert (image.dtype, image.shape, label.dtype, label.shape) == (torch.float32, (64,), torch.int64, ())
    pixels = torch.stack([train[i][0] for i in range(len(train))])
    assert (float(pixels.min()), float(pixels.max())) == (0.0, 1.0)
    assert (
        len({bytes(data._pixels_NP[i].numpy()) for data in (train, held_out) for i in range(len(data))})
        == 1797
    )


def test_nearest_neighbours_can_read_the_digits():
    """Images and labels belong together: comparing pixels alone classifies nearly all of them."""
    train, held_out = digits(), digits("eval")
    (known, names), (asked, truth) = (
        from_dataset(d, len(d), shuffle=False).batch(0) for d in (train, held_out)
    )

    guess = names[torch.cdist(asked, known).argmin(dim=1)]

    assert (guess == truth).float().mean() > 0.95


@pytest.mark.parametrize("where", ["", "raw", "MNIST/raw"])
@pytest.mark.parametrize("packed", [False, True])
def test_mnist_files_are_read_packed_or_not_where_torchvision_puts_them(tmp_path, where, packed):
    """Nobody should have to unpack or move files that are already there."""
    pack = gzip.compress if packed else bytes
    place(tmp_path / where, "t10k", pack(IMAGES), pack(LABELS), ".gz" if packed else "")

    data = mnist_files(tmp_path, "eval")

    assert (len(data), data.pixels, data.classes) == (3, 8, 10)
    image, label = data[1]
    assert torch.equal(image, torch.from_numpy(PIXELS[1].reshape(-1)).float() / 255)
    assert int(label) == 0


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"images": IMAGES[:-1]}, r"has 39 bytes, but its header \[3, 2, 4\] asks for 40; it is truncated"),
        ({"images": IMAGES + b"x"}, "has 41 bytes"),
        ({"images": IMAGES[:9]}, "truncated or damaged"),
        ({"images": b""}, "begins with 0x00000000"),
        ({"images": LABELS}, "begins with 0x00000801, not with 0x00000803; it is no IDX file of images"),
        ({"labels": labels_idx([1, 2])}, "holds 3 images, but .* holds 2 labels"),
        ({"end": ".gz"}, "cannot be read .*truncated or damaged"),
        ({"end": ".gz", "images": gzip.compress(IMAGES)[:-6]}, "cannot be read .*truncated or damaged"),
        ({"split": "t10k"}, r"holds no train-images-idx3-ubyte \(nor .gz\); put MNIST's four files there"),
    ],
)
def test_mnist_files_that_cannot_be_used_say_why(tmp_path, given, text):
    """A download that broke off must not become a data set."""
    place(tmp_path, **given)
    with pytest.raises(InputError, match=text):
        mnist_files(tmp_path)


@pytest.mark.parametrize("read", [digits, lambda split: mnist_files(".", split)])
def test_there_are_two_splits(read):
    """All data sets here call them train and eval."""
    with pytest.raises(InputError, match="no split 'test'; use 'train' or 'eval'"):
        read("test")
