"""Shifts of NumPy's scalars in host scripts, as the NumPy 1 gave them that the SDK's own Python has.

Scripts put timestamps together with `words[0] + (words[1] << 16) + (words[2] << 32)`, on words of type uint16. NumPy 1 widens
a scalar that meets a Python int to 64 bits; NumPy 2 keeps its 16 bits, so that the shifted words vanish without a warning.
Inside cs_python the script and the modules beside it shift left as they were written for; installed packages do not.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_NAME = "__openwafer_shift_left__"


def compile_script(source: bytes, path: str) -> CodeType:
    """The code of a script, whose left shifts widen. Raises SyntaxError."""
    tree = _Widen().visit(ast.parse(source, path))
    return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


def widen_modules(folder: Path) -> None:
    """From now on modules that are imported from `folder`, and packages below it, are compiled so as well."""
    setattr(builtins, _NAME, _shift_left)
    sys.meta_path.insert(0, _Finder(folder.resolve()))


def _shift_left(value: Any, by: Any) -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is not None and type(by) is int and isinstance(value, numpy.integer) and value.itemsize < 8:
        value = numpy.int64(value)
    return value << by


class _Widen(ast.NodeTransformer):
    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        if not isinstance(node.op, ast.LShift):
            return node
        name = ast.copy_location(ast.Name(_NAME, ast.Load()), node)
        return ast.copy_location(ast.Call(name, [node.left, node.right], []), node)


class _Finder(MetaPathFinder):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None or not isinstance(spec.loader, SourceFileLoader):
            return None
        origin = Path(spec.origin).resolve()
        if not origin.is_relative_to(self._folder) or "site-packages" in origin.parts:
            return None
        spec.loader = _Loader(fullname, spec.origin)
        return spec


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """Never from a cache: other Pythons read the same one."""
        return compile_script(self.get_data(self.path), self.path)
