"""`@import_module`."""

from __future__ import annotations

from openwafer.csl.sema import _types as t
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._values import Value


@builtin("import_module", 1, 2)
def import_module(call: Call) -> Value:
    """A new instance of a file's module, with its params bound."""
    if call.engine.frame.builder is not None or call.engine.frame.name:
        call.error(
            None,
            "modules are imported outside of functions",
            hint='write `const m = @import_module("file.csl");` among the declarations',
        )
    name = call.text(0, "the name of a file")
    params = {}
    if len(call) > 1:
        params = call.fields(1, "the params of a module")
        for param, value in params.items():
            call.engine.require_known(value, call.field_span(1, param), f"the param `{param}`")
    return Value(t.MODULE, call.engine.import_module(name, params, call.span))
