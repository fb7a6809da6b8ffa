"""Modules: instances, their params and names, what is looked at when, and whole layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from openwafer.base import InputError
from openwafer.compat import parse_flags
from openwafer.csl import DiagnosticError, ir
from openwafer.csl._compile import compile_program, compile_unit
from openwafer.csl.sema._core import Options

MULTIPLY = (
    "param factor: i16;\nvar calls: i16 = 0;\nfn multiply(x: i16) i16 { calls += 1; return x * factor; }\n"
)


def unit_of(folder: Path, main: str, told: list[str] | None = None, **files: str) -> ir.Unit:
    for name, text in files.items():
        (folder / f"{name}.csl").write_text(text, "utf-8")
    (folder / "main.csl").write_text(main, "utf-8")
    found: list[str] = [] if told is None else told
    return compile_unit(folder / "main.csl", {}, options=Options(), tell=found.append)


def errors_of(folder: Path, main: str, **files: str) -> str:
    with pytest.raises(DiagnosticError) as error:
        unit_of(folder, main, **files)
    return str(error.value).replace(f"{folder}/", "")


def test_every_import_has_its_own_globals(tmp_path: Path) -> None:
    """ "Modules": importing a file twice makes two copies, whose symbols are named after the importing const."""
    main = """
const a = @import_module("multiply.csl", .{ .factor = 2 });
const b = @import_module("multiply.csl", .{ .factor = 3 });
const same = b;
var r: i16;
export fn main() void { r = a.multiply(1) + b.multiply(1) + same.multiply(1); }
"""

    unit = unit_of(tmp_path, main, multiply=MULTIPLY)

    assert list(unit.symbols) == ["r", "a.calls", "b.calls"]
    assert list(unit.functions) == ["main", "a.multiply", "b.multiply"]


def test_nested_modules_have_nested_names(tmp_path: Path) -> None:
    """ "Binary symbol names": the names of all modules on the way stand in front."""
    outer = 'const inner = @import_module("multiply.csl", .{ .factor = 1 });\nfn go() i16 { return inner.multiply(2); }'
    main = 'const m = @import_module("outer.csl");\nvar r: i16;\nexport fn main() void { r = m.go(); }'

    unit = unit_of(tmp_path, main, outer=outer, multiply=MULTIPLY)

    assert "m.inner.calls" in unit.symbols


def test_a_params_type_holds_for_what_the_import_gives(tmp_path: Path) -> None:
    """The value is converted to the param's type; what does not fit is told at the import, with the declaration."""
    main = 'const m = @import_module("multiply.csl", .{ .factor = 40000 });\nvar r = m.factor;\n'

    message = errors_of(tmp_path, main, multiply=MULTIPLY)

    assert "main.csl:1:11: error: 40000 does not fit `i16`, which holds -32768 to 32767" in message


def test_what_a_module_does_not_use_is_not_looked_at(tmp_path: Path) -> None:
    """Published programs import modules of which a part makes no sense with the params that they give."""
    receive = "var d = @get_dsd(fabin_dsd, .{ .extent = 1, .fabric_color = c });"
    partial = f"param c = {{}};\n{receive}\nvar big: [40000]u32;\nconst two = 2;"
    main = 'const m = @import_module("partial.csl");\nvar r: i16 = m.two;\n'

    assert list(unit_of(tmp_path, main, partial=partial).symbols) == ["r"]


def test_an_unknown_param_is_a_warning(tmp_path: Path) -> None:
    """ "Modules": warnings are raised if a name does not exist inside the module."""
    told: list[str] = []
    main = 'const m = @import_module("multiply.csl", .{ .factor = 2, .fator = 3 });\n'

    unit_of(tmp_path, main, told, multiply=MULTIPLY)

    assert len(told) == 1
    assert told[0].endswith("main.csl:1:11: warning: `multiply.csl` has no param `fator`")


def test_errors_in_a_module_name_the_import(tmp_path: Path) -> None:
    """The same file can be right in one import and wrong in another."""
    module = 'param n: i16;\ncomptime { @comptime_assert(n > 0, "n counts something"); }'
    main = (
        'const m = @import_module("m.csl", .{ .n = 1 });\nconst w = @import_module("m.csl", .{ .n = 0 });\n'
    )

    message = errors_of(tmp_path, main, m=module)

    assert "m.csl:2:12: error: this assertion does not hold: n counts something" in message
    assert "main.csl:2:11: note: imported here" in message
    assert message.count("error:") == 1


def test_an_error_is_told_once_for_all_instances(tmp_path: Path) -> None:
    """Ten imports of a wrong file have one mistake."""
    module = "fn f() void { nowhere(); }"
    imports = "".join(f'const m{i} = @import_module("m.csl");\n' for i in range(3))
    calls = "".join(f"m{i}.f(); " for i in range(3))

    message = errors_of(tmp_path, f"{imports}export fn main() void {{ {calls}}}", m=module)

    assert message.count("error:") == 1


@pytest.mark.parametrize(
    ("main", "expected"),
    [
        ('const m = @import_module("none.csl");', "there is no file `none.csl` in "),
        (
            'const m = @import_module("<none>");',
            "there is no file `<none>` in the library or the import paths",
        ),
        (
            'const m = @import_module("<memcpy_multi/get_params>", .{ .width = 1 });',
            "`<memcpy_multi/get_params>` is a library of SDK 0.x, this compiler is for programs of 1.0 and later",
        ),
        ('const m = @import_module("main.csl");', "`main.csl` imports itself"),
        ('const m = @import_module("bad.csl");', "bad.csl:1:"),
        (
            'const m = @import_module("m.csl");\nvar x: i16 = m.y;',
            "the module " + "m.csl has no `y`",
        ),
        ("extern fn f() void;\nexport fn g() void { f(); }", "nothing exports a function `f`"),
        ("extern var v: i16;\nexport fn g() void { v = 1; }", "nothing exports a variable `v`"),
    ],
)
def test_wrong_imports_say_what_is_missing(tmp_path: Path, main: str, expected: str) -> None:
    """Each with the name that was looked for."""
    message = errors_of(tmp_path, main, bad="fn (", m="const x = 1;").replace(
        "the module " + str(tmp_path), "the module "
    )

    assert expected in message


LAYOUT = """
param width: u16;
layout {
  @set_rectangle(width, 2);
  for (@range(u16, width)) |x| {
    for (@range(u16, 2)) |y| {
      @set_tile_code(x, y, "pe.csl", .{ .top = y == 0 });
    }
  }
  @export_name("x", [*]i16, true);
}
"""
PE = """
param top: bool;
var x: [4]i16;
var x_ptr: [*]i16 = &x;
comptime { @export_symbol(x_ptr, "x"); if (top) { @comptime_print("top"); } }
"""


def test_a_layout_becomes_an_image_with_one_program_for_equal_tiles(tmp_path: Path) -> None:
    """200 tiles with two kinds of params have two programs."""
    (tmp_path / "layout.csl").write_text(LAYOUT, "utf-8")
    (tmp_path / "pe.csl").write_text(PE, "utf-8")
    told: list[str] = []

    image = compile_program(
        tmp_path / "layout.csl", params={"width": "100"}, architecture="wse3", fabric=(110, 10), offset=(4, 1),
        memcpy=False, tell=told.append,
    )  # fmt: skip

    assert (image.rectangle, len(image.tiles), image.params) == ((100, 2), 200, {"width": "100"})
    assert len(image.programs) <= 2
    assert [one.name for one in image.exports] == ["x"]
    assert told == ["top"]


def test_a_program_that_does_not_fit_the_fabric_is_an_error(tmp_path: Path) -> None:
    """The message says which option to raise."""
    (tmp_path / "layout.csl").write_text(LAYOUT, "utf-8")
    (tmp_path / "pe.csl").write_text(PE, "utf-8")

    with pytest.raises((InputError, DiagnosticError), match="fabric"):
        compile_program(
            tmp_path / "layout.csl", params={"width": "100"}, architecture="wse3", fabric=(20, 10), offset=(4, 1),
            memcpy=False,
        )  # fmt: skip


def test_a_name_may_start_at_the_folder_of_the_first_file(tmp_path: Path) -> None:
    """Public programs name a file of a subfolder from within that subfolder as the layout would; the importer's folder wins."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "outer.csl").write_text(
        'const inner = @import_module("parts/inner.csl");\nfn go() i16 { return inner.one(); }', "utf-8"
    )
    (tmp_path / "parts" / "inner.csl").write_text("fn one() i16 { return 1; }", "utf-8")
    main = 'const m = @import_module("parts/outer.csl");\nvar r: i16;\nexport fn main() void { r = m.go(); }'

    unit = unit_of(tmp_path, main)

    assert "m.inner.one" in unit.functions


LAUNCH_LAYOUT = """
const LAUNCH: color = @get_color(8);
const memcpy = @import_module("<memcpy/get_params>", .{ .width = 64, .height = 1, .LAUNCH = LAUNCH });
layout {
  @set_rectangle(64, 1);
  for (@range(i16, 64)) |x| {
    @set_tile_code(x, 0, "pe.csl", .{ .memcpy_params = memcpy.get_params(x) });
  }
  @export_name("f", fn()void);
}
"""
LAUNCH_PE = """
param memcpy_params: comptime_struct;
const sys_mod = @import_module("<memcpy/memcpy>", memcpy_params);
fn f() void { sys_mod.unblock_cmd_stream(); }
comptime { @export_symbol(f); @rpc(@get_data_task_id(sys_mod.LAUNCH)); }
"""


def test_a_program_of_sdk_1_0_gives_launches_a_color(tmp_path: Path) -> None:
    """Public training material does; the color is taken and nothing else comes of it. 64 columns need no flag of cslc's."""
    (tmp_path / "layout.csl").write_text(LAUNCH_LAYOUT, "utf-8")
    (tmp_path / "pe.csl").write_text(LAUNCH_PE, "utf-8")

    image = compile_program(
        tmp_path / "layout.csl",
        params={},
        architecture="wse2",
        fabric=(71, 3),
        offset=(4, 1),
        memcpy=True,
        max_inlined_iterations=parse_flags(["layout.csl", "--fabric-dims=71,3"]).max_inlined_iterations,
        tell=lambda _: None,
    )

    assert len(image.programs) == 1
    assert [one.name for one in image.exports] == ["f"]
