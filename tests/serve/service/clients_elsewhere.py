"""Stand-ins for the services that public programs call beside the inference server, on loopback.

`elsewhere()` starts them and a proxy that leads to them. A program is told of both by its environment: HTTPS_PROXY says
where the proxy is, SSL_CERT_FILE and its like which authority signed the stand-ins' certificate. Hosts that nobody stands
in for are refused, so that no test ever waits for the internet, or asks it.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import clients_vectors as vectors  # type: ignore[import-not-found]
import clients_web as web  # type: ignore[import-not-found]
import grpc
import trustme
import uvicorn
from clients_weaviate import Weaviate  # type: ignore[import-not-found]
from starlette.applications import Starlette
from starlette.routing import Host

CLUSTER = "sums.weaviate.cloud"
"""What a program that wants a Weaviate cluster's address is told."""
_SITE = Path(__file__).with_name("clients_site")
_LIMIT_S = 30.0


class Elsewhere:
    """The stand-ins by host, the proxy before them, and the certificate that they show."""

    def __init__(self, folder: Path) -> None:
        pinecone, weaviate = vectors.Pinecone(), Weaviate()
        self._apps = {
            "ar5iv.labs.arxiv.org": web.paper(),
            "en.wikipedia.org": web.encyclopedia(),
            "html.duckduckgo.com": web.search(),
            "api.smith.langchain.com": web.accepting(),
            "llamatrace.com": web.accepting(),
            "api.wandb.ai": web.weights_and_biases(),
            "trace.wandb.ai": web.traces(),
            "api.pinecone.io": pinecone.control(),
            vectors.INDEX_HOST: pinecone.data(),
            "localhost": vectors.ollama(),
            CLUSTER: weaviate.rest(),
        }
        self._grpc_host = f"grpc-{CLUSTER}"
        authority = trustme.CA()
        signed = authority.issue_cert(*self._apps, self._grpc_host)
        self._authority, self._chain, self._key = folder / "ca.pem", folder / "chain.pem", folder / "key.pem"
        authority.cert_pem.write_to_path(self._authority)
        signed.private_key_pem.write_to_path(self._key)
        for blob in signed.cert_chain_pems:
            blob.write_to_path(self._chain, append=True)
        self._procedures = grpc.server(ThreadPoolExecutor(2), handlers=weaviate.methods())
        self._ports: dict[str, int] = {}
        self._stop = asyncio.Event()

    def environment(self) -> dict[str, str]:
        """Where the proxy is and whom to trust, in all the spellings that clients read."""
        proxy, bundle = f"http://127.0.0.1:{self._ports['proxy']}", str(self._authority)
        return {
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), proxy),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1"),
            **dict.fromkeys(
                ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"),
                bundle,
            ),
            "PYTHONPATH": str(_SITE),
            "STAND_INS": " ".join((str(self._ports["https"]), *self._apps)).replace(" localhost", ""),
        }

    async def run(self, ready: threading.Event) -> None:
        """Serve until `stop` is called."""
        app = Starlette(routes=[Host(name, app) for name, app in self._apps.items()])
        plain = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
        secret = uvicorn.Server(
            uvicorn.Config(
                app,
                port=0,
                log_level="error",
                lifespan="off",
                ssl_certfile=self._chain,
                ssl_keyfile=self._key,
            )
        )
        credentials = grpc.ssl_server_credentials([(self._key.read_bytes(), self._chain.read_bytes())])
        self._ports["grpc"] = self._procedures.add_secure_port("127.0.0.1:0", credentials)
        self._procedures.start()
        serving = [asyncio.create_task(server.serve()) for server in (plain, secret)]
        while not (plain.started and secret.started):
            await asyncio.sleep(0.01)
        for name, server in (("http", plain), ("https", secret)):
            self._ports[name] = server.servers[0].sockets[0].getsockname()[1]
        proxy = await asyncio.start_server(self._lead, "127.0.0.1", 0)
        self._ports["proxy"] = proxy.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        proxy.close()
        self._procedures.stop(0)
        for server in (plain, secret):
            server.should_exit = server.force_exit = True
        await asyncio.gather(*serving)

    def stop(self) -> None:
        self._stop.set()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection to the proxy: a tunnel, or a request that names the whole URL."""
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
            tunnel = method == "CONNECT"
            host = (target if tunnel else target.split("/")[2]).split(":")[0]
            if host == self._grpc_host:
                port = self._ports["grpc"]
            elif host in self._apps:
                port = self._ports["https" if tunnel else "http"]
            else:
                writer.write(b"HTTP/1.1 502 Nobody stands in for this host\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                writer.close()
                return
            there = await asyncio.open_connection("127.0.0.1", port)
            if tunnel:
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                there[1].write(head)
            await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All bytes of one direction, and its end."""
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.close()


@contextmanager
def elsewhere() -> Iterator[Elsewhere]:
    """The stand-ins, in a thread of this process."""
    with tempfile.TemporaryDirectory(prefix="elsewhere-") as folder:
        loop = asyncio.new_event_loop()
        ready = threading.Event()
        here = Elsewhere(Path(folder))
        thread = threading.Thread(target=lambda: loop.run_until_complete(here.run(ready)), daemon=True)
        thread.start()
        try:
            assert ready.wait(_LIMIT_S), "the stand-ins did not start"
            yield here
        finally:
            loop.call_soon_threadsafe(here.stop)
            thread.join(_LIMIT_S)
            loop.close()
