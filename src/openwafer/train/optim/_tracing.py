"""What tracing a foreign `optimizer.step()` takes: a recorder, tensor scalars, flags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes


class Recorder(dict[str, Any]):
    """A parameter's state that remembers a copy of the first value stored under each key."""

    def __init__(self, initial: dict[str, Any]) -> None:
        super().__init__()
        self.stored: dict[str, Any] = {}
        self.update(initial)

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self.stored:
            self.stored[key] = value.detach().clone() if isinstance(value, Tensor) else value
        super().__setitem__(key, value)

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *others: Any, **more: Any) -> None:
        for key, value in dict(*others, **more).items():
            self[key] = value


class TensorScalars(TorchFunctionMode):
    """Lets `alpha=` and `value=` be 0-dim tensors, which ATen's overloads take only as numbers.

    And makes the number of a `torch.where` a tensor of its partner's kind, fake beside a fake.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "").rstrip("_")
        if name in ("add", "sub") and isinstance(kwargs.get("alpha"), Tensor):
            alpha = kwargs.pop("alpha")
            # addcmul rounds once, as add(alpha=number) does; add(other * alpha) rounds twice.
            scale = alpha.to(args[0].dtype) * (1 if name == "add" else -1)
            in_place = func.__name__.endswith("_")
            return (torch.Tensor.addcmul_ if in_place else torch.addcmul)(args[0], args[1], scale, **kwargs)
        if name in ("addcmul", "addcdiv") and isinstance(kwargs.get("value"), Tensor):
            value = kwargs.pop("value")
            args = (args[0], args[1] * value.to(args[1].dtype), *args[2:])
        if name == "lerp" and len(args) == 3 and isinstance(args[2], Tensor):
            args = (args[0], args[1], args[2].to(args[0].dtype))
        if name == "where" and len(args) == 3:
            like = args[1] if isinstance(args[1], Tensor) else args[2]
            args = tuple(a if isinstance(a, Tensor) else like.new_full((), a) for a in args)
        return func(*args, **kwargs)


@contextmanager
def as_graph() -> Iterator[None]:
    """Make optimizers take the path that they take under torch.compile, only inside this block."""
    flag, record = torch.compiler._is_compiling_flag, torch.autograd.profiler.record_function
    torch.compiler._is_compiling_flag = True
    # The profiler's range around every step would end up in the graph as two ops with side effects.
    torch.autograd.profiler.record_function = lambda name, args=None: nullcontext()  # type: ignore
    try:
        with TensorScalars():
            yield
    finally:
        torch.compiler._is_compiling_flag = flag
        torch.autograd.profiler.record_function = record  # type: ignore[misc]


@contextmanager
def outside_any_trace() -> Iterator[None]:
    """Real CPU tensors and no gradients, whatever the caller is tracing."""
    with _disable_current_modes(), torch.device("cpu"), torch.no_grad():
        yield


def fake_mode_of(weight: Tensor) -> AbstractContextManager[Any]:
    return weight.fake_mode if isinstance(weight, FakeTensor) else nullcontext()


def is_functional(weight: Tensor) -> bool:
    """Whether a surrounding trace already turns in-place ops into out-of-place ones."""
    return isinstance(weight, FunctionalTensor) or torch._is_functional_tensor(weight)
