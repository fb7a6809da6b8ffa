"""A checkpoint, the stream that reads ahead and the updates share MemoryX's buffers, and none waits for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hosts_cases import options, same_tensors  # type: ignore[import-not-found]
from torch import nn

from openwafer.cluster.memoryx._checkpoints import Checkpoints
from openwafer.train import LocalCluster, Trainer
from openwafer.train.optim import AdamW
from run_cases import FEATURES, Numbers, squared_error

LAYERS = 12
"""More than a disk store has buffers."""


def deep() -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(LAYERS):
        layers += [nn.Linear(FEATURES, FEATURES), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(FEATURES, 4))


@pytest.mark.timeout(60)
def test_a_checkpoint_gets_a_buffer_while_records_that_were_read_ahead_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time it wants one, the next step's backward has read all that it may, and its updates wait."""
    copy = Checkpoints._record

    @contextmanager
    def late(self: Checkpoints, *arguments: Any) -> Iterator[memoryview]:
        time.sleep(0.3)
        with copy(self, *arguments) as data:
            yield data

    def train(name: str, store: str) -> Any:
        run = Trainer(
            deep,
            optimizer=AdamW(lr=1e-2),
            loss=squared_error,
            cluster=LocalCluster(**options(memoryx=store)),
            folder=tmp_path / name,
        )
        return run.fit(Numbers(), steps=4, checkpoint_every=2)

    expected = train("ram", "ram")
    monkeypatch.setattr(Checkpoints, "_record", late)
    found = train("disk", f"disk:{tmp_path / 'store'}")

    assert found.losses == expected.losses
    assert same_tensors(found.checkpoint, expected.checkpoint)
