"""What @set_color_config and @set_local_color_config say about a color: routes, switches, filter, teardown.

`color_config` takes the struct as plain data (dicts, tuples, ints, bools; directions as their names) and gives the Route of
the image. Sources: "Builtins", @set_color_config; "Advanced", color swapping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, cast, get_args

from openwafer.artifact._image import Direction, Filter, PopMode, Route, SwitchPosition
from openwafer.csl.sema.builtins._limits import LIMITS, Architecture

Fail = Callable[..., NoReturn]
"""`fail(message, hint="...", at="routes.rx")` raises the error at that part of the config."""

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
POP_MODES: tuple[PopMode, ...] = get_args(PopMode)
_FIELDS = ("routes", "switches", "filter", "teardown")
_ROUTES = ("rx", "tx", "pop_mode", "color_swap_x", "color_swap_y")
_SWITCHES = ("pos1", "pos2", "pos3", "current_switch_pos", "ring_mode", "pop_mode")
_COUNTING = ("kind", "count_data", "count_control", "init_counter", "limit1", "max_counter")
_FILTERS = {
    "counter": (*_COUNTING, "filter_control", "fast_mode"),
    "sparse_counter": (*_COUNTING, "limit2", "fast_mode"),
    "range": ("kind", "min_idx", "max_idx"),
}


def color_config(config: Mapping[str, Any], color: int, architecture: Architecture, fail: Fail) -> Route:
    """The route of `color` that `config` describes.

    `fail` is called, and raises, for a field that does not exist, a value out of its range, or what the architecture lacks.
    """
    _known(config, _FIELDS, "a color configuration", "", fail)
    if "routes" not in config:
        fail(
            "a color configuration needs `routes`",
            hint="write .{ .routes = .{ .rx = .{ WEST }, .tx = .{ RAMP } } }, or .routes = .{} for none",
        )
    routes = _struct(config["routes"], "routes", fail)
    _known(routes, _ROUTES, "`routes`", "routes", fail)
    switches = _struct(config.get("switches", {}), "switches", fail)
    _known(switches, _SWITCHES, "`switches`", "switches", fail)
    if switches and color not in LIMITS[architecture].switched_colors:
        fail(
            f"color {color} has no switch on the WSE-3",
            hint="colors 0..9, 12, 13, 16, 17, 20 and 21 have; use one of them, or leave `switches` out",
            at="switches",
        )
    swap_x = _flag(routes, "color_swap_x", "routes", fail)
    swap_y = _flag(routes, "color_swap_y", "routes", fail)
    if (swap_x or swap_y) and architecture != "wse2":
        fail(
            "only the WSE-2 swaps colors",
            hint="route both colors instead, or compile for --arch=wse2",
            at="routes.color_swap_x" if swap_x else "routes.color_swap_y",
        )
    if "pop_mode" in routes and "pop_mode" in switches:
        fail(
            "`pop_mode` stands in `routes` and in `switches`",
            hint="keep the one in `switches`",
            at="routes.pop_mode",
        )
    pop = switches.get("pop_mode", routes.get("pop_mode"))
    pop_at = f"{'switches' if 'pop_mode' in switches else 'routes'}.pop_mode"
    current = switches.get("current_switch_pos", 0)
    if not isinstance(current, int) or isinstance(current, bool) or not 0 <= current <= 3:
        fail(
            f"`current_switch_pos` is one of 0..3, found {_shown(current)}", at="switches.current_switch_pos"
        )
    positions = tuple(_position(switches, f"pos{i}", architecture, fail) for i in (1, 2, 3))
    while positions and positions[-1].invalid:
        positions = positions[:-1]
    if current > len(positions):
        fail(
            f"`current_switch_pos` is {current}, but `pos{current}` is not set",
            hint=f"set .pos{current} = .{{ .tx = EAST }} or so, or begin at position {len(positions)} or below",
            at="switches.current_switch_pos",
        )
    return Route(
        rx=_directions(routes.get("rx", ()), "routes.rx", fail),
        tx=_directions(routes.get("tx", ()), "routes.tx", fail),
        positions=positions,
        position=current,
        ring=_flag(switches, "ring_mode", "switches", fail),
        pop="no_pop" if pop is None else cast(PopMode, _choice(pop, POP_MODES, "pop_mode", fail, at=pop_at)),
        filter=_filter(config["filter"], fail) if "filter" in config else None,
        teardown=_flag(config, "teardown", "the color configuration", fail),
        swap_x=swap_x,
        swap_y=swap_y,
    )


def _position(
    switches: Mapping[str, Any], name: str, architecture: Architecture, fail: Fail
) -> SwitchPosition:
    if name not in switches:
        return SwitchPosition(invalid=True)
    where = f"switches.{name}"
    value = _struct(switches[name], where, fail)
    _known(value, ("rx", "tx", "invalid"), f"`{where}`", where, fail)
    if "invalid" in value:
        if value["invalid"] is not True or len(value) > 1:
            fail(
                f"`{where}.invalid` can only be true, and stands alone",
                hint=f"leave .{name} out for the same",
            )
        return SwitchPosition(invalid=True)
    if not value:
        fail(
            f"`{where}` changes nothing",
            hint=f"write .{name} = .{{ .rx = EAST }} or .{{ .tx = EAST }}",
            at=where,
        )
    if len(value) > 1 and architecture == "wse2":
        fail(
            f"a switch position of the WSE-2 changes rx or tx, not both: `{where}`",
            hint="keep one of the two",
            at=where,
        )
    rx = _directions(value["rx"], f"{where}.rx", fail) if "rx" in value else None
    tx = _directions(value["tx"], f"{where}.tx", fail) if "tx" in value else None
    if rx is not None and len(rx) != 1:
        fail(f"`{where}.rx` is one direction, found {len(rx)}", at=f"{where}.rx")
    if tx is not None and len(tx) != 1 and architecture == "wse2":
        fail(f"`{where}.tx` is one direction on the WSE-2, found {len(tx)}", at=f"{where}.tx")
    return SwitchPosition(rx=rx, tx=tx)


def _filter(value: Any, fail: Fail) -> Filter:
    fields = _struct(value, "filter", fail)
    if "kind" not in fields:
        fail(
            "a filter needs a `kind`",
            hint="write .kind = .{ .counter = true }, .sparse_counter or .range",
            at="filter",
        )
    kind = _choice(fields["kind"], tuple(_FILTERS), "filter.kind", fail)
    _known(fields, _FILTERS[kind], f"a {kind} filter", "filter", fail)
    if kind == "range":
        minimum, maximum = (_count(fields, name, fail) for name in ("min_idx", "max_idx"))
        if minimum > maximum:
            fail(f"the filter passes nothing: `min_idx` is {minimum}, `max_idx` {maximum}", at="filter")
        return Filter(kind="range", minimum=minimum, maximum=maximum)
    return Filter(
        kind="counter" if kind == "counter" else "sparse_counter",
        count_data=_flag(fields, "count_data", "filter", fail),
        count_control=_flag(fields, "count_control", "filter", fail),
        initial=_count(fields, "init_counter", fail),
        limit1=_count(fields, "limit1", fail),
        limit2=_count(fields, "limit2", fail) if "limit2" in fields else None,
        maximum=_count(fields, "max_counter", fail),
        control_only=_flag(fields, "filter_control", "filter", fail),
    )


# --- parts ------------------------------------------------------------------------------------------------


def _struct(value: Any, name: str, fail: Fail) -> Mapping[str, Any]:
    if value == ():
        return {}
    if not isinstance(value, Mapping):
        fail(f"`{name}` is a struct with named fields, found {_shown(value)}", at=name)
    return value


def _known(value: Mapping[str, Any], names: tuple[str, ...], what: str, where: str, fail: Fail) -> None:
    for name in value:
        if name not in names:
            at = f"{where}.{name}" if where else name
            fail(f"{what} has no field `{name}`", hint=f"it may have {_listed(names)}", at=at)


def _flag(value: Mapping[str, Any], name: str, where: str, fail: Fail) -> bool:
    flag = value.get(name, False)
    if not isinstance(flag, bool):
        fail(f"`{name}` of {where} is true or false, found {_shown(flag)}", at=f"{where}.{name}")
    return flag


def _count(value: Mapping[str, Any], name: str, fail: Fail) -> int:
    count = value.get(name, 0)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= 0xFFFF:
        fail(f"`filter.{name}` is an integer of 0..65535, found {_shown(count)}", at=f"filter.{name}")
    return count


def _choice(value: Any, names: tuple[str, ...], where: str, fail: Fail, at: str = "") -> str:
    """The one field that is true, of a struct that stands for an enumeration."""
    fields = _struct(value, where, fail)
    chosen = [name for name, on in fields.items() if on is True]
    if len(fields) != 1 or len(chosen) != 1 or chosen[0] not in names:
        fail(
            f"`{where}` has exactly one field, which is true",
            hint=f"it is one of {_listed(names)}",
            at=at or where,
        )
    return chosen[0]


def _directions(value: Any, where: str, fail: Fail) -> tuple[Direction, ...]:
    several = value if isinstance(value, tuple) else () if value == {} else (value,)
    for one in several:
        if one not in DIRECTIONS:
            fail(
                f"`{where}` holds directions, found {_shown(one)}",
                hint=f"they are {_listed(DIRECTIONS)}",
                at=where,
            )
    if len(set(several)) != len(several):
        twice = next(one for one in several if several.count(one) > 1)
        fail(f"`{where}` names {twice} twice", hint="name each direction once", at=where)
    return tuple(sorted(several, key=DIRECTIONS.index))


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:-1]) + f" or {names[-1]}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, str)) else "another value"
