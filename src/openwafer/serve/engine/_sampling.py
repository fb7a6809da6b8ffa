"""How tokens are drawn."""

from __future__ import annotations

import hashlib

_COLDEST = 1e-6
"""Below this temperature nothing but the most likely token has a chance that float32 can hold."""


def uniform(seed: int, choice: int, index: int, trial: int = 0) -> float:
    """A number in [0, 1) for token `index` of a choice: the same whenever and beside whatever the token is drawn.

    trial: counts the tokens that were drawn in its place and lay outside of the nucleus.
    """
    key = hashlib.blake2b(f"{seed},{choice},{index},{trial}".encode(), digest_size=8).digest()
    return (int.from_bytes(key, "little") >> 11) * 2.0**-53


def scale(temperature: float, top_p: float) -> float:
    """What logits are multiplied by before a token is drawn; 0 where the likeliest is taken."""
    return 0.0 if temperature <= 0 or top_p <= 0 else 1 / max(temperature, _COLDEST)
