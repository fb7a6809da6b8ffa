"""Any torch.optim optimizer as an update rule: its own `step` is traced, one weight at a time."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer

from openwafer.base import InputError
from openwafer.train.optim._rule import PerWeightRule
from openwafer.train.optim._schedules import Schedule, at, first
from openwafer.train.optim._tracing import Recorder, as_graph, fake_mode_of, is_functional, outside_any_trace

Build = Callable[[list[Tensor]], Optimizer]

_INSTEAD = (
    "use SGD, Adam, AdamW, Adafactor or Lion of openwafer.train.optim, write an UpdateRule, "
    "or take an optimizer that torch.compile can capture"
)
_ELEMENTWISE = frozenset(
    {
        torch.optim.ASGD,
        torch.optim.Adadelta,
        torch.optim.Adagrad,
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.Adamax,
        torch.optim.NAdam,
        torch.optim.RAdam,
        torch.optim.RMSprop,
        torch.optim.Rprop,
        torch.optim.SGD,
    }
)
"""Optimizers whose elements know nothing of each other; a subclass may add what it likes, so it does not count."""
_PROBE_SHAPE = (3, 4, 2, 2, 2, 2, 2, 2)
_PROBE_STEPS = 3


@final
class TorchRule(PerWeightRule):
    """The rule that `from_torch` returns: `build([weight]).step()` on clones, traced.

    State: the optimizer's own per-parameter state under its own keys; what it keeps as a Python
    number is a 0-dim float64 tensor here. 0-dim state is widened to float64 inside a step and
    rounded back, so bias corrections match the optimizer's Python floats.
    """

    def __init__(self, build: Build, lr: Schedule | None = None) -> None:
        self._build = build
        self._lr = lr
        self._probes: dict[int, _Probe] = {}
        with outside_any_trace():
            optimizer = self._try_build([_stand_in(2, 0)])
            self._name = type(optimizer).__name__
            self._elementwise = type(optimizer) in _ELEMENTWISE
            group = optimizer.param_groups[0]
            self._constant_lr = float(group["lr"]) if "lr" in group else None
            self._refuse_known(optimizer)

    def __repr__(self) -> str:
        return f"TorchRule({self._name}, lr={self._rate})"

    @property
    def _rate(self) -> float | Schedule | None:
        return self._constant_lr if self._lr is None else self._lr

    def is_elementwise(self, name: str, weight: Tensor) -> bool:
        return self._elementwise

    def scalars(self, step: Tensor) -> dict[str, Tensor]:
        return {} if self._rate is None else {"lr": at(self._rate, step)}

    @torch.no_grad()
    def state(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        probe = self._probe(name, weight.ndim)
        with fake_mode_of(weight), as_graph():
            recorded = self._record(weight.detach().clone(), torch.zeros_like(weight))
            return probe.initial(recorded)

    def update_weight(
        self,
        name: str,
        weight: Tensor,
        grad: Tensor,
        state: dict[str, Tensor],
        scalars: dict[str, Tensor],
        step: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        step_weight: Any = partial(self._step, self._probe(name, weight.ndim))
        # The in-place ops of `optimizer.step` become out-of-place ones, so that the graph holds none.
        # Functionalizing does not nest, so a capture that functionalizes by itself is left to it.
        if not is_functional(weight):
            step_weight = torch.func.functionalize(step_weight, remove="mutations")
        new_weight, new_state = step_weight(weight, grad, state, scalars.get("lr"))
        return new_weight, new_state

    def _step(
        self, probe: _Probe, weight: Tensor, grad: Tensor, state: dict[str, Tensor], lr: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One `optimizer.step()` on clones."""
        param = weight.detach().clone()
        optimizer = self._optimizer([param], capturable=True)
        if self._lr is not None:
            for group in optimizer.param_groups:
                group["lr"] = lr
        param.grad = grad.detach().clone()
        live: dict[str, Tensor | None] = dict.fromkeys(probe.nones)
        for key, value in state.items():
            live[key] = value.to(torch.float64, copy=True) if key in probe.scalars else value.clone()
        optimizer.state[param] = live
        with as_graph():
            optimizer.step()
        new = optimizer.state[param]
        return param.detach(), {
            key: new[key].to(old.dtype) if isinstance(new[key], Tensor) else torch.full_like(old, new[key])
            for key, old in state.items()
        }

    def _optimizer(self, params: list[Tensor], *, capturable: bool) -> Optimizer:
        optimizer = self._try_build(params)
        for group in optimizer.param_groups:
            if isinstance(group.get("lr"), Tensor):
                with outside_any_trace():
                    group["lr"] = float(group["lr"])
            # One weight at a time: the foreach and fused loops would add nothing but other rounding.
            settings = {"foreach": False, "fused": False, "capturable": capturable}
            group.update({key: value for key, value in settings.items() if key in group})
        return optimizer

    def _try_build(self, params: list[Tensor]) -> Optimizer:
        try:
            optimizer = self._build(params)
        except Exception as error:
            shapes = [tuple(p.shape) for p in params]
            raise InputError(
                f"the optimizer factory failed on parameters of shape {shapes}: {error}; give weights "
                "that it cannot take to another rule with per_group"
            ) from error
        if not isinstance(optimizer, Optimizer):
            raise InputError(
                f"from_torch: the factory returned {type(optimizer).__name__}, not a torch.optim.Optimizer; "
                "pass an optimizer class or a function of a list of parameters that returns one"
            )
        return optimizer

    def _record(self, param: Tensor, grad: Tensor) -> dict[str, Tensor | None]:
        """The per-parameter state that the optimizer creates for `param`, as first stored."""
        optimizer = self._optimizer([param], capturable=True)
        record = Recorder(optimizer.state.get(param, {}))
        optimizer.state[param] = record
        param.grad = grad
        optimizer.step()
        return {key: self._as_state(key, value) for key, value in record.stored.items()}

    def _as_state(self, key: str, value: Any) -> Tensor | None:
        if value is None or isinstance(value, Tensor):
            return value
        if isinstance(value, int | float):
            return torch.full((), float(value), dtype=torch.float64)
        raise self._refusal(f"it keeps a {type(value).__name__} as state {key!r}, which is not a tensor")

    def _refusal(self, why: str) -> InputError:
        return InputError(f"{self._name} cannot become part of the step graph: {why}; {_INSTEAD}")

    def _refuse_known(self, optimizer: Optimizer) -> None:
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise self._refusal("its step needs a closure, which runs the model again within the step")
        if isinstance(optimizer, torch.optim.SparseAdam):
            raise self._refusal("it takes sparse gradients, and the step graph's gradients are dense")
        if any(group.get("differentiable") for group in optimizer.param_groups):
            raise self._refusal("differentiable=True asks for gradients through the update")

    def _probe(self, name: str, ndim: int) -> _Probe:
        if ndim not in self._probes:
            with outside_any_trace():
                try:
                    self._probes[ndim] = self._examine(ndim)
                except InputError as error:
                    raise InputError(f"weight {name!r} of {ndim} dims: {error}") from error
        return self._probes[ndim]

    def _examine(self, ndim: int) -> _Probe:
        """Check on small real tensors that the traced step does what the optimizer does."""
        reference = self._reference(ndim, [0])
        if not torch.equal(reference[-1][0], self._reference(ndim, [0])[-1][0]):
            raise self._refusal("two runs on equal gradients differ, so it is not a function of its input")
        pair = self._reference(ndim, [0, 1])
        if not torch.equal(pair[-1][0], reference[-1][0]):
            raise self._refusal("the update of one weight depends on other weights' gradients")
        try:
            with as_graph():
                recorded = self._record(_stand_in(ndim, 0), torch.zeros_like(_stand_in(ndim, 0)))
                # A vector's 0-dim state is a scalar; a 0-dim weight's moments would look like one.
                vector = recorded if ndim else self._record(_stand_in(1, 0), _stand_in(1, 1))
            scalars = frozenset(
                k for k, v in vector.items() if v is not None and v.ndim == 0 and v.is_floating_point()
            )
            nones = frozenset(key for key, value in recorded.items() if value is None)
            lazily = frozenset(k for k, v in recorded.items() if v is not None and k not in scalars)
            candidates = [_Probe(scalars, nones, zero) for zero in (frozenset[str](), lazily)]
            fits = [probe for probe in candidates if self._fits(probe, ndim, reference)]
            with FakeTensorMode():
                self._rollout(candidates[0], ndim, 1)
        except InputError:
            raise
        except Exception as error:
            why = str(error).strip().split("\n")[0]
            raise self._refusal(
                f"its step does not trace without reading values on the host ({why})"
            ) from error
        if not fits:
            raise self._refusal("its first step differs from later ones by more than its initial state")
        if self._lr is not None:
            doubled = self._rollout(fits[0], ndim, _PROBE_STEPS, lr_factor=2.0)
            if torch.equal(doubled[-1], self._rollout(fits[0], ndim, _PROBE_STEPS)[-1]):
                raise self._refusal(
                    "its step ignores lr, so an lr schedule would do nothing; give lr a number"
                )
        return fits[0]

    def _reference(self, ndim: int, seeds: list[int]) -> list[list[Tensor]]:
        """The weights after each of a few eager steps, all of them in one optimizer."""
        params = [_stand_in(ndim, seed) for seed in seeds]
        optimizer = self._optimizer(params, capturable=False)
        steps = []
        for i in range(_PROBE_STEPS):
            for seed, param in zip(seeds, params, strict=True):
                param.grad = _stand_in(ndim, 100 + 10 * seed + i)
            if self._lr is not None:
                for group in optimizer.param_groups:
                    group["lr"] = float(at(self._lr, torch.tensor(float(i))))
            try:
                optimizer.step()
            except Exception as error:
                raise self._refusal(f"its step failed on a small weight ({error})") from error
            steps.append([param.detach().clone() for param in params])
        return steps

    def _rollout(self, probe: _Probe, ndim: int, steps: int, lr_factor: float = 1.0) -> list[Tensor]:
        """The weights after each of a few steps of this rule; fake under a FakeTensorMode."""
        weight = _stand_in(ndim, 0)
        with as_graph():
            recorded = self._record(weight.clone(), torch.zeros_like(weight))
        state = probe.initial(recorded)
        weights = []
        for i in range(steps):
            lr = None if self._lr is None else self._lr(torch.full((), float(i))) * lr_factor
            weight, state = self._step(probe, weight, _stand_in(ndim, 100 + i), state, lr)
            weights.append(weight)
        return weights

    def _fits(self, probe: _Probe, ndim: int, reference: list[list[Tensor]]) -> bool:
        """Whether this rule moves the weight as the optimizer does, to 1e-3 of the movement."""
        weights = self._rollout(probe, ndim, _PROBE_STEPS)
        before = _stand_in(ndim, 0)
        for ours, (theirs,) in zip(weights, reference, strict=True):
            moved = (theirs - before).abs().max()
            if not (ours - theirs).abs().max() <= 1e-3 * moved + 1e-14:
                return False
        return True


@dataclass(frozen=True, slots=True)
class _Probe:
    """What a few steps on a small weight showed about an optimizer's state."""

    scalars: frozenset[str]  # 0-dim for every weight, such as step
    nones: frozenset[str]  # stored as None and never filled
    from_zero: frozenset[str]  # filled by the first gradient, which equals starting from zeros

    def initial(self, recorded: dict[str, Tensor | None]) -> dict[str, Tensor]:
        """The state to start from, given what the optimizer stored first."""
        state = {key: value for key, value in recorded.items() if value is not None}
        return {k: torch.zeros_like(v) if k in self.from_zero else v for k, v in state.items()}


def _stand_in(ndim: int, seed: int) -> Tensor:
    """A small tensor of fixed values, which leaves the global random state alone.

    float64, so that a difference in formula stands out from rounding however small lr is.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(_PROBE_SHAPE[:ndim], generator=generator, dtype=torch.float64)


def from_torch(factory: Callable[..., Optimizer], /, **options: Any) -> TorchRule:
    """Use any torch.optim optimizer whose update of a weight depends on that weight alone.

    factory: an Optimizer class, or a function of a list of parameters that returns an optimizer;
    options are passed to it. lr may be a Schedule: the factory then gets its first value, and each
    step the schedule's. All other hyper-parameters are constants of the graph.

    The rule equals the optimizer with foreach=False: bitwise where the optimizer's scalars are
    Python constants (Adadelta, Adagrad, RMSprop, Rprop, SGD), else to about 1e-6 of the step in float32.

    Raises InputError if the optimizer cannot be traced (LBFGS needs a closure, SparseAdam sparse
    gradients, some read values on the host), couples weights, is random, or ignores lr while lr is
    a Schedule.
    """
    lr = options.get("lr")
    if isinstance(lr, Tensor):  # the optimizer checks its range, which no trace could
        options = {**options, "lr": float(lr)}
    if not isinstance(lr, Schedule):
        return TorchRule(lambda params: factory(params, **options))
    if isinstance(factory, type):
        options = {**options, "lr": first(lr)}
    else:
        del options["lr"]
    return TorchRule(lambda params: factory(params, **options), lr)
