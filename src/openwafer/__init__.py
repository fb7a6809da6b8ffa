"""The open Wafer-Scale Cluster: train PyTorch models larger than any device.

    import openwafer as ow
    trainer = ow.Trainer(model, loss=loss_fn, optimizer=ow.AdamW(lr=3e-4), cluster=ow.LocalCluster(systems=2))
    trainer.fit(train_loader, eval_loader, steps=1000)

The names below load on first use, so that a tool that needs no training does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openwafer.train import (
        FitResult,
        HostsCluster,
        LocalCluster,
        RunConfig,
        Trainer,
        load_into,
        load_recipe,
    )
    from openwafer.train.data import BatchSource, from_dataset, from_loader
    from openwafer.train.optim import (
        SGD,
        Adafactor,
        Adam,
        AdamW,
        DynamicLossScale,
        Lion,
        WarmupCosine,
        clip_by_global_norm,
        clip_by_value,
        from_torch,
    )

_HOMES = {
    "openwafer.train": [
        "FitResult",
        "HostsCluster",
        "LocalCluster",
        "RunConfig",
        "Trainer",
        "load_into",
        "load_recipe",
    ],
    "openwafer.train.data": ["BatchSource", "from_dataset", "from_loader"],
    "openwafer.train.optim": [
        "SGD",
        "Adafactor",
        "Adam",
        "AdamW",
        "DynamicLossScale",
        "Lion",
        "WarmupCosine",
        "clip_by_global_norm",
        "clip_by_value",
        "from_torch",
    ],
}

__all__ = [
    "SGD",
    "Adafactor",
    "Adam",
    "AdamW",
    "BatchSource",
    "DynamicLossScale",
    "FitResult",
    "HostsCluster",
    "Lion",
    "LocalCluster",
    "RunConfig",
    "Trainer",
    "WarmupCosine",
    "clip_by_global_norm",
    "clip_by_value",
    "from_dataset",
    "from_loader",
    "from_torch",
    "load_into",
    "load_recipe",
]


def __getattr__(name: str) -> Any:
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"openwafer has no {name!r}")
