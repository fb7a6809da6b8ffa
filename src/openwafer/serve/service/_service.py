"""A server from its first byte of weights to its last answer."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from rich.console import Console

from openwafer.base import InputError, format_bytes, listen_error, open_listener, url_of
from openwafer.base.web import run_until_signal, serving_in_background, web_server
from openwafer.serve.api import KEYS_VARIABLE, Settings, load_keys, make_app
from openwafer.serve.engine import Engine
from openwafer.serve.executors import BLOCK_TOKENS, Executor, choose_device, open_executor
from openwafer.serve.model import Checkpoint, Progress, choose_precision, kv_block_bytes
from openwafer.serve.service._config import ServiceConfig
from openwafer.serve.service._loading import show_loading
from openwafer.serve.service._page import pages
from openwafer.serve.text import ChatTemplate, Tokenizer


@final
class Service:
    """One model behind one socket. Loaded when made; then `run` it once, or have it `in_background`."""

    def __init__(self, config: ServiceConfig, console: Console) -> None:
        """Load the model. What is cheap to find wrong is found before it is: keys, address, files, memory.

        Raises InputError, CheckpointError, UnsupportedModelError, PlanError.
        """
        self._config = config
        self._console = console
        keys = load_keys(config.key_file)
        if not keys and not config.is_local:
            raise InputError(
                f"without keys this server would refuse whoever reaches it at {config.host}; give keys with --key-file "
                f"or in {KEYS_VARIABLE}, or leave --host at 127.0.0.1"
            )
        self._listener = open_listener(config.host, config.port)
        try:
            self._engine, settings, template = self._load(keys)
            self._app = make_app(self._engine, self._tokenizer, template, settings, pages=pages())
        except BaseException:
            self._listener.close()
            raise
        self.url = url_of(self._listener)

    def _load(self, keys: tuple[str, ...]) -> tuple[Engine, Settings, ChatTemplate | None]:
        config = self._config
        began = time.monotonic()
        checkpoint = Checkpoint(config.folder)
        precision = choose_precision(config.dtype, checkpoint.dtype)
        self._tokenizer = Tokenizer.load(config.folder)
        template = ChatTemplate.load(config.folder, self._tokenizer)

        def load(progress: Progress | None = None) -> Executor:
            return open_executor(
                config.folder,
                execution=config.execution,
                dtype=config.dtype,
                device=config.device,
                memory_bytes=config.memory_bytes,
                systems=config.systems,
                blocks=config.cache_blocks,
                progress=progress,
            )

        with show_loading(self._console, config.model) as report:
            executor = load(report)
        cache_bytes = executor.blocks * kv_block_bytes(checkpoint.config, precision)
        engine = Engine(executor, self._tokenizer, reopen=load, limits=config.limits)
        kind = {"ResidentExecutor": "resident", "PipelinedExecutor": "pipelined"}.get(
            type(executor).__name__, "weight streaming"
        )
        self._say(
            f"{config.model}: {kind} on {choose_device(config.device)} as {precision}, loaded in "
            f"{time.monotonic() - began:.1f} s; KV cache of {executor.blocks * BLOCK_TOKENS} tokens "
            f"({format_bytes(cache_bytes)}), {engine.context_tokens} for one answer"
        )
        if template is None:
            self._say("the model has no chat template: completions only")
        settings = Settings(
            model=config.model,
            aliases=config.aliases,
            any_model=config.any_model,
            context_tokens=engine.context_tokens,
            created=int((config.folder / "config.json").stat().st_mtime),
            dtype=str(precision),
            version=importlib.metadata.version("openwafer"),
            strict=config.strict,
            mock=config.mock,
            keys=keys,
            cors_origins=config.cors_origins,
            requests_per_day=config.requests_per_day,
            tokens_per_minute=config.tokens_per_minute,
        )
        return engine, settings, template

    def run(self) -> int:
        """Serve until SIGTERM or Ctrl-C, which let answers under way end, up to `drain_s`; a second one ends them.

        Requests that come meanwhile get 503 with Retry-After. Returns the process's exit status: 0 after SIGTERM, 130 after
        Ctrl-C. To be called in the main thread.
        """
        caught = False

        def on_signal(count: int) -> None:
            nonlocal caught
            caught = True
            if count == 1:
                running = self._engine.statistics()
                self._say(
                    f"ending: {running.running} answers under way and {running.waiting} waiting have "
                    f"{self._config.drain_s:g} s; another signal ends them now"
                )
            else:
                # In a thread, because it waits until the batch under way is done.
                threading.Thread(target=self._engine.stop, name="stop").start()

        async def serve(leaving: asyncio.Event) -> None:
            self._listen()
            self._say(f"serving at {self.url}/v1, a page to chat at {self.url}/, its load at {self.url}/load")
            await self._serve(leaving)

        status = run_until_signal(serve, on_signal)
        if caught:
            self._say("ended")
        return status

    @contextmanager
    def in_background(self) -> Iterator[str]:
        """Serve from a thread of its own inside the `with`; gives the URL. What is under way at the end is cancelled."""
        self._listen()
        with serving_in_background(lambda leaving: self._serve(leaving, drain_s=0.0), "server"):
            yield self.url

    def _listen(self) -> None:
        """From now on clients may connect; they wait until the server is there.

        Raises InputError if another process began to listen there while we loaded.
        """
        try:
            self._listener.listen()
        except OSError as error:
            self._engine.stop()
            raise listen_error(error, self._config.host, self._config.port) from None

    async def _serve(self, leaving: asyncio.Event, drain_s: float | None = None) -> None:
        server = web_server(self._app)
        serving = asyncio.create_task(server.serve(sockets=[self._listener]))
        asked = asyncio.create_task(leaving.wait())
        watching = asyncio.create_task(self._app.state.watch.run())
        try:
            await asyncio.wait((serving, asked), return_when=asyncio.FIRST_COMPLETED)
            self._app.state.accepting = False
            if serving.done():
                await asyncio.to_thread(self._engine.stop)
            else:
                await asyncio.to_thread(
                    self._engine.stop, self._config.drain_s if drain_s is None else drain_s
                )
                server.should_exit = True
            await serving
        finally:
            asked.cancel()
            watching.cancel()

    def _say(self, line: str) -> None:
        # A terminal that went away, or a full disk behind it, is no reason to stop serving.
        with contextlib.suppress(OSError):
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)
            self._console.file.flush()
