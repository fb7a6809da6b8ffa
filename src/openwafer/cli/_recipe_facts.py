"""What a submission has to know of a recipe: from what an earlier one kept, without torch, or from the recipe itself."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import msgspec

from openwafer.artifact import Answers, is_installed, loaded_modules
from openwafer.base import StorageError
from openwafer.cli._importing import importing
from openwafer.cli._recipe import own_cache
from openwafer.cli._train_job import TrainRequest


class RecipeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the recipe says of one request, and what makes a copy of it that runs elsewhere."""

    name: str
    """Of the run."""
    systems: int
    memoryx_bytes: int | None
    """None if nobody asked."""
    modules: list[str]
    """Files below the recipe's folder that it imported, by their place there."""
    words: list[str]
    """Parameters that have a text by default."""

    def files(self, recipe: Path) -> dict[str, bytes]:
        """The recipe and the modules beside and below it, as they are now. Raises StorageError."""
        recipe_file = recipe.resolve()
        places = {name: recipe_file.parent / name for name in self.modules} | {recipe.name: recipe_file}
        try:
            return {name: place.read_bytes() for name, place in places.items()}
        except OSError as error:
            raise StorageError(
                f"{error.filename} cannot be read: {error.strerror}; check its permissions"
            ) from error

    def absolute(self, arguments: list[str]) -> list[str]:
        """Arguments that name files here, with their full paths: the job runs in another folder."""
        return [self._absolute(argument) for argument in arguments]

    def _absolute(self, argument: str) -> str:
        name, _, value = argument.partition("=")
        path = Path(value).expanduser()
        # A word such as `small` means a path only where the recipe does not already have such a word.
        is_word = name in self.words and path.name == value
        return argument if is_word or not value or not path.exists() else f"{name}={path.resolve()}"


def facts_of(
    recipe: Path, request: TrainRequest, systems: int | None, *, weigh: bool, load: bool
) -> RecipeFacts:
    """Facts of a recipe as it is now. A mistake in it is told here and now, and not in a log hours later.

    weigh: also the bytes of MemoryX. load: whatever was kept. Raises InputError as loading the recipe does.
    """
    question = {"request": request, "systems": systems, "weigh": weigh}
    answers = Answers(own_cache("recipes"), question, recipe.parent)
    known = None if load else answers.find(RecipeFacts)
    if known is not None:
        return known
    with importing():
        from openwafer.train import memoryx_bytes
    with answers.watching():
        config = request.config(recipe.parent, systems=systems)
        nbytes = memoryx_bytes(config) if weigh else None
    function = getattr(sys.modules.get(recipe.stem.replace(".", "_")), "recipe", None)
    parameters = inspect.signature(function).parameters if callable(function) else {}
    facts = RecipeFacts(
        name=config.name,
        systems=config.cluster.systems,
        memoryx_bytes=nbytes,
        modules=_modules_below(recipe.resolve().parent),
        words=[name for name, parameter in parameters.items() if isinstance(parameter.default, str)],
    )
    answers.keep(facts)
    return facts


def _modules_below(folder: Path) -> list[str]:
    """Sources below a folder that this process has imported, but for packages that were installed there."""
    own = [file for file in loaded_modules().values() if file.suffix == ".py" and not is_installed(file)]
    files = {file.resolve() for file in own}
    return sorted(str(file.relative_to(folder)) for file in files if file.is_relative_to(folder))
