"""The records of all jobs, in SQLite next to the jobs' folders, or in PostgreSQL by URL. What `put` returned from is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import msgspec
from sqlalchemy import (
    Column,
    Engine,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from openwafer.appliance._job import FINAL, Job
from openwafer.base import InputError, StorageError

SCHEMA = 1
_LOCK = 0x7761666572  # "wafer"

_META = MetaData()
_SCHEMA = Table("wafer_schema", _META, Column("version", Integer, primary_key=True))
_JOBS = Table(
    "wafer_jobs",
    _META,
    # Columns are what jobs are asked for by; everything else is in the record.
    Column("id", String(32), primary_key=True),
    Column("created", Float, nullable=False, index=True),
    Column("state", String(16), nullable=False, index=True),
    Column("user_name", String(128), nullable=False, index=True),
    Column("workflow", String(64), index=True),
    Column("record", LargeBinary, nullable=False),
)


@final
class Store:
    """The table of jobs. Thread-safe; every call is a transaction of its own."""

    def __init__(self, url: str) -> None:
        """Open or make the tables. Raises InputError for a URL that cannot be used, StorageError for a store that fails."""
        try:
            self._engine = _engine(url)
        except (ArgumentError, NoSuchModuleError) as error:
            raise InputError(
                f"{url!r} is no store that can be opened ({error}); give sqlite:////path/of/a/file or postgresql+psycopg://..."
            ) from None
        except ImportError as error:
            raise InputError(
                f"the store {url.partition(':')[0]} needs a package that is not installed ({error}); run: "
                "pip install 'psycopg[binary]'"
            ) from None
        self._url = self._engine.url.render_as_string(hide_password=True)
        self._hold = self._take()
        with self._transaction("open") as connection:
            _META.create_all(connection)
            versions = connection.execute(select(_SCHEMA.c.version)).scalars().all()
            if not versions:
                connection.execute(insert(_SCHEMA).values(version=SCHEMA))
            elif max(versions) != SCHEMA:
                raise InputError(
                    f"{self._url} has the tables of version {max(versions)}, and this openwafer those of version {SCHEMA}; "
                    "use the release that made them, or another store"
                )

    def add(self, job: Job) -> None:
        """A new job. Raises StorageError; the job is then not there."""
        try:
            with self._transaction("write to") as connection:
                connection.execute(insert(_JOBS).values(id=job.id, created=job.created, **_columns(job)))
        except IntegrityError:
            raise InputError(f"there is a job {job.id} already; submit again") from None

    def put(self, job: Job) -> None:
        """A newer version of a job. Raises StorageError; the older version is then still there."""
        with self._transaction("write to") as connection:
            connection.execute(update(_JOBS).where(_JOBS.c.id == job.id).values(**_columns(job)))

    def get(self, id: str) -> Job | None:
        """The job, or None."""
        with self._transaction("read") as connection:
            found = connection.execute(select(_JOBS.c.record).where(_JOBS.c.id == id)).scalar()
        return None if found is None else _job(found)

    def live(self) -> list[Job]:
        """Every job that has not ended, oldest first."""
        query = select(_JOBS.c.record).where(_JOBS.c.state.not_in(FINAL)).order_by(_JOBS.c.created)
        with self._transaction("read") as connection:
            return [_job(record) for record in connection.execute(query).scalars()]

    def find(
        self,
        *,
        states: tuple[str, ...] = (),
        user: str | None = None,
        workflow: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int = 100,
    ) -> list[Job]:
        """The newest jobs of these states, user, workflow and labels, newest first, at most `limit`."""
        query = select(_JOBS.c.record).order_by(_JOBS.c.created.desc(), _JOBS.c.id)
        if states:
            query = query.where(_JOBS.c.state.in_(states))
        if user is not None:
            query = query.where(_JOBS.c.user_name == user)
        if workflow is not None:
            query = query.where(_JOBS.c.workflow == workflow)
        wanted = dict(labels or {}).items()
        found: list[Job] = []
        with self._transaction("read") as connection:
            rows = connection.execute(query if wanted else query.limit(limit)).scalars()
            for record in rows:
                job = _job(record)
                if wanted <= job.labels.items():
                    found.append(job)
                    if len(found) >= limit:
                        break
        return found

    def first_of(self, workflow: str) -> Job | None:
        """The oldest job of a workflow."""
        query = select(_JOBS.c.record).where(_JOBS.c.workflow == workflow).order_by(_JOBS.c.created).limit(1)
        with self._transaction("read") as connection:
            found = connection.execute(query).scalar()
        return None if found is None else _job(found)

    def close(self) -> None:
        """Let go of the store's connections."""
        if self._hold is not None:
            self._hold.close()
        self._engine.dispose()

    def _take(self) -> Connection | None:
        """A server's store could be opened by nodes with other state folders: a lock of this session keeps them out."""
        if self._engine.dialect.name != "postgresql":
            return None
        with self._errors("open"):
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            if connection.execute(select(func.pg_try_advisory_lock(_LOCK))).scalar():
                return connection
            connection.close()
        self._engine.dispose()
        raise InputError(
            f"another management node has the job store {self._url}; use that one, or give each cluster a database of its own"
        )

    @contextmanager
    def _transaction(self, what: str) -> Iterator[Connection]:
        with self._errors(what), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise StorageError(
                f"cannot {what} the job store {self._url}: {cause}; check its disk or its server, then try again"
            ) from error


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True)
    engine = create_engine(parsed, connect_args={"timeout": 30.0})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        # With NORMAL a power cut could take a job back whose id somebody has been given.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    return engine


def _columns(job: Job) -> dict[str, Any]:
    return {
        "state": job.state,
        "user_name": job.user,
        "workflow": job.workflow,
        "record": msgspec.json.encode(job),
    }


_DECODER = msgspec.json.Decoder(Job)


def _job(record: bytes) -> Job:
    return _DECODER.decode(record)
