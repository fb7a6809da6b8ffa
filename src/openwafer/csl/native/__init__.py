"""Native code: PE-IR as LLVM assembly against the PE ABI, which the fabric loads on the host's processor."""

from openwafer.csl.native._emit import emit

__all__ = ["emit"]
