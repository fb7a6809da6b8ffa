"""The peers of `peers.py`: DeepSpeed ZeRO-3 with offload, and FSDP2 with offload, each at world size 1 over gloo.

Runs as a worker in an environment of its own, without openwafer. Settings and figures are those of `_contestants.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from _models import DECAY, GPT, LR, Shape, mean_loss, tokens
from _worker import Meter, Settings, answer, tree_peak
from safetensors import safe_open
from torch import Tensor

BETAS, EPS = (0.9, 0.999), 1e-8

SMALL_TENSORS = 100_000
"""DeepSpeed's own default: parameters with fewer elements stay in memory."""


def deepspeed_cpu(settings: Settings) -> dict[str, Any]:
    """ZeRO-3, parameters and optimizer offloaded to host memory, DeepSpeedCPUAdam."""
    return _deepspeed(
        settings, {"device": "cpu", "pin_memory": False}, {"device": "cpu", "pin_memory": False}
    )


def deepspeed_nvme(settings: Settings) -> dict[str, Any]:
    """ZeRO-Infinity: parameters and optimizer in files of `folder`, through libaio."""
    shape = Shape(*settings["shape"])
    files = {"device": "nvme", "nvme_path": settings["folder"], "pin_memory": False}
    # Each parameter in flight takes a buffer of the largest one's size. Fewer than about five a layer end in
    # "Not enough buffers", whatever may be alive at once.
    largest = shape.width * max(4 * shape.width, shape.vocabulary, shape.positions)
    parameters = files | {"buffer_count": 6 * shape.layers + 16, "buffer_size": largest, "max_in_cpu": 0}
    # Adam has four tensors of a parameter's size (value, gradient, two moments), and one more is on its way.
    return _deepspeed(settings, parameters, files | {"buffer_count": 5})


def _deepspeed(settings: Settings, parameters: dict[str, Any], optimizer: dict[str, Any]) -> dict[str, Any]:
    import deepspeed  # only here: FSDP2 runs where it is not installed

    _join(settings)
    config = {
        "train_micro_batch_size_per_gpu": settings["batch"] // settings["microbatches"],
        "gradient_accumulation_steps": settings["microbatches"],
        "gradient_clipping": 0.0,
        "steps_per_print": 10**9,
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": LR, "betas": list(BETAS), "eps": EPS, "weight_decay": DECAY},
        },
        "zero_optimization": {
            "stage": 3,
            "offload_param": parameters,
            "offload_optimizer": optimizer,
            "sub_group_size": 30_000_000,
            "stage3_prefetch_bucket_size": 20_000_000,
            "stage3_max_live_parameters": 30_000_000,
            "stage3_param_persistence_threshold": SMALL_TENSORS,
        },
        "aio": {"block_size": 2**20, "queue_depth": 16, "single_submit": False, "overlap_events": True},
        **_deepspeed_precision(settings["precision"]),
    }
    with deepspeed.zero.Init(config_dict_or_path=config):
        model = GPT(Shape(*settings["shape"]))
    with safe_open(settings["weights"], framework="pt") as stored:
        names = set(stored.keys())
        for name, parameter in model.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                parameter.data.copy_(stored.get_tensor(_stored_name(name, names)))
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)

    def update(piece: dict[str, Tensor], last: bool, share: float) -> float:
        loss = mean_loss(engine(piece["input_ids"]), piece)
        engine.backward(loss)
        engine.step()
        return float(loss.item())

    return _steps(settings, update)


def _deepspeed_precision(precision: str) -> dict[str, Any]:
    sections: dict[str, dict[str, Any]] = {
        "fp32": {},
        "bf16": {"bf16": {"enabled": True}},
        "bf16-autocast": {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}},
    }
    return sections[precision]


def fsdp2_offload(settings: Settings) -> dict[str, Any]:
    """`fully_shard` of every block and of the model, parameters and optimizer in host memory, fused AdamW."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import DTensor

    _join(settings)
    mesh = init_device_mesh("cpu", (1,))
    policy = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        if settings["precision"] == "bf16"
        else MixedPrecisionPolicy()
    )
    with torch.device("meta"):
        model = GPT(Shape(*settings["shape"]))
    for module in (*model.blocks, model):
        fully_shard(module, mesh=mesh, mp_policy=policy, offload_policy=CPUOffloadPolicy(pin_memory=False))
    model.to_empty(device="cpu")
    with safe_open(settings["weights"], framework="pt") as stored, torch.no_grad():
        names = set(stored.keys())
        for name, parameter in model.named_parameters():
            assert isinstance(parameter, DTensor)
            parameter.to_local().copy_(stored.get_tensor(_stored_name(name, names)))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY, fused=True
    )

    def update(piece: dict[str, Tensor], last: bool, share: float) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=settings["precision"] == "bf16-autocast"):
            loss = mean_loss(model(piece["input_ids"]), piece)
        (loss * share).backward()
        if last:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return float(loss.item())

    return _steps(settings, update)


def _join(settings: Settings) -> None:
    """A group of one, over the loopback interface; the rendezvous is a file, so that no port is taken."""
    torch.manual_seed(0)
    torch.set_num_threads(settings["threads"])
    os.environ.update({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "GLOO_SOCKET_IFNAME": "lo"})
    meeting = Path(settings["folder"], "rendezvous").as_uri()
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)


def _stored_name(name: str, names: set[str]) -> str:
    """A tied weight is stored under one of its names."""
    return name if name in names else {"embedding.weight": "head.weight"}[name]


def _steps(settings: Settings, update: Callable[[dict[str, Tensor], bool, float], float]) -> dict[str, Any]:
    shape, batch, parts = Shape(*settings["shape"]), settings["batch"], settings["microbatches"]
    losses = []
    meter = Meter.started()
    for step in range(settings["steps"]):
        inputs = tokens(step, batch, shape)
        total = 0.0
        for part in range(parts):
            rows = slice(part * batch // parts, (part + 1) * batch // parts)
            piece = {name: value[rows] for name, value in inputs.items()}
            share = len(piece["labels"]) / batch
            total += share * update(piece, part == parts - 1, share)
        losses.append(total)
        meter.step()
    figures = {"losses": losses, **meter.figures(), "peak": tree_peak()}
    torch.distributed.destroy_process_group()
    return figures


def build(settings: Settings) -> dict[str, Any]:
    """Compile the named operators of DeepSpeed, which it would else do in its first step."""
    from deepspeed.ops.op_builder import AsyncIOBuilder, CPUAdamBuilder

    for builder in {"cpu_adam": [CPUAdamBuilder], "async_io": [AsyncIOBuilder]}[settings["operator"]]:
        builder().load()
    return {}


WORKERS = {
    "deepspeed-cpu": deepspeed_cpu,
    "deepspeed-nvme": deepspeed_nvme,
    "fsdp2-offload": fsdp2_offload,
    "build": build,
}

if __name__ == "__main__":
    answer(WORKERS, sys.argv[2:])
