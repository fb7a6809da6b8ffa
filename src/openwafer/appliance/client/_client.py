"""Calls of the REST interface as methods, and streams that survive a management node that is away for a while."""

from __future__ import annotations

import codecs
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar, final

import httpx
import msgspec

from openwafer.appliance._job import Ending, Job
from openwafer.appliance._spec import JobSpec
from openwafer.appliance._views import Cluster, ErrorBody, Jobs, Submission
from openwafer.appliance.client._contact import Contact
from openwafer.base import EngineError, InputError, JobNotFoundError, StorageError, WaferError

_Answer = TypeVar("_Answer")
_KINDS: dict[str, type[WaferError]] = {
    "InputError": InputError,
    "JobNotFoundError": JobNotFoundError,
    "StorageError": StorageError,
}
AWAY_S = 300.0
"""How long a stream waits for a management node that does not answer."""


@final
class Client:
    """One appliance, as one user. Errors of the appliance are raised as what they are there; EngineError if it is away."""

    def __init__(self, contact: Contact) -> None:
        """Raises InputError for a URL or a certificate that cannot be used."""
        self.url = contact.url
        try:
            verify: ssl.SSLContext | bool = (
                ssl.create_default_context(cafile=contact.certificate) if contact.certificate else True
            )
            self._http = httpx.Client(
                base_url=contact.url,
                headers={"authorization": f"Bearer {contact.token}"},
                verify=verify,
                timeout=httpx.Timeout(60.0, connect=10.0),
                trust_env=False,
            )
        except (OSError, ssl.SSLError, httpx.InvalidURL) as error:
            raise InputError(
                f"{contact.url} cannot be asked: {error}; give an URL such as http://localhost:8470"
            ) from None

    def cluster(self) -> Cluster:
        """The cluster as it is now."""
        return self._call("GET", "/v1/cluster", Cluster)

    def down(self) -> None:
        """Have running jobs interrupted and the management node end."""
        self._send("POST", "/v1/cluster/down")

    def system(self, name: str, *, in_service: bool, reason: str = "") -> Cluster:
        """Put a system in or out of service."""
        body = {"in_service": in_service, "reason": reason}
        return self._call("PATCH", f"/v1/cluster/systems/{name}", Cluster, body)

    def submit(self, spec: JobSpec, files: Mapping[str, bytes] | None = None) -> Job:
        """Submit a job with files for its `source` folder."""
        return self._call("POST", "/v1/jobs", Job, Submission(spec=spec, files=dict(files or {})))

    def jobs(
        self,
        states: Sequence[str] = (),
        user: str | None = None,
        labels: Sequence[str] = (),
        limit: int = 100,
    ) -> list[Job]:
        """The newest jobs that this user may see, newest first. labels: `name=value`."""
        query: list[tuple[str, str]] = [("limit", str(limit)), *(("label", label) for label in labels)]
        query += [("state", state) for state in states]
        if user is not None:
            query.append(("user", user))
        return self._call("GET", f"/v1/jobs?{httpx.QueryParams(tuple(query))}", Jobs).jobs

    def job(self, id: str, version: int | None = None, wait_s: int = 0) -> Job:
        """A job; with `wait_s` as soon as its version is not `version`, or after that time."""
        query = f"?wait={wait_s}&version={version}" if wait_s and version is not None else ""
        return self._call("GET", f"/v1/jobs/{id}{query}", Job, timeout_s=wait_s + 60.0)

    def cancel(self, id: str, state: Ending = "cancelled", reason: str = "") -> Job:
        """End a job."""
        return self._call("POST", f"/v1/jobs/{id}/cancel", Job, {"state": state, "reason": reason})

    def label(self, id: str, labels: Mapping[str, str | None]) -> Job:
        """Set labels, or remove those that are None."""
        return self._call("PATCH", f"/v1/jobs/{id}", Job, {"labels": dict(labels)})

    def prioritise(self, id: str, priority: int) -> Job:
        """Another place in the queue."""
        return self._call("PATCH", f"/v1/jobs/{id}", Job, {"priority": priority})

    def log(self, id: str) -> Iterator[str]:
        """The log as it is now, in pieces."""
        offset, decoder = 0, codecs.getincrementaldecoder("utf-8")(errors="replace")
        while True:
            answer = self._send("GET", f"/v1/jobs/{id}/log?offset={offset}")
            yield decoder.decode(answer.content, final=not answer.content)
            if not answer.content:
                return
            offset = int(answer.headers["wafer-next"])

    def follow_log(self, id: str, offset: int = 0) -> Iterator[str]:
        """The log from a byte on, as it is written, until the job has ended."""
        for data in self._follow(f"/v1/jobs/{id}/log", "offset", offset):
            yield str(data)

    def follow_events(self, id: str, since: int = 0) -> Iterator[dict[str, Any]]:
        """The job's events from a byte on, as they come, until it has ended."""
        for data in self._follow(f"/v1/jobs/{id}/events", "since", since):
            yield from data

    def export(self, id: str, file: Path, *, checkpoints: bool = False) -> int:
        """Write the job's archive. Returns its size in bytes. Raises StorageError; no half of an archive is then left."""
        partial = file.with_name(f".{file.name}.partial")
        size = 0
        try:
            with (
                self._open("GET", f"/v1/jobs/{id}/export?checkpoints={str(checkpoints).lower()}") as answer,
                open(partial, "wb") as output,
            ):
                for piece in answer.iter_raw():
                    size += output.write(piece)
            partial.replace(file)
        except OSError as error:
            raise StorageError(f"{file} cannot be written: {error.strerror}; name another file") from error
        finally:
            partial.unlink(missing_ok=True)
        return size

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- requests -------------------------------------------------------------------------------------

    def _call(
        self, method: str, path: str, kind: type[_Answer], body: Any = None, timeout_s: float | None = None
    ) -> _Answer:
        answer = self._send(method, path, body, timeout_s)
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except msgspec.MsgspecError as error:
            raise EngineError(
                f"{self.url} answers {method} {path} with something else than an appliance of this release does ({error}); "
                "see whether it is one, and of which version"
            ) from None

    def _send(
        self, method: str, path: str, body: Any = None, timeout_s: float | None = None
    ) -> httpx.Response:
        content = None if body is None else msgspec.json.encode(body)
        timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else httpx.Timeout(timeout_s)
        try:
            answer = self._http.request(method, path, content=content, timeout=timeout)
        except httpx.HTTPError as error:
            self._away(error)
        if answer.is_error:
            _raise(answer.status_code, answer.content)
        return answer

    def _open(self, method: str, path: str) -> _Stream:
        return _Stream(self, self._http.build_request(method, path))

    def _follow(self, path: str, name: str, since: int) -> Iterator[Any]:
        """Data of a stream of events, over as many connections as it takes."""
        last = time.monotonic()
        while True:
            try:
                with self._open("GET", f"{path}?{name}={since}&follow=true") as answer:
                    for kind, id, data in _events(answer.iter_lines()):
                        last = time.monotonic()
                        if kind == "end":
                            return
                        yield msgspec.json.decode(data)
                        since = id
            except EngineError:
                if time.monotonic() - last > AWAY_S:
                    raise
            # The stream ended without saying so: the management node ended, and another one may be there soon.
            time.sleep(0.5)

    def _away(self, error: httpx.HTTPError) -> NoReturn:
        raise EngineError(
            f"the appliance at {self.url} does not answer ({error or type(error).__name__}); see whether it is up: "
            "`wafer cluster status`"
        ) from None


class _Stream:
    """An answer that is read while it comes. Raises as `_send` does, also in the middle."""

    def __init__(self, client: Client, request: httpx.Request) -> None:
        self._client = client
        self._request = request

    def __enter__(self) -> httpx.Response:
        http = self._client._http
        # The server says something every 15 s.
        self._request.extensions["timeout"] = httpx.Timeout(60.0, connect=10.0).as_dict()
        try:
            self._answer = http.send(self._request, stream=True)
            if self._answer.is_error:
                content = self._answer.read()
                self._answer.close()
                _raise(self._answer.status_code, content)
        except httpx.HTTPError as error:
            self._client._away(error)
        return self._answer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answer.close()
        if isinstance(error, httpx.HTTPError):
            self._client._away(error)


def _events(lines: Iterator[str]) -> Iterator[tuple[str, int, str]]:
    """Kind, id and data of server-sent events."""
    kind, id, data = "message", 0, ""
    for line in lines:
        field, _, value = line.partition(": ")
        match field:
            case "event":
                kind = value
            case "id":
                id = int(value)
            case "data":
                data = value
            case "" if not line:
                if data:
                    yield kind, id, data
                kind, data = "message", ""


def _raise(status: int, content: bytes) -> NoReturn:
    try:
        problem = msgspec.json.decode(content, type=ErrorBody).error
    except msgspec.MsgspecError:
        raise EngineError(
            f"the answer is an error {status} that no appliance sends; is the URL right?"
        ) from None
    raise _KINDS.get(problem.kind, InputError if status < 500 else EngineError)(problem.message)
