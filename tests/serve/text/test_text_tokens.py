"""Tokens to bytes and text: the library's own decoder is the oracle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import byte_level, sentencepiece  # type: ignore[import-not-found]
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from openwafer.base import InputError
from openwafer.serve.text import Detokeniser, Tokenizer

BYTE_LEVEL = Tokenizer(byte_level())
PIECES = Tokenizer(sentencepiece())


def streamed(tokenizer: Tokenizer, tokens: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    detokeniser = Detokeniser(tokenizer, stop)
    parts = [detokeniser.push(t) for t in tokens]
    return [*parts, detokeniser.finish()]


@given(st.lists(st.integers(0, BYTE_LEVEL.vocabulary_size + 3)))
def test_streamed_text_is_the_decoded_text(tokens: list[int]) -> None:
    """Whatever the tokens, bytes that are no UTF-8 and tokens beyond the vocabulary included."""
    assert "".join(streamed(BYTE_LEVEL, tokens)) == BYTE_LEVEL.decode(tokens)


@given(st.text())
def test_text_survives_tokens_and_back(text: str) -> None:
    """A byte-level tokenizer loses nothing, and no part of the stream has half a character."""
    tokens = BYTE_LEVEL.encode(text)
    if "<|" not in text:
        assert "".join(streamed(BYTE_LEVEL, tokens)) == text
        assert "\ufffd" in text or all("\ufffd" not in part for part in streamed(BYTE_LEVEL, tokens))


@given(st.lists(st.integers(1, PIECES.vocabulary_size - 1)))
def test_sentencepiece_tokens_are_the_bytes_that_the_library_decodes(tokens: list[int]) -> None:
    """The library takes the first space away; an answer that goes on from a prompt keeps it."""
    theirs = PIECES.backend.decode(tokens)
    ours = PIECES.decode(tokens)
    if (
        "\ufffd" not in ours
    ):  # the library writes one mark for each wrong byte, Python one for each wrong sequence
        assert ours.removeprefix(" ") == theirs


def test_a_character_waits_for_its_last_byte() -> None:
    """An emoji is four byte tokens; half of it would be a question mark on the client's screen."""
    tokens = BYTE_LEVEL.encode("a😀b")

    assert streamed(BYTE_LEVEL, tokens) == ["a", "", "", "", "😀", "b", ""]


def test_special_tokens_are_no_text_but_those_of_calls_are() -> None:
    """Without the tag, a call in Llama's format could not be told from an answer in JSON."""
    tokens = BYTE_LEVEL.encode("<|begin|>x<|python_tag|>y<|end|><tool_call>")

    assert BYTE_LEVEL.decode(tokens) == "x<|python_tag|>y<tool_call>"


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=4))
def test_text_ends_before_the_first_stop_string(text: str, stop: list[str]) -> None:
    """However the text is cut into tokens, and although nothing may be taken back once it is sent."""
    at = min((text.find(s) for s in stop if s in text), default=len(text))
    detokeniser = Detokeniser(BYTE_LEVEL, stop)

    parts = [detokeniser.push(t) for t in BYTE_LEVEL.encode(text)]

    whole = "".join(parts) + detokeniser.finish()
    if detokeniser.stopped:
        # The first to be complete ends the answer, also where a longer one began before it.
        assert any((whole + s) == text[: len(whole) + len(s)] for s in stop)
        assert not any(s in whole for s in stop)
        assert len(whole) >= at
    else:
        assert whole == text


def test_a_stop_string_across_tokens_is_never_shown() -> None:
    """What may become a stop string is held back, and comes when it did not."""
    assert streamed(BYTE_LEVEL, BYTE_LEVEL.encode("xENy"), ("END",)) == ["x", "", "", "ENy", ""]
    assert streamed(BYTE_LEVEL, BYTE_LEVEL.encode("xENDy"), ("END",)) == ["x", "", "", "", "", ""]


def save(folder: Path, **files: object) -> Path:
    byte_level().save(str(folder / "tokenizer.json"))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def test_answers_end_with_what_the_checkpoint_says(tmp_path: Path) -> None:
    """generation_config.json has Llama 3's three ends, tokenizer_config.json the one that a chat ends with."""
    end = BYTE_LEVEL.id("<|end|>")
    folder = save(
        tmp_path,
        generation_config={"eos_token_id": [7, 8]},
        config={"eos_token_id": 9},
        tokenizer_config={"eos_token": {"content": "<|end|>"}, "bos_token": "<|begin|>"},
    )

    tokenizer = Tokenizer.load(folder)

    assert tokenizer.end_tokens == {7, 8, end}
    assert tokenizer.names == {"eos_token": "<|end|>", "bos_token": "<|begin|>"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer.json", None, "does not exist"),
        ("tokenizer.json", "{}", "is not a tokenizer"),
        ("tokenizer_config.json", "{", "cannot be read"),
        ("generation_config.json", "[]", "should hold a JSON object"),
    ],
)
def test_a_broken_folder_is_named(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    """A half-copied checkpoint is the common mistake."""
    save(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    if text is not None:
        (tmp_path / name).write_text(text)

    with pytest.raises(InputError, match=message):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    """Bytes of WordPiece's tokens cannot be told, so answers could not be streamed."""
    backend = Backend(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()

    with pytest.raises(InputError, match="WordPiece"):
        Tokenizer(backend)
