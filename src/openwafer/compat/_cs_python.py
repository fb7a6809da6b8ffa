"""`cs_python`: run a host script with the import names of the SDK."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, TracebackType

from openwafer.base import WaferError
from openwafer.compat._shifts import compile_script, widen_modules

SDK_PATH = Path(__file__).parent / "sdk"
_USAGE = "usage: cs_python SCRIPT [arguments], cs_python -c COMMAND [arguments], or cs_python -m MODULE [arguments]\n"


def cs_python(arguments: Sequence[str] | None = None) -> int:
    """Entry point: run a script as Python would, with `cerebras.sdk...` importable.

    Gives 0, 1 after an exception, or 130 after Ctrl-C. An error of ours is shown as its message with the line of the
    script that met it; the script's own exceptions show their traceback. SystemExit passes. `arguments` default to the
    process's own.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given or given[0] in ("-h", "--help") or (given[0] in ("-c", "-m") and len(given) < 2):
        wanted = bool(given) and given[0] in ("-h", "--help")
        (sys.stdout if wanted else sys.stderr).write(_USAGE)
        return 0 if wanted else 2
    with _import_names():
        return _run_given(given)


@contextmanager
def _import_names() -> Iterator[None]:
    """The names of `sdk/` can be imported inside and not behind it, also where a client of `cerebras.cloud` was loaded first."""
    path = list(sys.path)
    sys.path.insert(0, str(SDK_PATH))
    loaded = sys.modules.get("cerebras")
    places = list(loaded.__path__) if loaded is not None else []
    if loaded is not None:
        loaded.__path__ = [str(SDK_PATH / "cerebras"), *places]
    try:
        yield
    finally:
        sys.path[:] = path
        if loaded is not None:
            loaded.__path__ = places
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(f"{SDK_PATH}{os.sep}"):
                del sys.modules[name]


def _run_given(given: list[str]) -> int:
    mode = given[0] if given[0] in ("-c", "-m") else ""
    subject, sys.argv = (given[1], [given[0], *given[2:]]) if mode else (given[0], given)
    try:
        if mode == "-m":
            sys.path.insert(0, str(Path.cwd()))
            runpy.run_module(subject, run_name="__main__", alter_sys=True)
        elif mode == "-c":
            sys.path.insert(0, "")
            _run(compile(subject, "<string>", "exec"), "<string>")
        else:
            _run_script(subject)
    except WaferError as error:
        sys.stdout.flush()
        sys.stderr.write(_ours(error))
        return 1
    except KeyboardInterrupt as error:
        sys.stdout.flush()
        sys.stderr.write(f"{_place(error)}interrupted\n")
        return 130
    except Exception as error:
        sys.stdout.flush()
        inside = _inside(error.__traceback__)
        sys.stderr.write("".join(traceback.format_exception(type(error), error, inside)))
        return 1
    return 0


def _run_script(subject: str) -> None:
    script = Path(subject)
    try:
        source = script.read_bytes()
    except OSError as error:
        sys.stderr.write(f"cs_python: {subject} cannot be read: {error.strerror}\n")
        raise SystemExit(2) from None
    folder = script.resolve().parent
    sys.path.insert(0, str(folder))
    widen_modules(folder)
    try:
        code = compile_script(source, subject)
    except SyntaxError as error:
        sys.stderr.write("".join(traceback.format_exception(type(error), error, None)))
        raise SystemExit(1) from None
    _run(code, subject)


def _run(code: CodeType, name: str) -> None:
    # A new __main__, as pickles and dataclasses of the script look their module up by that name.
    module = type(sys)("__main__")
    module.__dict__.update(__file__=name, __builtins__=__builtins__)
    before, sys.modules["__main__"] = sys.modules["__main__"], module
    try:
        exec(code, module.__dict__)
    finally:
        sys.modules["__main__"] = before


def _ours(error: WaferError) -> str:
    """What is wrong, the innermost line that is the script's and not ours, then the rest: a diagnosis may be long."""
    last = _last(error)
    shown = f"    {last.line}\n" if last is not None and last.line else ""
    what, _, rest = str(error).partition("\n")
    return f"{_place(error)}error: {what}\n{shown}{rest}".rstrip("\n") + "\n"


def _place(error: BaseException) -> str:
    """`script.py:12: `, the innermost line that is the script's and not ours; nothing if there is none."""
    last = _last(error)
    return "" if last is None else f"{last.filename}:{last.lineno}: "


def _last(error: BaseException) -> traceback.FrameSummary | None:
    frames = [
        frame
        for frame in traceback.extract_tb(_inside(error.__traceback__))
        if not Path(frame.filename).resolve().is_relative_to(SDK_PATH.parent.parent)
    ]
    return frames[-1] if frames else None


def _inside(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames of this file and of runpy."""
    ours = {__file__, runpy.__file__, "<frozen runpy>"}
    while trace is not None and trace.tb_frame.f_code.co_filename in ours:
        trace = trace.tb_next
    return trace
