"""Say why a step could not be captured: the module, the source line, the mend."""

from __future__ import annotations

import linecache
import os
import traceback
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.fx import traceback as fx_traceback
from torch.nn.modules import module as module_hooks

from openwafer.base import CaptureError

_TORCH_FOLDER = os.path.dirname(torch.__file__)
_OWN_FOLDER = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))


class ModuleTrail:
    """While entered, knows which module's forward is running, and stamps it onto every traced node."""

    def __init__(self, root: nn.Module) -> None:
        self._names = {id(module): name for name, module in root.named_modules()}
        self._stack: list[str] = []
        self._hooks: list[Any] = []
        self.deepest: str = ""

    def __enter__(self) -> ModuleTrail:
        self._preserve = fx_traceback.preserve_node_meta()
        self._preserve.__enter__()
        self._hooks = [
            module_hooks.register_module_forward_pre_hook(self._enter),
            module_hooks.register_module_forward_hook(self._leave),
        ]
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self._preserve.__exit__(kind, *rest)
        if kind is not None and self._stack:
            self.deepest = self._stack[-1]
        fx_traceback.current_meta.pop("nn_module_stack", None)

    @property
    def current(self) -> str:
        return self._stack[-1] if self._stack else ""

    def _enter(self, module: nn.Module, _args: Any) -> None:
        self._stack.append(self._names.get(id(module), type(module).__name__))
        self._stamp()

    def _leave(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._stack.pop()
        self._stamp()

    def _stamp(self) -> None:
        fx_traceback.current_meta["nn_module_stack"] = {name: (name, "") for name in self._stack}


def explain(error: Exception, trail: ModuleTrail) -> CaptureError:
    """The same failure in the user's terms: where it happened and what to write instead."""
    where = _user_line(error.__traceback__)
    module = trail.current or "the step"
    text = str(error)
    kind = type(error).__name__
    if "DataDependent" in kind or "data-dependent" in text.lower() or "_local_scalar_dense" in text:
        why = "needs the value of a tensor while the graph is captured (`.item()`, `bool(tensor)`, `if tensor:`, `int(tensor)`)"
        mend = "keep the value in a tensor (torch.where, masking), or pass it as a Python number fixed for the job"
    elif "DynamicOutputShape" in kind or "nonzero" in text:
        why = "makes a tensor whose shape depends on values (nonzero, unique, boolean indexing)"
        mend = "use a mask of fixed shape (torch.where, multiply by the mask) instead of selecting elements"
    elif isinstance(error, TypeError) and "forward()" in text:
        why = f"was called with the wrong arguments: {text}"
        mend = (
            "make the batch's names match the arguments of the model's forward, or give `loss` to split them"
        )
    else:
        why = f"cannot run on tensors without data: {kind}: {text.splitlines()[0] if text else ''}"
        mend = (
            "check that the module runs on one batch in plain PyTorch, and that every tensor it uses is a parameter, "
            "a buffer or an input"
        )
    return CaptureError(f"{where}module {module!r} {why}; {mend}")


def _user_line(tb: TracebackType | None) -> str:
    """`file.py:12: the line: ` of the innermost frame that is neither torch's nor ours."""
    for frame in reversed(traceback.extract_tb(tb)):
        if not frame.filename.startswith((_TORCH_FOLDER, _OWN_FOLDER)) and not frame.filename.startswith("<"):
            line = linecache.getline(frame.filename, frame.lineno or 0).strip()
            return f"{frame.filename}:{frame.lineno}: `{line}`: "
    return ""
