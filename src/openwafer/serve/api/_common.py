"""What chats and completions share: sampling, limits, tiers."""

from __future__ import annotations

from openwafer.serve.api._errors import invalid
from openwafer.serve.api._requests import ChatRequest, CompletionRequest, Stop, Tier
from openwafer.serve.engine import Sampling
from openwafer.serve.engine import Tier as EngineTier
from openwafer.serve.text import Tokenizer

_SEEDS = 1 << 63


def sampling_of(body: ChatRequest | CompletionRequest, bias: dict[int, float]) -> Sampling:
    """How tokens are chosen. Seeds may be any integer: those of one residue modulo 2^63 are the same."""
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        logit_bias=bias,
        seed=None if body.seed is None else body.seed % _SEEDS,
    )


def bias_of(bias: dict[str, float] | None, tokenizer: Tokenizer) -> dict[int, float]:
    """Biases by token. Raises ApiError for what is no token's number."""
    result = {}
    for key, value in (bias or {}).items():
        token = int(key) if key.isascii() and key.isdigit() and len(key) < 12 else -1
        if not 0 <= token < tokenizer.vocabulary_size:
            raise invalid(
                f"logit_bias.{key}: keys are token ids, from 0 to {tokenizer.vocabulary_size - 1}.",
                "logit_bias",
            )
        result[token] = value
    return result


def stops_of(stop: Stop) -> tuple[str, ...]:
    """Strings that end the text; empty ones are none."""
    return tuple(s for s in ([stop] if isinstance(stop, str) else stop or ()) if s)


def most_tokens(*asked: int | None) -> int | None:
    """The first limit that is given; None for as many as fit."""
    limit = next((n for n in asked if n is not None), None)
    return None if limit == -1 else limit


def tier_of(tier: Tier | None) -> EngineTier:
    """`auto` is the default tier: this server has no paid one to fall back from."""
    return "default" if tier is None or tier == "auto" else tier
