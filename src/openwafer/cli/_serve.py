"""`wafer serve`: answer requests with a model, as existing clients of inference services send them."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from openwafer.base import InputError, parse_bytes
from openwafer.cli._importing import importing

Model = Annotated[
    Path | None,
    typer.Argument(
        help="A folder with config.json, tokenizer.json and safetensors files.", show_default=False
    ),
]
Demo = Annotated[bool, typer.Option("--demo", help="A small model with random weights, made on the spot.")]
Execution = Annotated[str, typer.Option(help="auto, resident, pipelined or weight_streaming.")]
Dtype = Annotated[str, typer.Option(help="auto (as stored), bf16, fp16, fp32 or int8.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Memory = Annotated[
    str | None,
    typer.Option(help="What the model may take, for example 8GiB; default what is free.", show_default=False),
]
SystemCount = Annotated[
    int | None, typer.Option("--systems", help="Stages of a pipeline, each a process.", show_default=False)
]


def serve(
    model: Model = None,
    demo: Demo = False,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all, needs keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any that is free.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="The model's name; default its folder's.", show_default=False)
    ] = None,
    alias: Annotated[
        list[str] | None, typer.Option(help="Another name of the model; may be repeated.", show_default=False)
    ] = None,
    any_model: Annotated[
        bool, typer.Option("--any-model", help="Answer whatever name a request has.")
    ] = False,
    key_file: Annotated[
        Path | None,
        typer.Option(
            help="Keys that clients must send, one a line; default WAFER_API_KEYS.", show_default=False
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="Web pages of this origin may call; may be repeated.", show_default=False),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse unknown fields in requests.")] = False,
    mock: Annotated[
        bool, typer.Option("--mock", help="Leave out what is wrong in a request; for clients' test suites.")
    ] = False,
    execution: Execution = "auto",
    dtype: Dtype = "auto",
    device: Device = "auto",
    memory: Memory = None,
    systems: SystemCount = None,
    cache_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of the KV cache; default what the memory leaves.", show_default=False),
    ] = None,
    waiting: Annotated[int, typer.Option(help="Requests that may wait; one more gets 429.")] = 256,
    running: Annotated[int, typer.Option(help="Answers that are made at the same time.")] = 64,
    requests_per_day: Annotated[
        int | None, typer.Option(help="Limit of each client.", show_default=False)
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(help="Limit of each client.", show_default=False)
    ] = None,
    drain_seconds: Annotated[float, typer.Option(help="For answers under way when the server ends.")] = 30.0,
) -> None:
    """Serve a model over HTTP, as clients of inference services know it, with a page to chat."""
    memory_bytes = parse_bytes(memory) if memory is not None else None
    # As an exception it ends what loads, and what the loading began; once it serves, the server takes signals itself.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    with model_folder(model, demo) as folder:
        with importing():
            from openwafer.serve.engine import Limits
            from openwafer.serve.executors import BLOCK_TOKENS
            from openwafer.serve.service import Service, ServiceConfig

        config = ServiceConfig(
            folder=folder,
            name=name,
            aliases=tuple(alias or ()),
            any_model=any_model,
            host=host,
            port=port,
            key_file=key_file,
            cors_origins=tuple(cors_origin or ()),
            strict=strict,
            mock=mock,
            requests_per_day=requests_per_day,
            tokens_per_minute=tokens_per_minute,
            execution=execution,
            dtype=dtype,
            device=device,
            memory_bytes=memory_bytes,
            systems=systems,
            cache_blocks=None if cache_tokens is None else -(-cache_tokens // BLOCK_TOKENS),
            limits=Limits(waiting=waiting, running=running),
            drain_s=drain_seconds,
        )
        status = Service(config, Console()).run()
    raise typer.Exit(status)


@contextmanager
def model_folder(model: Path | None, demo: bool) -> Iterator[Path]:
    """The folder of the model, or of a demo model that is gone at the end."""
    if demo == (model is not None):
        raise InputError("name the folder of a model, or give --demo, and not both")
    if model is not None:
        if not model.is_dir():
            raise InputError(
                f"there is no folder {model}; give the folder of a checkpoint (config.json, tokenizer.json, "
                "*.safetensors), or --demo"
            )
        yield model
        return
    with importing():
        from openwafer.serve.model import make_demo

    with tempfile.TemporaryDirectory(prefix="openwafer-") as folder:
        yield make_demo(Path(folder) / "demo")
