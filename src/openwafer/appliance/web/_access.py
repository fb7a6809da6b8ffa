"""Who calls, and what is theirs."""

from __future__ import annotations

from starlette.requests import Request

from openwafer.appliance._job import Job
from openwafer.appliance._users import User, Users
from openwafer.appliance.web._errors import HttpError
from openwafer.base import JobNotFoundError
from openwafer.base.web import foreign_origin


def caller(request: Request, users: Users) -> User:
    """The user whose token the request carries. Raises HttpError 401 without one, 403 for another site's page."""
    if (origin := foreign_origin(request.headers)) is not None:
        raise HttpError(403, f"pages of {origin} may not call this appliance; use its own page")
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise HttpError(
            401, "the request carries no token; send `Authorization: Bearer <token>`, or use `wafer`"
        )
    user = users.who(token.strip())
    if user is None:
        raise HttpError(401, "the token is nobody's here; ask whoever runs the appliance for one")
    return user


def own(user: User, job: Job) -> Job:
    """The job, if the user may see and change it. Another's job is not told apart from one that does not exist."""
    if user.admin or job.user == user.name:
        return job
    raise JobNotFoundError(f"there is no job {job.id!r}; `wafer jobs --all` lists them")


def administrator(user: User) -> None:
    """Raises HttpError 403 for anybody else."""
    if not user.admin:
        raise HttpError(403, f"{user.name} may not do this; it takes an administrator's token")
