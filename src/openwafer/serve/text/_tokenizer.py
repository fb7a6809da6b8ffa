"""A checkpoint's own tokenizer: text to tokens, and what bytes each token stands for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from openwafer.base import InputError

_VISIBLE = frozenset({"<|python_tag|>", "[TOOL_CALLS]", "<tool_call>", "</tool_call>", "<think>", "</think>"})
"""Special tokens that are part of the answer: without them nobody could tell a call, or a thought, from prose."""


class Tokenizer:
    """Tokens of one checkpoint. Made by `Tokenizer.load`; may be used by several threads."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        end_tokens: Iterable[int] = (),
        names: dict[str, str] | None = None,
    ) -> None:
        """backend: of the tokenizers library, with a decoder that is byte-level or SentencePiece's.

        names: the tokens that a chat template may name (bos_token, eos_token ...).
        Raises InputError if the decoder is of another kind.
        """
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.end_tokens = frozenset(end_tokens)
        """The tokens with which the model ends an answer."""
        self.names = names or {}
        self._pieces = _is_sentencepiece(backend)
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self._hidden = frozenset(
            i for i, token in added.items() if token.special and token.content not in _VISIBLE
        )
        self._added = {i: token.content for i, token in added.items()}
        self._vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        self.vocabulary_size = max(self._vocabulary.values(), default=-1) + 1
        """One more than the largest token; the model's rows may be more."""

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """The tokenizer of a checkpoint's folder (tokenizer.json, and what the files beside it say of its tokens).

        Raises InputError if there is no tokenizer.json, or a file cannot be read as what it is.
        """
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            mend = (
                "this folder has only SentencePiece's tokenizer.model: load it once by transformers' AutoTokenizer "
                "and save_pretrained() it"
                if (folder / "tokenizer.model").is_file()
                else "give the folder of a complete Hugging Face checkpoint"
            )
            raise InputError(f"{path} does not exist, so texts cannot become tokens; {mend}")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as e:  # the library raises bare Exception
            raise InputError(f"{path} is not a tokenizer: {e}; copy the checkpoint's file again") from e
        about = read_json(folder / "tokenizer_config.json")
        generation = read_json(folder / "generation_config.json")
        config = read_json(folder / "config.json")
        vocabulary = backend.get_vocab(with_added_tokens=True)
        names = {
            key: content
            for key, value in about.items()
            if key.endswith("_token") and (content := _content(value)) is not None
        }
        ends = generation.get("eos_token_id", config.get("eos_token_id"))
        end_tokens = {i for i in (ends if isinstance(ends, list) else [ends]) if isinstance(i, int)}
        if (end := vocabulary.get(names.get("eos_token", ""))) is not None:
            end_tokens.add(end)
        return cls(backend, end_tokens=end_tokens, names=names)

    def encode(self, text: str, *, start: bool = True) -> list[int]:
        """Tokens of a text, special tokens spelt in it included. start: begin as the model's texts begin.

        A text that a chat template made begins already: give start=False.
        """
        ids: list[int] = self.backend.encode(text, add_special_tokens=start).ids
        return ids

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens, without special tokens that are not part of an answer."""
        return b"".join(self.token_bytes(t) for t in tokens if t not in self._hidden).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; none for a token beyond the vocabulary. UTF-8 may be cut by its ends."""
        return self._bytes[token] if 0 <= token < len(self._bytes) else b""

    def hides(self, token: int) -> bool:
        """Whether the token is special and no part of an answer's text."""
        return token in self._hidden

    def id(self, token: str) -> int | None:
        """The number of the token that is spelt so."""
        return self._vocabulary.get(token)

    @property
    def strips_first_space(self) -> bool:
        """Whether a text's first word has a space before it that is not part of the text (SentencePiece)."""
        return self._pieces

    @cached_property
    def _bytes(self) -> list[bytes]:
        table = [b""] * self.vocabulary_size
        for text, token in self._vocabulary.items():
            if token in self._added:
                table[token] = self._added[token].encode()
            elif self._pieces:
                table[token] = _piece_bytes(text)
            else:
                table[token] = b"".join(_BYTES.get(c, c.encode()) for c in text)
        return table


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint's folder; an absent file is an empty one. Raises InputError if it is no JSON."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read: {e}; copy the checkpoint's file again") from e
    if not isinstance(value, dict):
        raise InputError(f"{path} should hold a JSON object and holds a {type(value).__name__}")
    return value


def _content(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _is_sentencepiece(backend: tokenizers.Tokenizer) -> bool:
    decoder = json.loads(backend.to_str()).get("decoder") or {}
    kinds = {part["type"] for part in decoder.get("decoders", [decoder]) if "type" in part}
    if "ByteLevel" in kinds:
        return False
    if kinds & {"ByteFallback", "Metaspace"}:
        return True
    raise InputError(
        f"the tokenizer's decoder is {sorted(kinds) or 'absent'}, and only byte-level and SentencePiece tokenizers "
        "can be read byte by byte; serve a checkpoint of the Llama, Mistral or Qwen families"
    )


def _piece_bytes(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("▁", " ").encode()


def _byte_characters() -> dict[str, int]:
    """Byte-level tokenizers spell each byte as a printable character: itself, or one from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTES = {character: bytes([b]) for character, b in _byte_characters().items()}
