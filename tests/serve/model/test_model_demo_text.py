"""The demo's tokenizer and chat template, as others read them."""

from __future__ import annotations

import pytest
import transformers

from openwafer.serve.model import make_demo


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return transformers.AutoTokenizer.from_pretrained(
        make_demo(tmp_path_factory.mktemp("demo"), layers=1, hidden=32)
    )


def test_any_text_comes_back(tokenizer):
    """Every byte is a token, after the token that begins a text."""
    text = "Grüße, 世界! \x00\t\n  \U0001f600"

    tokens = tokenizer.encode(text)

    assert tokens[0] == tokenizer.convert_tokens_to_ids("<|begin_of_text|>")
    assert tokens[1:] == list(text.encode())
    assert tokenizer.decode(tokens, skip_special_tokens=True) == text


def test_conversations_read_as_llama_3s(tokenizer):
    """Headers, and <|eot_id|> after each message; the answer's header last."""
    text = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        tokenize=False,
        add_generation_prompt=True,
    )

    assert text == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_tools_and_calls_are_in_the_text(tokenizer):
    """A tool's declaration, the call that the model made, and its result in the ipython role."""
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    text = tokenizer.apply_chat_template(
        [
            {"role": "user", "content": "1 + 1?"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": "2"},
        ],
        tools=[{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}],
        tokenize=False,
    )

    assert '"name": "add", "description": "Adds."' in text
    assert '{"name": "add", "parameters": {"a": 1}}<|eom_id|>' in text
    assert text.endswith("<|start_header_id|>ipython<|end_header_id|>\n\n2<|eot_id|>")
