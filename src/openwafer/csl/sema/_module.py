"""Files and the modules made from them: every import of a file is an instance of its own, with its own globals."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from openwafer.base import InputError
from openwafer.csl._diagnostics import Diagnostic
from openwafer.csl._source import Source, Span
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import FunctionValue, Value
from openwafer.csl.syntax import Dialect, ast, parse

LIBRARY: Final = Path(__file__).parent.parent / "library"
"""Where the device libraries are: `<time>` is the file time.csl there."""


class SourceFile:
    """A file that was read and parsed, once for all modules that are made from it."""

    __slots__ = ("library", "path", "source", "tree")

    def __init__(self, path: Path, source: Source, tree: ast.File, library: bool) -> None:
        self.path = path
        self.source = source
        self.tree = tree
        self.library = library
        """It is one of csl/library and may use private builtins."""


class Files:
    """All files of a compilation, by path. Programs for many tiles share them."""

    def __init__(self, dialect: Dialect, import_paths: tuple[Path, ...] = ()) -> None:
        self.dialect: Dialect = dialect
        self.import_paths = import_paths
        self._files: dict[Path, SourceFile] = {}
        self._root: Path | None = None

    def load(self, path: Path, name: str | None = None) -> SourceFile:
        """The file at `path`, called `name` in messages.

        Raises InputError if it cannot be read, CslError if it is not UTF-8, DiagnosticError for its syntax.
        """
        key = path.resolve()
        file = self._files.get(key)
        if file is None:
            if self._root is None:  # a compilation begins with the file that the user named
                self._root = path.parent
            text = Source.read(path)
            source = Source(name or text.name, text.text)
            library = key.is_relative_to(LIBRARY)
            file = self._files[key] = SourceFile(path, source, parse(source, dialect=self.dialect), library)
        return file

    def find(self, name: str, importer: Path) -> Path | None:
        """The path that a file named in `@import_module` or `@set_tile_code` has, None if there is none.

        `<name>` is a library, or a file of an import path; other names are relative to the importer's folder, then to that of
        the file that the compilation began with (as public programs write it), then to the import paths.
        """
        bare = name[1:-1] if name.startswith("<") and name.endswith(">") else None
        folders = [LIBRARY] if bare is not None else [importer.parent, self._root or importer.parent]
        folders += self.import_paths
        for folder in folders:
            for candidate in (folder / (bare or name), folder / f"{bare or name}.csl"):
                if candidate.is_file():
                    return candidate
        return None


class Global:
    """A declaration of a module's instance."""

    __slots__ = ("declaration", "function", "module", "state", "symbol", "type", "used", "value")

    def __init__(self, declaration: ast.Variable | ast.Function, module: ModuleInstance) -> None:
        self.declaration = declaration
        self.module = module
        self.state: Literal["new", "typing", "typed", "running", "done", "failed"] = "new"
        self.type: Type | None = None
        self.value: Value | None = None
        """Of a const or param its value, of a var what it holds at first."""
        self.symbol = ""
        """What PE-IR calls it, where it is in memory."""
        self.used = False
        """It has to be in memory."""
        self.function: FunctionValue | None = None


class ModuleInstance:
    """One import of a file."""

    __slots__ = ("file", "globals", "imported", "order", "params", "prefix")

    def __init__(
        self,
        file: SourceFile,
        params: dict[str, Value],
        prefix: str,
        imported: Span | None,
        order: int,
    ) -> None:
        self.file = file
        self.params = params
        """What the import gives to its `param`s, not yet converted to their types."""
        self.prefix = prefix
        """`m.` for what `const m = @import_module(...)` made; empty for the program's own file."""
        self.imported = imported
        self.order = order
        self.globals: dict[str, Global] = {}

    @property
    def path(self) -> Path:
        """Of its file."""
        return self.file.path

    def __repr__(self) -> str:
        return f"<module {self.file.source.name}>"


def unreadable(error: InputError, span: Span) -> Diagnostic:
    """The diagnostic for a file that an import names and that cannot be read."""
    return Diagnostic(span=span, message=str(error))
