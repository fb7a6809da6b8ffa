"""The model lists, in the four shapes that clients ask for."""

from __future__ import annotations

from typing import Any

from openwafer.serve.api._errors import ApiError, invalid
from openwafer.serve.api._settings import Settings

_SAMPLING = (
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "presence_penalty",
    "seed",
    "stop",
    "temperature",
    "top_logprobs",
    "top_p",
)


def list_models(settings: Settings, form: str) -> dict[str, Any]:
    """Every name of the model as an entry. form: default, openrouter, huggingface or public.

    Raises ApiError for another.
    """
    entries = [_entry(settings, name, form) for name in (settings.model, *settings.aliases)]
    return {"data": entries} if form == "openrouter" else {"object": "list", "data": entries}


def one_model(settings: Settings, name: str, form: str) -> dict[str, Any]:
    """One entry. Raises ApiError 404 for a name that is not served."""
    if not settings.serves(name):
        raise no_such_model(settings)
    return _entry(settings, name, form)


def no_such_model(settings: Settings) -> ApiError:
    """What a request for another model is told."""
    names = ", ".join((settings.model, *settings.aliases))
    return ApiError(
        404,
        f"Model does not exist or you do not have access to it. This server has: {names}.",
        kind="not_found_error",
        param="model",
        code="model_not_found",
    )


def _entry(settings: Settings, name: str, form: str) -> dict[str, Any]:
    about = {"id": name, "created": settings.created, "owned_by": settings.owned_by}
    length = settings.context_tokens
    match form:
        case "default":
            return {"id": name, "object": "model", "created": settings.created, "owned_by": settings.owned_by}
        case "openrouter":
            return {
                "id": name,
                "name": name,
                "created": settings.created,
                "context_length": length,
                "max_output_length": length,
                "pricing": {"prompt": "0", "completion": "0", "image": "0", "request": "0"},
                "input_modalities": ["text"],
                "output_modalities": ["text"],
                "quantization": settings.dtype,
                "supported_features": ["tools", "json_mode", "structured_outputs"],
                "supported_sampling_parameters": list(_SAMPLING),
            }
        case "huggingface":
            return {
                **about,
                "object": "model",
                "context_length": length,
                "pricing": {"input": 0.0, "output": 0.0},
                "capabilities": {
                    "function_calling": True,
                    "streaming": True,
                    "structured_outputs": True,
                    "vision": False,
                },
            }
        case "public":
            offered = dict.fromkeys(
                (
                    "function_calling",
                    "json_mode",
                    "parallel_tool_calls",
                    "response_format",
                    "streaming",
                    "structured_outputs",
                    "tool_choice",
                    "tools",
                ),
                True,
            )
            return {
                **about,
                "object": "model",
                "name": name,
                "description": f"{name}, served by openwafer",
                "architecture": {"modality": "text", "tokenizer": "the checkpoint's own"},
                "capabilities": {**offered, "vision": False},
                "limits": {
                    "max_completion_tokens": length,
                    "max_context_length": length,
                    "requests_per_minute": None,
                    "tokens_per_minute": settings.tokens_per_minute,
                },
                "pricing": {"prompt": "0", "completion": "0"},
                "supported_parameters": {**dict.fromkeys(_SAMPLING, True), "repetition_penalty": False},
                "quantization": settings.dtype,
                "deprecated": False,
                "preview": False,
            }
    raise invalid(f"format {form!r} is unknown; use default, openrouter or huggingface.", "format")
