"""A small model whose every layer is a record, for predictions and caches."""

import torch
from torch import nn

import openwafer as ow
from openwafer.train import Trainer
from openwafer.train.optim import clip_by_global_norm


class Ones(ow.BatchSource):
    """Random numbers in four classes, the same at every visit."""

    batch_size = 8
    samples = None
    steps_per_epoch = None

    def batch(self, step):
        generator = torch.Generator().manual_seed(step)
        return torch.randn(8, 32, generator=generator), torch.randint(4, (8,), generator=generator)


def trainer(folder, clip=None, **cluster):
    """Six layers; `clip` makes every update wait for all gradients."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(5)]
    return Trainer(
        nn.Sequential(*layers, nn.Linear(32, 4)),
        loss=nn.functional.cross_entropy,
        optimizer=clip_by_global_norm(ow.AdamW(lr=1e-2), clip) if clip else ow.AdamW(lr=1e-2),
        cluster=ow.LocalCluster(threads=1, matmul="torch", execution="weight_streaming", **cluster),
        folder=folder,
    )
