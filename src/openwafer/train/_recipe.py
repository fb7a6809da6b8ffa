"""Run the `recipe` function of a Python file with arguments as people type them."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import linecache
import sys
import traceback
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from openwafer.base import InputError, WaferError

FUNCTION = "recipe"
_MARK = "__wafer_recipe__"


def run_recipe(path: str | Path, overrides: Mapping[str, Any]) -> Any:
    """Import the file and call its function `recipe` with `overrides`; see `load_recipe`."""
    file = _find(Path(path).expanduser())
    function = _function(_import(file), file)
    arguments = _arguments(function, overrides, file)
    with _Blame(file):
        return function(**arguments)


def _find(path: Path) -> Path:
    if path.is_file() and path.suffix == ".py":
        return path
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise InputError(
            f"{path} is not there, nor is the folder {folder}; give the path of a recipe, a .py file"
        )
    names = sorted(file.name for file in folder.glob("*.py") if not file.name.startswith("_"))
    if path.is_dir():
        what = f"{path} is a folder, not a recipe"
    elif path.is_file():
        what = f"{path} is not a .py file"
    else:
        what = f"{path} is not there"
    wanted = path.name.removesuffix(".py")
    near = [
        name
        for name in names
        if name.removesuffix(".py") in difflib.get_close_matches(wanted, _stems(names), 3, 0.5)
    ]
    if near and not path.is_dir():
        raise InputError(f"{what}; did you mean {' or '.join(str(folder / name) for name in near)}?")
    raise InputError(f"{what}; {folder} holds {', '.join(names[:12]) if names else 'no .py file'}")


def _stems(names: Iterable[str]) -> list[str]:
    return [name.removesuffix(".py") for name in names]


def _import(file: Path) -> ModuleType:
    """The file as a module under its own name, as `python file.py` would find its neighbours.

    Its folder goes first in sys.path, where spawned processes find the recipe again when they unpickle
    what it defines.
    """
    name, folder = file.stem.replace(".", "_"), str(file.resolve().parent)
    other = sys.modules.get(name)
    if other is not None and not hasattr(other, _MARK):
        raise InputError(f"{file}: a Python module is called {name!r} already; give the recipe another name")
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    setattr(module, _MARK, True)
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)
    sys.modules[name] = module
    linecache.checkcache(str(file.resolve()))
    try:
        with _Blame(file):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _function(module: ModuleType, file: Path) -> Callable[..., Any]:
    found = getattr(module, FUNCTION, None)
    if callable(found) and not isinstance(found, type):
        return found  # type: ignore[no-any-return]
    public = [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    hint = f" (it has {', '.join(public)})" if public else ""
    raise InputError(f"{file} has no function `{FUNCTION}`{hint}; add `def {FUNCTION}(...) -> RunConfig:`")


def _arguments(function: Callable[..., Any], overrides: Mapping[str, Any], file: Path) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    named = {name: p for name, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in overrides:
        if name not in named and not takes_any:
            near = difflib.get_close_matches(name, named, 1)
            raise InputError(
                f"{file}: the recipe has no argument {name!r}"
                + (f"; did you mean {near[0]!r}? It" if near else "; it")
                + f" takes {_listed(named.values()) or 'none'}"
            )
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in overrides:
            raise InputError(f"{file}: the recipe needs {name}=...; it takes {_listed(named.values())}")
    with _Blame(file):
        hints = typing.get_type_hints(function)
    return {
        name: _convert(value, hints.get(name, Any), f"{file}: {name}") for name, value in overrides.items()
    }


def _listed(parameters: Iterable[inspect.Parameter]) -> str:
    return ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters)


def _convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as the annotation says: text is read as a number, a truth value or a choice; objects pass."""
    if not isinstance(value, (str, int, float, type(None))) or hint is Any:
        return value
    if isinstance(value, str) and value.lower() == "none" and type(None) in typing.get_args(hint):
        return None
    try:
        return msgspec.convert(value, hint, strict=not isinstance(value, str), dec_hook=_decode)
    except msgspec.ValidationError as error:
        choices = [choice for choice in _choices(hint) if isinstance(choice, str)]
        near = difflib.get_close_matches(str(value), choices, 1)
        raise InputError(
            f"{where} must be {_readable(hint)}, got {value!r}"
            + (f"; did you mean {near[0]!r}?" if near else "")
        ) from error
    except TypeError as error:  # an annotation that msgspec does not know
        if isinstance(value, str):
            raise InputError(
                f"{where} is {_readable(hint)}, which cannot be given as text; set it in Python"
            ) from error
        return value


def _decode(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(kind)


def _choices(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return tuple(choice for part in typing.get_args(hint) for choice in _choices(part))


def _readable(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(hint))
    parts = typing.get_args(hint)
    if parts and type(None) in parts:
        return f"{' or '.join(_readable(part) for part in parts if part is not type(None))} or none"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    return names.get(hint) or (hint.__name__ if isinstance(hint, type) else str(hint))


class _Blame:
    """Turns any failure inside into an InputError that shows the line of the user's file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, WaferError):
            return
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, SyntaxError) and error.filename == str(self._file.resolve()):
            number, line, text = error.lineno or 0, error.text or "", f"{type(error).__name__}: {error.msg}"
        else:
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in frames if frame.filename == str(self._file.resolve())]
            number, line = (own[-1].lineno or 0, own[-1].line or "") if own else (0, "")
        place = f"{self._file}:{number}" if number else str(self._file)
        shown = f"\n    {number} | {line.strip()}\n" if line else " "
        raise InputError(f"{place}: the recipe failed:{shown}{text}") from error
