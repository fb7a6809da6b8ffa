"""The device libraries: all of them parse, compile on both architectures, and keep the published bit patterns."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest

from openwafer.csl import DiagnosticError, Source
from openwafer.csl._compile import compile_program
from openwafer.csl.syntax import ast, parse, print_file

LIBRARY = Path(__file__).parents[2] / "src" / "openwafer" / "csl" / "library"
FILES = sorted(LIBRARY.rglob("*.csl"))
ARCHITECTURES: tuple[Literal["wse2", "wse3"], ...] = ("wse2", "wse3")
_LAYOUT = """
const memcpy = @import_module("<memcpy/get_params>", .{ .width = 1, .height = 1 });
layout {
  @set_rectangle(1, 1);
  @set_tile_code(0, 0, "pe.csl", .{ .memcpy_params = memcpy.get_params(0) });
  @export_name("main", fn(u16)void);
}
"""
_PROGRAM = """
param memcpy_params: comptime_struct;
const sys_mod = @import_module("<memcpy/memcpy>", memcpy_params);
"""


def compiled(folder: Path, program: str, architecture: Literal["wse2", "wse3"]) -> None:
    """Compile a one-tile program; raises what the compiler raises."""
    (folder / "layout.csl").write_text(_LAYOUT)
    (folder / "pe.csl").write_text(_PROGRAM + program)
    compile_program(
        folder / "layout.csl",
        params={},
        architecture=architecture,
        fabric=(8, 3),
        offset=(4, 1),
        memcpy=True,
    )


def tree(path: Path) -> ast.File:
    return parse(Source.read(path))


def nodes(value: object) -> list[ast.Node]:
    """All nodes of a tree."""
    if isinstance(value, tuple):
        return [node for one in value for node in nodes(one)]
    if not isinstance(value, ast.Node):
        return []
    fields = (getattr(value, name) for name in value.__dataclass_fields__ if name != "span")
    return [value, *(node for field in fields for node in nodes(field))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(LIBRARY).as_posix())
def test_library_files_begin_with_what_they_are(path: Path) -> None:
    """A reader who opens a library first learns its idea; every file prints to an equal tree."""
    assert path.read_text().startswith("// ")
    assert parse(Source("again.csl", print_file(tree(path)))) == tree(path)


def test_private_builtins_are_those_that_their_page_lists() -> None:
    """PRIVATE.md is the contract with the compiler, so it may neither lack a builtin nor keep a dead one."""
    used = {
        node.name
        for path in FILES
        for node in nodes(tree(path))
        if isinstance(node, ast.Builtin) and node.name.startswith("__")
    }
    listed = set(re.findall(r"`@(__\w+)\(", (LIBRARY / "PRIVATE.md").read_text()))
    assert used == listed


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_payloads_have_the_published_bits(architecture: Literal["wse2", "wse3"], tmp_path: Path) -> None:
    """0x9df9249 stands in the public example allreduce; 25-pt-stencil builds the others by hand."""
    compiled(
        tmp_path,
        """
const control = @import_module("<control>");
const switches = @import_module("<memcpy/memcpy_switches>");
const op = control.opcode;
const id = @get_control_task_id(40);
comptime {
  @comptime_assert(switches.ctrl(switches.teardown_cmd_1()) == 0x09df9249);
  @comptime_assert(switches.ctrl(switches.switch_cmd_11()) == 0x0b5f9249);
  @comptime_assert(control.encode_single_payload(op.TEARDOWN, true, {}, 0) == 0x09df9249);
  @comptime_assert(control.encode_single_payload(op.SWITCH_ADV, false, id, 6) == 0x00680006);
  @comptime_assert(control.encode_control_task_payload(id) == 0x00280000);
  @comptime_assert(control.encode_payload(4, [4]op { op.SWITCH_ADV, op.NOP, op.NOP, op.SWITCH_RST },
                   [4]bool { false, true, false, false }, true, {}) == 0x085f9244);
}
fn main(n: u16) void { sys_mod.unblock_cmd_stream(); }
comptime { @export_symbol(main); }
""",
        architecture,
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_part_of_tile_config_compiles(architecture: Literal["wse2", "wse3"], tmp_path: Path) -> None:
    """Functions are only analysed where they are used, so this program uses them all."""
    wse3 = """
  filters.set_counter_and_state(0, 4, filters.counter_filter_state.DROP);
  filters.set_pass_count(0, filters.get_pass_count(0) + filters.get_drop_count(0));
  filters.set_drop_count(0, filters.get_counter_value(0));
  if (filters.get_state(0) == filters.counter_filter_state.PASS) { filters.set_counter(0, 1); }
  if (config.queue_flush.is_flushed(config.queue_flush.iq_status(), @get_input_queue(3))) {
    config.queue_flush.exit(@get_input_queue(3));
  }
  config.queue_flush.exit(@get_output_queue(3));
  if (config.queue_flush.oq_status() != 0) { return; }
"""
    compiled(
        tmp_path,
        f"""
const config = @import_module("<tile_config>");
const colors = config.color_config;
const switches = config.switch_config;
const filters = config.filters;
const red = @get_color(3);
fn main(n: u16) void {{
  const blue = @get_color(n);
  colors.set_io_direction(red, colors.fabric_io.TX_RAMP);
  colors.toggle_io_direction(blue, colors.fabric_io.RX_EAST);
  colors.clear_io_direction(colors.get_color_config_addr(blue), colors.fabric_io.RX_WEST);
  colors.reset_routes(blue, .{{ .tx = [2]direction {{ WEST, RAMP }}, .rx = EAST }});
  switches.clear_current_position(red);
  switches.set_ring_mode(blue, switches.ring_mode.RING_MODE);
  switches.set_pop_mode(blue, switches.pop_mode.ALWAYS_POP);
  switches.set_invalid_for_all_switch_positions(switches.get_switch_config_addr(red, switches.switch_status));
  switches.set_rx_switch_pos1(red, RAMP);
  switches.set_tx_switch_pos2(blue, NORTH);
  switches.set_switch_pos(switches.switch_pos.POS3, red, SOUTH, switches.switch_select.OUTPUT);
  switches.set_current_switch_position(red, n);
  if (config.teardown.is_pending(config.teardown.get_pending(), blue)) {{ config.teardown.exit(blue); }}
  config.control_transform.set_mask(n);
  config.exceptions.set_exception_mask(config.exceptions.FP_OVERFLOW & config.exceptions.FP_DIV_BY_0);
  filters.set_active_limit(0, n);
  filters.set_max_counter(0, n);
  config.main_thread_priority.update_main_thread_priority(config.main_thread_priority.level.HIGH);
  const in = config.input_queue_status.get();
  const out = config.output_queue_status.get();
  if (config.input_queue_status.is_full(in, @get_input_queue(2)) and config.input_queue_status.none_empty(in)) {{
    return;
  }}
  if (config.output_queue_status.is_empty(out, @get_output_queue(2)) or config.output_queue_status.all_full(out)) {{
    return;
  }}
  {wse3 if architecture == "wse3" else ""}
  if (config.get_fabric_coord(config.fabric_coord.X) == n) {{ sys_mod.unblock_cmd_stream(); }}
}}
comptime {{
  @comptime_assert(@get_int(config.teardown.get_task_id()) == 29 and config.word_size == 2);
  @export_symbol(main);
}}
""",
        architecture,
    )


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            'const fft = @import_module("<kernels/fft/get_params>");',
            "<kernels/fft/get_params> is not supported yet; use <kernels/fft/fft3d_layout>",
        ),
        (
            'const time = @import_module("<time>");\nvar t: [3]u16;\nfn use() void { time.get_perf_cntr(&t, 0); }\n',
            "performance counters are not modelled",
        ),
    ],
)
def test_what_is_missing_says_what_to_use(program: str, message: str, tmp_path: Path) -> None:
    """A library that is not there yet is an error with a way out, not a program that silently does nothing."""
    call = "use(); " if "fn use" in program else ""
    main = f"fn main(n: u16) void {{ {call}sys_mod.unblock_cmd_stream(); }}\ncomptime {{ @export_symbol(main); }}\n"
    with pytest.raises(DiagnosticError, match=re.escape(message)):
        compiled(tmp_path, f"{program}\n{main}", "wse3")
