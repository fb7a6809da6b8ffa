"""The PyTorch training front end: Trainer, recipes' configs, data, optimizers, reports."""

from openwafer.train._config import LocalCluster, RunConfig, load_recipe
from openwafer.train._hosts import HostsCluster
from openwafer.train._run import Callback, FitResult
from openwafer.train._saved import SavedPlans
from openwafer.train._trainer import (
    Trainer,
    compile_config,
    fit_config,
    load_into,
    memoryx_bytes,
    plan_config,
)

__all__ = [
    "Callback",
    "FitResult",
    "HostsCluster",
    "LocalCluster",
    "RunConfig",
    "SavedPlans",
    "Trainer",
    "compile_config",
    "fit_config",
    "load_into",
    "load_recipe",
    "memoryx_bytes",
    "plan_config",
]
