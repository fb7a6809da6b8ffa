"""A client's program: what it reads, keeps and returns, and its steps for any part of the batch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from openwafer.artifact import Plan
from openwafer.compat.cirh._function import Type
from openwafer.compat.cirh._lower import lower, torch_name
from openwafer.compat.cirh._parser import parse
from openwafer.compat.cirh._states import Parts, take_apart
from openwafer.graph import PlanOptions, StepGraph, plan_job


@dataclass(frozen=True, slots=True)
class Input:
    """One tensor of the batch, whole: `shape` begins with the batch."""

    name: str
    dtype: str
    """torch's name without `torch.`; float32 for the vendor's half format, which nothing else holds exactly."""
    shape: tuple[int, ...]
    element: str
    """The element type as the program says it: f16 where the vendor's half format is meant."""


@dataclass(frozen=True, slots=True)
class StateTensor:
    """One tensor that lives on from step to step."""

    name: str
    """The client's name (`tf.resource_name`)."""
    dtype: str
    shape: tuple[int, ...]
    element: str
    updated: bool
    """Whether a step changes it."""
    role: str
    """weight, state (of a weight), buffer (replaced by the forward) or global (a number of the whole job)."""
    tensor: str
    """Its name in plans and checkpoints; for a global, the name of the global."""


@dataclass(frozen=True, slots=True)
class Output:
    """One result that is no state."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    element: str


class Program:
    """A program that was read and can be planned.

    `plan` makes the same Plan as for a native model. In what its steps report, a sum over samples (the loss) is the metric of
    the output's name, as the number of the whole batch, and a number of the update (learning rate, norm) is the log of that
    name. A program without updates (evaluation) plans as a step without gradients.
    """

    def __init__(self, parts: Parts, text: str) -> None:
        self._parts = parts
        self._text = text
        self._steps: dict[int, StepGraph] = {}

    @staticmethod
    def parse(text: str, name: str = "program") -> Program:
        """Read a program. name: what messages and reports call it.

        Raises CirhError, with line and column, for text that is no CIRH; with the operation's place in the client's source
        for an operation that is not run here (docs/cirh.md lists them).
        """
        return Program(take_apart(parse(text, name)), text)

    @property
    def name(self) -> str:
        return self._parts.function.text_name

    @property
    def batch(self) -> int:
        """Samples of a whole batch."""
        return self._parts.batch.size

    @property
    def whole_batch(self) -> str:
        """Why a step needs its whole batch at once, with the place; empty if it can be divided over microbatches and systems."""
        return self._parts.kinds.whole

    @property
    def fp16_type(self) -> str:
        """float16, bfloat16 or cbfloat16: what the program's half format is."""
        return str(self._parts.function.attributes.get("cs.fp16_type", "float16"))

    @property
    def pol(self) -> int:
        """The precision optimisation level that the client asks for. Here every level computes alike."""
        level = self._parts.function.attributes.get("cs.pol", 1)
        return level if isinstance(level, int) else 1

    @property
    def counters(self) -> tuple[str, ...]:
        """The client's names of states whose sum counts the steps, also those that were skipped; () if none do."""
        return self._parts.counters

    @property
    def trains(self) -> bool:
        """Whether a step changes weights."""
        return bool(self._parts.gradients)

    @cached_property
    def inputs(self) -> tuple[Input, ...]:
        """The batch, in the order of the arguments."""
        return tuple(
            Input(name, self._dtype(kind), kind.shape, kind.element)
            for name, value in self._parts.inputs.items()
            for kind in (self._type(value),)
        )

    @cached_property
    def states(self) -> tuple[StateTensor, ...]:
        """What lives on, in the order of the arguments."""
        return tuple(
            StateTensor(
                name=state.name,
                dtype=self._dtype(kind),
                shape=kind.shape,
                element=kind.element,
                updated=state.new != state.value,
                role=state.role,
                tensor=state.tensor,
            )
            for state in self._parts.states.values()
            for kind in (self._type(state.value),)
        )

    @cached_property
    def outputs(self) -> tuple[Output, ...]:
        """What a step returns beside state."""
        return tuple(
            Output(name, self._dtype(kind), kind.shape, kind.element)
            for name, value in self._parts.outputs.items()
            for kind in (self._type(value),)
        )

    @cached_property
    def key(self) -> str:
        """Content hash: equal for equal texts."""
        return hashlib.sha256(self._text.encode()).hexdigest()[:16]

    def capture(self, samples: int, train: bool = True) -> StepGraph:
        """The step for a microbatch of `samples` samples; what `graph.plan_job` asks for.

        Raises PlanError if the batch cannot be divided and `samples` is not all of it; CirhError for what is not run here.
        """
        if samples not in self._steps:
            self._steps[samples] = lower(self._parts, samples)
        return self._steps[samples]

    def plan(self, options: PlanOptions) -> Plan:
        """The plan of a job. `options.evaluate` must be False: evaluation is a program of its own.

        Raises PlanError if the program does not fit; CirhError for what is not run here.
        """
        return plan_job(self.name, self.capture, options)

    def _type(self, value: int) -> Type:
        return self._parts.function.values[value]

    def _dtype(self, kind: Type) -> str:
        return torch_name(self._parts.function, kind)
