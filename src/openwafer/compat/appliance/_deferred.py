"""Initial values that the client describes instead of sending: computed in the sandbox, some at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, final

from openwafer.base import InputError, WaferError
from openwafer.compat.appliance._service import CallError
from openwafer.compat.appliance._tensors import dtypes_of, from_bytes
from openwafer.compat.appliance._weights import Staging
from openwafer.compat.inputs import InitialValue, initial_values
from openwafer.sandbox import Confinement


@final
class Deferred:
    """Takes descriptions and puts tensors into a staging, in a thread of its own.

    The client describes tensors one by one and waits for each answer, so answers come at once; what has gathered meanwhile is
    computed by one confined process, whose start takes longer than most tensors. A failure stops the staging with its reason.
    """

    def __init__(
        self, staging: Staging, python: str, confinement: Confinement, say: Callable[[str], None]
    ) -> None:
        self._staging, self._python, self._confinement, self._say = staging, python, confinement, say
        self._waiting: list[InitialValue] = []
        self._lock = threading.Lock()
        self._busy = False

    def add(self, name: str, tensor: Any) -> None:
        """Take a SendDeferredInputRequest.Tensor. Raises InputError for what makes no sense, CallError for S3 objects."""
        value = describe(name, tensor)
        self._staging.info(name)
        if value.graph is None and value.data is None and not value.hooks:
            number = tensor.scalar_broadcast_tensor.value
            self._staging.put(name, from_bytes(number.dtype, (), number.scalar.data).expand(value.shape))
            return
        with self._lock:
            self._waiting.append(value)
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._work, name="initial-values", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                some, self._waiting = self._waiting, []
                if not some:
                    self._busy = False
                    return
            try:
                for name, value in initial_values(
                    some, python=self._python, confinement=self._confinement, log=self._say
                ):
                    self._staging.put(name, value)
            except WaferError as error:
                self._say(f"initial values cannot be made: {error}")
                self._staging.stop(f"initial values cannot be made: {error}")
                return


def describe(name: str, tensor: Any) -> InitialValue:
    """A tensor, or an argument of a graph, as the sandbox takes it."""
    kind = tensor.WhichOneof(
        "tensor_impl" if "tensor_impl" in tensor.DESCRIPTOR.oneofs_by_name else "arg_impl"
    )
    dtype, _ = dtypes_of(tensor.dtype)
    hooks = getattr(tensor, "post_materialize_hooks", "")
    try:
        fields: dict[str, Any] = {"hooks": bytes.fromhex(hooks)}
    except ValueError:
        raise InputError(
            f"the hooks of {name} are not hexadecimal; is the client of another version?"
        ) from None
    if kind == "graph_tensor":
        args = tensor.graph_tensor.args
        fields["graph"] = tensor.graph_tensor.graph
        fields["args"] = tuple(describe(f"{name}, argument {index}", arg) for index, arg in enumerate(args))
    elif kind == "scalar_broadcast_tensor":
        value = tensor.scalar_broadcast_tensor.value
        fields["fill"] = from_bytes(value.dtype, (), value.scalar.data).item()
    elif kind == "rtfx_tensor":
        value = tensor.rtfx_tensor
        whole = from_bytes(value.dtype, value.tensor.shape, value.tensor.data)
        fields["data"] = (
            whole.numpy().tobytes() if str(whole.dtype) != "torch.bfloat16" else value.tensor.data
        )
    else:
        raise CallError("UNIMPLEMENTED", f"{name} lies in S3 storage, which this appliance does not read")
    return InitialValue(
        name=name, dtype=str(dtype).removeprefix("torch."), shape=tuple(tensor.shape), **fields
    )
