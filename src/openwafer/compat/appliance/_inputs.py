"""The data pipeline of a client's job: what its requests say of it, as a source of batches in confined workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from openwafer.base import InputError
from openwafer.compat.appliance._compiled import ProgramInfo
from openwafer.compat.appliance._requests import PYTHON_VARIABLE, VOLUMES_VARIABLE
from openwafer.compat.inputs import ClientBatches, Pipeline, TensorSpec, confine
from openwafer.sandbox import Confinement


def open_inputs(
    request: Any,
    loader: Any,
    program: ProgramInfo,
    rows: Sequence[int],
    state_steps: Iterable[int],
    say: Callable[..., None],
) -> ClientBatches:
    """The batches of a run. request: the job's ExecuteJobRequest; loader: the DataLoaderConfig of the run's request;
    state_steps: after how many steps a restartable pipeline keeps its state.

    Raises InputError if the client's interpreter is not there, or its pipeline cannot be what the program reads.
    """
    python, confinement = confinement_of(request)
    worker = request.debug_args.debug_wrk
    pipeline = Pipeline(
        builder=_unhex(loader.builder, "builder"),
        arguments=_unhex(loader.builder_inputs, "arguments"),
        state=_unhex(loader.initial_state, "state"),
        visitors=tuple(
            (_unhex(types, "types"), _unhex(function, "function"))
            for types, function in worker.visit_fn_map.items()
        ),
        environment=dict(worker.env_vars),
        python_paths=tuple(request.python_paths),
    )
    tensors = [
        TensorSpec(name=info.name, dtype=_worker_dtype(info.dtype, info.element), shape=info.shape[1:])
        for info in program.inputs
    ]
    return ClientBatches(
        pipeline,
        tensors,
        rows,
        python=python,
        confinement=confinement,
        log=say,
        state_steps=[range(steps, steps + 1) for steps in sorted(state_steps)],
        on_stall=lambda system, seconds: say(
            f"INPUT_STARVATION: system {system} has waited {seconds:.0f} s for its data pipeline", "STALL"
        ),
    )


def confinement_of(request: Any) -> tuple[str, Confinement]:
    """The client's interpreter, and what holds the code that it runs. Raises InputError if there is no interpreter."""
    python = client_python(request)
    # A client that mounts by itself asks for the whole volume that a package of its user lies in. Where no volumes are
    # declared that is everything; the package's own folder comes with the python paths.
    mounts = [mount.path for mount in request.mount_dirs if mount.path not in ("", "/")]
    return python, confine(
        python,
        mounts=list(dict.fromkeys((*mounts, *request.python_paths))),
        volumes=[path for path in os.environ.get(VOLUMES_VARIABLE, "").split(os.pathsep) if path],
        python_from_job=PYTHON_VARIABLE not in os.environ,
    )


def client_python(request: Any) -> str:
    """The interpreter of the client's environment: the appliance's own choice, or that of the packages that the job names.

    Raises InputError if there is none.
    """
    if chosen := os.environ.get(PYTHON_VARIABLE):
        return chosen
    packages = Path(request.user_sidecar_env.python_path)
    # <prefix>/lib/python3.11/site-packages
    if len(packages.parts) > 3:
        prefix = packages.parents[2]
        for name in (packages.parent.name, "python3", "python"):
            found = prefix / "bin" / name
            if os.access(found, os.X_OK):
                return str(found)
    raise InputError(
        f"the client's Python is not found beside its packages ({packages}); let the appliance name one with "
        "--client-python, and install the client there"
    )


def _worker_dtype(dtype: str, element: str) -> str:
    """What the client's loader makes: the vendor's half format travels as float16."""
    return "float16" if element == "f16" else dtype


def _unhex(text: str, what: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise InputError(
            f"the {what} of the data pipeline are not hexadecimal; is the client of another version?"
        ) from None
