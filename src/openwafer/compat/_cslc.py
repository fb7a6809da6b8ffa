"""`cslc`: compile a layout and write the folder that SdkRuntime runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from openwafer.base import WaferError
from openwafer.compat._flags import Options, help_text, parse_flags, wants_help


def cslc(arguments: Sequence[str] | None = None) -> int:
    """Entry point: 0, 1 after the errors were printed to stderr, or 130 after Ctrl-C.

    `arguments` default to the process's own.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if wants_help(given):
        sys.stdout.write(help_text())
        return 0
    try:
        compile_folder(parse_flags(given))
    except WaferError as error:
        text = str(error)
        # Errors in a program begin with their place, as compilers' messages do.
        sys.stderr.write(text if ": error: " in text else f"cslc: error: {text}")
        sys.stderr.write("\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("cslc: interrupted\n")
        return 130
    return 0


def compile_folder(options: Options) -> None:
    """Compile and write `options.output`. Raises CslError if the program is wrong, InputError for wrong options."""
    from openwafer.csl._compile import compile_program
    from openwafer.host._artifacts import write_artifacts

    start = time.perf_counter()
    image = compile_program(
        options.source,
        params=options.params,
        colors=options.colors,
        architecture=options.architecture,
        fabric=options.fabric,
        offset=options.offset,
        memcpy=options.memcpy,
        channels=options.channels,
        dialect=options.dialect,
        import_paths=options.import_paths,
        half=options.half,
        max_inlined_iterations=options.max_inlined_iterations,
        tell=lambda text: print(text, file=sys.stderr),
    )
    write_artifacts(image, options.output, params=options.params, colors=options.colors)
    if options.verbose:
        width, height = image.rectangle
        seconds = time.perf_counter() - start
        print(
            f"{options.source}: {width} x {height} PEs, {len(image.programs)} programs, {len(image.codes)} compiled, "
            f"{seconds:.2f} s; written to {options.output}"
        )
