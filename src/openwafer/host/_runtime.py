"""SdkRuntime: load a compiled program, copy, launch, stream, stop ("SdkRuntime API Reference")."""

from __future__ import annotations

import difflib
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from openwafer.artifact._image import Port
from openwafer.base import InputError
from openwafer.host._arguments import argument_words, raw_words
from openwafer.host._arrays import check_result, to_block
from openwafer.host._artifacts import SdkCompileArtifacts
from openwafer.host._commands import Commands
from openwafer.host._core import Core, remember
from openwafer.host._device import Device, MakeMachine, simulator
from openwafer.host._driver import Command, Driver, Task
from openwafer.host._options import MemcpyDataType, MemcpyOrder
from openwafer.host._platform import SdkExecutionPlatform, no_system
from openwafer.host._port_files import PortFile, chosen_ports
from openwafer.host._program import CompiledProgram, Region
from openwafer.host._rates import MemcpyRates
from openwafer.host._sim_log import SimLog

if TYPE_CHECKING:
    from openwafer.fabric import Profile

_MEMCPY = "memcpy"  # the lane of copies and launches
_CYCLES_AFTER_STOP = 1_000_000
_OPTIONS = {
    "cmaddr": None,
    "suppress_simfab_trace": False,
    "simfab_numthreads": 5,
    "msg_level": "WARNING",
    "memcpy_required": True,
    "timing": None,
    "machine": simulator,
}


class SdkRuntime:
    """Runs one compiled program on a simulator of its own.

    `bindir`: the folder that cslc or SdkLayout.compile wrote. Keyword arguments of the public API are accepted:
    cmaddr (must be empty), suppress_simfab_trace, simfab_numthreads, msg_level (these change nothing), memcpy_required.
    `timing` chooses sim, silicon or functional; the environment variable WAFER_TIMING is its default, else sim.

    Order: load, run, commands, stop. Commands are carried out in the order of the calls; with nonblock=True a call only
    queues, and the next call that waits drives it. The same program with the same calls takes the same number of cycles.

    Raises InputError for wrong arguments, FabricError when the program does what the machine forbids, StalledError when a
    command waits for what can no longer happen.
    """

    def __init__(
        self,
        bindir: Path | str | SdkCompileArtifacts,
        platform: SdkExecutionPlatform | None = None,
        **options: Any,
    ) -> None:
        for name in options.keys() - _OPTIONS.keys():
            near = difflib.get_close_matches(name, _OPTIONS, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(_OPTIONS))}"
            raise InputError(f"SdkRuntime has no option {name!r}{hint}")
        chosen = {**_OPTIONS, **options}
        no_system(chosen["cmaddr"])
        self._artifacts = bindir if isinstance(bindir, SdkCompileArtifacts) else SdkCompileArtifacts(bindir)
        self._platform = platform
        self._program = CompiledProgram(self._artifacts.image())
        self._check_platform()
        self._timing: Profile = chosen["timing"] or os.environ.get("WAFER_TIMING") or "sim"  # type: ignore[assignment]
        self._rates = MemcpyRates.of(self._program.image, self._timing)
        self._make_machine: MakeMachine = chosen["machine"]
        self._state = "new"
        self._device: Device | None = None
        self._ports = chosen_ports(
            self._program.image.ports, self._artifacts.port_names, self._artifacts.path
        )
        self._port_files: list[PortFile] = []
        self._core: Core | None = None

    # --- life ---

    def load(self) -> None:
        """Make the machine and put the program into it."""
        self._expect("new", "load() comes first, and once")
        image = self._program.image
        machine = self._make_machine(
            image, timing=self._timing, object_cache=self._artifacts.path / "objects"
        )
        self._device = Device(machine)
        for value in self._artifacts.initial_values():
            symbol = self._program.symbol(value.x, value.y, value.symbol)
            machine.write(value.x, value.y, symbol.address, value.data)
        self._log = SimLog(image, Path("sim.log"))
        self._driver = Driver(self._device, self._after_run)
        self._commands = Commands(self._program, self._device)
        self._state = "loaded"

    def run(self) -> None:
        """Begin; the program starts and the host may send commands."""
        self._expect("loaded", "call load(), then run(), once each")
        self._state = "running"

    def stop(self) -> None:
        """Carry out every command, let the program come to rest, and end.

        A program that never rests is stopped 1,000,000 cycles after its last command if it uses memcpy.
        Raises StalledError if a command cannot end; warns of a launched function that has done all but unblock_cmd_stream.
        """
        self._expect("running", "stop() comes once, after load() and run()")
        self._state = "stopped"
        try:
            if not self._driver.broken:
                self._driver.finish_all()
                if self._commands.launched:
                    self._driver.finish(self._submit("stop", self._commands.drain()))
                most = _CYCLES_AFTER_STOP if self._program.image.memcpy else None
                rested = self._driver.run_until_idle(most)
                self._after_run(True)
                if self._commands.warning:
                    warnings.warn(self._commands.warning, stacklevel=2)
                if rested and (waiting := self.device.diagnose()):
                    self._log.note(self.device.cycle, waiting)
        finally:
            for file in self._port_files:
                file.close()
            self.device.finish_trace()
            self._core = remember(Core(self._program, self.device), self._artifacts.path)
        if self._platform is not None and self._platform.config.dump_core:
            self._core.write(Path(self._platform.config.core_path or "out.core"))

    @property
    def device(self) -> Device:
        """The loaded machine. Raises InputError before load."""
        if self._device is None:
            raise InputError("the program is not loaded; call load() and run() first")
        return self._device

    @property
    def cycle(self) -> int:
        """Cycles simulated so far."""
        return self.device.cycle

    # --- names ---

    def get_id(self, symbol: str) -> int:
        """The id of an exported variable or function, for copies.

        Raises InputError with the nearest names if none is exported under that name.
        """
        return self._program.export(symbol)[0]

    def get_port_id(self, port_name: str) -> int:
        """The number of a port of a layout, which send and receive take as well as its name."""
        self._port(port_name, None)
        return list(self._ports).index(port_name)

    def report_port_infos(self) -> None:
        """Print name, direction, color and place of every port of a layout."""
        for port in self._ports.values():
            print(f"{port.name}: {port.direction}, color {port.color}, PE ({port.x}, {port.y})")

    def coord_logical_to_physical(self, logical_coords: tuple[int, int]) -> tuple[int, int]:
        """The place on the fabric of a place in the program's rectangle."""
        x, y = logical_coords
        return self._program.image.offset[0] + x, self._program.image.offset[1] + y

    # --- copies ---

    def memcpy_h2d(
        self,
        dest: int,
        src: NDArray[Any],
        px: int,
        py: int,
        w: int,
        h: int,
        elem_per_pe: int,
        *,
        streaming: bool = False,
        data_type: MemcpyDataType = MemcpyDataType.MEMCPY_32BIT,
        order: MemcpyOrder = MemcpyOrder.ROW_MAJOR,
        nonblock: bool = False,
    ) -> Task:
        """Send rows x columns x elements of `src` to the PEs of a region: to a variable, or as a stream on a color.

        `src` is read during the call. A stream is done when the fabric has taken every word.
        """
        what = "memcpy_h2d"
        region = self._program.region(px, py, w, h, what)
        block = to_block(src, (*region.shape, _count(elem_per_pe, what)), MemcpyOrder(order), what)
        return self._send(what, dest, region, block, block.size, streaming, data_type, nonblock)

    def memcpy_h2d_rowbcast(
        self,
        dest: int,
        src: NDArray[Any],
        px: int,
        py: int,
        w: int,
        h: int,
        elem_per_pe: int,
        *,
        streaming: bool = False,
        data_type: MemcpyDataType = MemcpyDataType.MEMCPY_32BIT,
        order: MemcpyOrder = MemcpyOrder.ROW_MAJOR,
        nonblock: bool = False,
    ) -> Task:
        """Send rows x elements of `src`; every PE of a row of the region receives that row's elements."""
        what = "memcpy_h2d_rowbcast"
        region = self._program.region(px, py, w, h, what)
        column = to_block(src, (h, _count(elem_per_pe, what)), MemcpyOrder(order), what)
        block = np.broadcast_to(column[:, None, :], (h, w, elem_per_pe))
        return self._send(what, dest, region, block, column.size, streaming, data_type, nonblock)

    def memcpy_h2d_colbcast(
        self,
        dest: int,
        src: NDArray[Any],
        px: int,
        py: int,
        w: int,
        h: int,
        elem_per_pe: int,
        *,
        streaming: bool = False,
        data_type: MemcpyDataType = MemcpyDataType.MEMCPY_32BIT,
        order: MemcpyOrder = MemcpyOrder.ROW_MAJOR,
        nonblock: bool = False,
    ) -> Task:
        """Send columns x elements of `src`; every PE of a column of the region receives that column's elements."""
        what = "memcpy_h2d_colbcast"
        region = self._program.region(px, py, w, h, what)
        row = to_block(src, (w, _count(elem_per_pe, what)), MemcpyOrder(order), what)
        block = np.broadcast_to(row[None, :, :], (h, w, elem_per_pe))
        return self._send(what, dest, region, block, row.size, streaming, data_type, nonblock)

    def memcpy_h2d_stride(
        self,
        dest: int,
        src: NDArray[Any],
        px: int,
        py: int,
        w: int,
        h: int,
        elem_per_pe: int,
        row_stride: int,
        col_stride: int,
        *,
        streaming: bool = False,
        data_type: MemcpyDataType = MemcpyDataType.MEMCPY_32BIT,
        order: MemcpyOrder = MemcpyOrder.ROW_MAJOR,
        nonblock: bool = False,
    ) -> Task:
        """As memcpy_h2d, but only to every `row_stride`-th PE of a row and every `col_stride`-th of a column.

        `src` has rows x columns x elements for the PEs that receive. The call is done when all have.
        """
        what = "memcpy_h2d_stride"
        self._program.region(px, py, w, h, what)
        if row_stride < 1 or col_stride < 1:
            raise InputError(f"{what}: strides are at least 1, not {row_stride} and {col_stride}")
        xs, ys = range(px, px + w, row_stride), range(py, py + h, col_stride)
        shape = (len(ys), len(xs), _count(elem_per_pe, what))
        block = to_block(src, shape, MemcpyOrder(order), what)
        task = None
        for row, y in enumerate(ys):
            for column, x in enumerate(xs):
                part = block[row : row + 1, column : column + 1]
                task = self._send(
                    what, dest, Region(x, y, 1, 1), part, part.size, streaming, data_type, nonblock=True
                )
        assert task is not None
        return self._wait_unless(nonblock, task)

    def memcpy_d2h(
        self,
        dest: NDArray[Any],
        src: int,
        px: int,
        py: int,
        w: int,
        h: int,
        elem_per_pe: int,
        *,
        streaming: bool = False,
        data_type: MemcpyDataType = MemcpyDataType.MEMCPY_32BIT,
        order: MemcpyOrder = MemcpyOrder.ROW_MAJOR,
        nonblock: bool = False,
    ) -> Task:
        """Fill `dest` with rows x columns x elements from the PEs of a region: of a variable, or of a stream.

        16-bit elements arrive zero-extended.
        """
        what = "memcpy_d2h"
        self._expect("running", f"{what} comes between run() and stop()")
        region = self._program.region(px, py, w, h, what)
        count, order = _count(elem_per_pe, what), MemcpyOrder(order)
        check_result(dest, (*region.shape, count), what)
        if streaming:
            self._check_stream(src, "out", what)
            name = f"{what} of color {src}"
            command = self._commands.receive_all(src, region, count, order, dest)
        else:
            variable = self._program.variable(src, what).name
            name = f"{what} from {variable!r}"
            cycles = self._rates.d2h(w * h * count)
            command = self._commands.read(
                variable, region, count, MemcpyDataType(data_type), order, dest, cycles
            )
        return self._wait_unless(nonblock, self._submit(name, command))

    # --- launches ---

    def launch(self, symbol: str, *args: Any, nonblock: bool = False) -> Task:
        """Call an exported function on every PE that exports it.

        Arguments are checked against its type. A blocking launch returns when every PE takes the next command, or when
        nothing moves before the host sends more.
        """
        _, export = self._program.export(symbol, "function")
        return self._launch(symbol, argument_words(export, args), nonblock)

    def call(self, symbol: str, args: list[Any], nonblock: bool = False) -> Task:
        """The older form of `launch`: each argument is one 32-bit word, unchecked."""
        _, export = self._program.export(symbol, "function")
        return self._launch(symbol, raw_words(export, args), nonblock)

    # --- tasks ---

    def is_task_done(self, task_handle: Task) -> bool:
        """Whether a task is done; if not, the machine runs a little."""
        if any(task_handle is file.task for file in self._port_files):
            return task_handle.done  # only rest ends it, and a look must not drive the program to its rest
        return self._driver.poll(task_handle)

    def task_wait(self, task_handle: Task) -> None:
        """Run until a task is done."""
        for file in self._port_files:
            if task_handle is file.task and not task_handle.done:
                self._finish_file(file)
        self._driver.finish(task_handle)

    # --- ports of layouts ---

    def send(
        self, port: int | str, src: NDArray[Any], n_wavelets: int | None = None, *, nonblock: bool = False
    ) -> Task:
        """Stream the words of `src` into a port; done when the fabric has taken them.

        Without `n_wavelets` all of `src` is sent; its elements must then have 32 bits.
        """
        found = self._port(port, "in")
        what = f"send to port {found.name!r}"
        self._expect("running", f"{what} comes between run() and stop()")
        words = to_block(src, (src.size if n_wavelets is None else n_wavelets,), MemcpyOrder.ROW_MAJOR, what)
        command = self._commands.send_port(found.name, found.x, found.y, words)
        return self._wait_unless(nonblock, self._driver.submit(found.name, what, command))

    def receive(
        self, port: int | str, dest: NDArray[Any], n_wavelets: int, *, nonblock: bool = False
    ) -> Task:
        """Fill `dest` with the next words of a port."""
        found = self._port(port, "out")
        what = f"receive from port {found.name!r}"
        self._expect("running", f"{what} comes between run() and stop()")
        check_result(dest, (n_wavelets,), what)

        def deliver(words: NDArray[np.uint32]) -> None:
            dest.reshape(-1)[: words.size] = words.view(dest.dtype)

        command = self._commands.receive_port(found.name, found.x, found.y, n_wavelets, deliver)
        return self._wait_unless(nonblock, self._driver.submit(found.name, what, command))

    def receive_tofile(self, port: int | str, outfile: Path | str, *, nonblock: bool = False) -> Task:
        """Write the words of a port to a file as they arrive, 4 bytes each, lowest first.

        It ends when nothing on the fabric can move any more; with nonblock=True when `stop` has let the program come to
        rest. Raises StorageError if the file cannot be written.
        """
        found = self._port(port, "out")
        what = f"receive_tofile from port {found.name!r}"
        self._expect("running", f"{what} comes between run() and stop()")
        task = Task(what)
        file = PortFile(self.device, found, Path(outfile), task)
        self._port_files.append(file)
        if not nonblock:
            self._finish_file(file)
        return task

    # --- after the run ---

    def read_symbol(self, x: int, y: int, symbol_name: str, dtype: DTypeLike = "uint8") -> NDArray[Any]:
        """A variable of one PE, by place on the fabric: the bytes, viewed as `dtype`.

        In a layout these are the places that `place` gave. Raises InputError if the PE has no such variable.
        """
        return self._memory().symbol(x, y, symbol_name, dtype)

    def dump_core(self, corefile: Path | str) -> None:
        """Write the memory of every PE to a file that debug_util reads."""
        self._memory().write(Path(corefile))

    def dump_elf_core(self, corefile: Path | str) -> None:
        """Always InputError: a compiled program has no ELF files here."""
        raise InputError(
            f"dump_elf_core({str(corefile)!r}): there are no ELF files here; dump_core writes the memory of every PE, which "
            "debug_util and read_symbol read"
        )

    # --- inside ---

    def _finish_file(self, file: PortFile) -> None:
        self._driver.finish_all()
        self._driver.run_until_idle()
        file.close()

    def _memory(self) -> Core:
        if self._core is not None:
            return self._core
        return Core(self._program, self.device)

    def _send(
        self,
        what: str,
        dest: int,
        region: Region,
        block: NDArray[np.uint32],
        words: int,
        streaming: bool,
        data_type: MemcpyDataType,
        nonblock: bool,
    ) -> Task:
        self._expect("running", f"{what} comes between run() and stop()")
        if streaming:
            self._check_stream(dest, "in", what)
            name = f"{what} of color {dest}"
            command = self._commands.send_all(dest, region, block)
        else:
            variable = self._program.variable(dest, what).name
            name = f"{what} to {variable!r}"
            cycles = self._rates.h2d(words)
            command = self._commands.write(variable, region, block, MemcpyDataType(data_type), cycles)
        return self._wait_unless(nonblock, self._submit(name, command))

    def _launch(self, symbol: str, words: list[int], nonblock: bool) -> Task:
        self._expect("running", "launch comes between run() and stop()")
        command = self._commands.launch(symbol, words, self._rates.command_cycles, blocking=not nonblock)
        return self._wait_unless(nonblock, self._submit(f"launch of {symbol!r}", command))

    def _submit(self, name: str, command: Command) -> Task:
        return self._driver.submit(_MEMCPY, name, command)

    def _wait_unless(self, nonblock: bool, task: Task) -> Task:
        if not nonblock:
            self._driver.finish(task)
        return task

    def _check_stream(self, color: int, direction: str, what: str) -> None:
        streams = self._program.image.streams
        if streams.get(int(color)) != direction:
            fit = sorted(number for number, way in streams.items() if way == direction)
            param = "MEMCPYH2D_" if direction == "in" else "MEMCPYD2H_"
            there = (
                f"there are {', '.join(map(str, fit))}"
                if fit
                else f"give <memcpy/get_params> a {param} color"
            )
            raise InputError(f"{what}: color {color} streams nothing that way in this program; {there}")

    def _port(self, port: int | str, direction: str | None) -> Port:
        names = list(self._ports)
        if isinstance(port, int) and 0 <= port < len(names):
            port = names[port]
        found = self._ports.get(str(port))
        if found is None:
            raise InputError(
                f"the program has no port {port!r}; there are {', '.join(names) or 'none: create a stream in the layout'}"
            )
        if direction is not None and found.direction != direction:
            verb = "receive from" if found.direction == "out" else "send to"
            raise InputError(f"port {found.name!r} goes the other way; {verb} it")
        return found

    def _after_run(self, final: bool) -> None:
        for file in self._port_files:
            file.drain()
        self._log.lines(self.device.new_prints(final=final))

    def _check_platform(self) -> None:
        have = self._program.image.architecture
        if self._platform is not None and self._platform.architecture != have:
            raise InputError(
                f"{self._artifacts.path} was compiled for {have}, and the platform is {self._platform.architecture}; "
                f"compile for it or choose SdkTarget.{have.upper()}"
            )

    def _expect(self, state: str, rule: str) -> None:
        if self._state != state:
            raise InputError(f"the runtime is {self._state}: {rule}")


def _count(elements: int, what: str) -> int:
    if elements < 1:
        raise InputError(f"{what}: {elements} elements per PE; copy at least one")
    return int(elements)
