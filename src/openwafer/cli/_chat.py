"""`wafer chat`: talk with a server, or with a model of this machine, in the terminal."""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from openwafer.base import InputError, WaferError, parse_bytes
from openwafer.cli._client import KeyFile, client_key
from openwafer.cli._importing import importing
from openwafer.cli._serve import Demo, Device, Dtype, Execution, Memory, model_folder


def chat(
    where: Annotated[
        str | None,
        typer.Argument(
            metavar="URL|MODEL",
            help="A server, or a model's folder; default http://127.0.0.1:8000.",
            show_default=False,
        ),
    ] = None,
    demo: Demo = False,
    system: Annotated[
        str | None, typer.Option(help="What the model is told before you speak.", show_default=False)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0: always the likeliest token.", show_default=False)
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="The longest answer.", show_default=False)] = None,
    key_file: KeyFile = None,
    execution: Execution = "auto",
    dtype: Dtype = "auto",
    device: Device = "auto",
    memory: Memory = None,
) -> None:
    """Chat in the terminal. An empty line or Ctrl-D ends; Ctrl-C ends an answer. Answers alone go to standard output."""
    from openwafer.serve.client import Message, Told, ask, find_model

    notes = Console(stderr=True, highlight=False, markup=False)
    key = client_key(key_file)
    with ExitStack() as stack:
        if demo or (where is not None and "://" not in where):
            with importing():
                from openwafer.serve.service import Service, ServiceConfig

            signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
            config = ServiceConfig(
                folder=stack.enter_context(model_folder(Path(where) if where is not None else None, demo)),
                port=0,
                execution=execution,
                dtype=dtype,
                device=device,
                memory_bytes=parse_bytes(memory) if memory is not None else None,
            )
            url = stack.enter_context(Service(config, notes).in_background())
        else:
            url = where or "http://127.0.0.1:8000"
        model = find_model(url, key)
        more = {"temperature": temperature, "max_tokens": max_tokens}
        fields = {name: value for name, value in more.items() if value is not None}
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        notes.print(f"{model} at {url}; an empty line ends")
        while question := _question():
            messages.append({"role": "user", "content": question})
            said: list[str] = []
            try:
                for part in ask(url, model, messages, key=key, **fields):
                    if isinstance(part, Told):
                        notes.print(
                            f"\n[{part.tokens} tokens, the first after {part.first_token_s:.2f} s, then "
                            f"{part.tokens_per_s:.1f} tokens/s{', cut at the limit' * (part.finish == 'length')}]"
                        )
                    else:
                        said.append(part)
                        sys.stdout.write(part)
                        sys.stdout.flush()
            except KeyboardInterrupt:
                notes.print("\n[interrupted]")
            except WaferError as error:
                if not sys.stdin.isatty():
                    raise
                notes.print(f"\nerror: {error}", soft_wrap=True)
                messages.pop()
                continue
            sys.stdout.write("\n")
            messages.append({"role": "assistant", "content": "".join(said)})


def _question() -> str:
    """What the user types; "" at the end. A script's lines come through a pipe, without a prompt."""
    if sys.stdin.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401 - gives `input` its editing and history
        try:
            return input("> ").strip()
        except EOFError:
            return ""
    try:
        return sys.stdin.readline().strip()
    except UnicodeDecodeError:
        raise InputError("standard input is not UTF-8 text; convert it first") from None
