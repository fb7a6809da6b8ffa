"""A checkpoint that speaks a script: a Llama whose weights are set by hand, so that each token decides the next.

Embeddings are one-hot, attention and MLP add nothing, and the head maps a token to the one that follows it in its line:
the layers of a real server compute it as they compute any other model. Which line is said is decided by the checkpoint's
chat template, which ends the prompt with the token that the line begins after.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from clients_script import Line  # type: ignore[import-not-found]
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel

from openwafer.serve.model import make_demo

PIECE = 5
"""Characters of a token, at least; longer where that many were taken by another."""
LOGIT = 50.0
"""Of the token that follows, above all others: no temperature that a program asks for chooses another."""


def make_scripted(folder: Path, lines: Sequence[Line], call: str) -> Path:
    """Write a checkpoint that answers with the first of `lines` whose words were said, or `call` if there are tools.

    The last line must have no words: it is said when no other is. Any answer ends after its line.
    """
    assert not lines[-1].words, "the last line is for all other conversations"
    make_demo(folder, layers=1)
    texts = [line.text for line in lines] + [call]
    said = _Edited(folder / "tokenizer.json")
    special, vocabulary = said.values["added_tokens"], said.values["model"]["vocab"]
    begins = {f"<|line_{at}|>": len(vocabulary) + len(special) + at for at in range(len(texts))}
    special += [special[0] | {"id": token, "content": name} for name, token in begins.items()]
    # A special token keeps its number only if the vocabulary has it too.
    vocabulary |= {token["content"]: token["id"] for token in special}
    pieces, following = _chain(texts, list(begins.values()), vocabulary["<|eot_id|>"])
    spelt = ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary |= {spelt.pre_tokenize_str(piece)[0][0]: token for piece, token in pieces.items()}
    said.write()

    words = _Edited(folder / "tokenizer_config.json")
    words.values["chat_template"] += _choice(lines, list(begins))
    words.write()

    config = _Edited(folder / "config.json")
    width = -(-len(vocabulary) // 64) * 64
    config.values |= {
        "vocab_size": width,
        "hidden_size": width,
        "intermediate_size": 64,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
    }
    config.write()
    save_file(_weights(width, following, config.values["head_dim"]), folder / "model.safetensors")
    return folder


class _Edited:
    """A JSON file that is read, changed and written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.values: dict[str, Any] = json.loads(path.read_text())

    def write(self) -> None:
        self._path.write_text(json.dumps(self.values))


def _chain(texts: Sequence[str], begins: Sequence[int], end: int) -> tuple[dict[str, int], dict[int, int]]:
    """The token of each piece of the texts, and for each token the one that follows: after `begins`, up to `end`."""
    tokens: dict[str, int] = {}
    following: dict[int, int] = {}
    for begin, text in zip(begins, texts, strict=True):
        last = begin
        for piece in _pieces(text, tokens):
            tokens[piece] = begins[-1] + 1 + len(tokens)
            following[last] = last = tokens[piece]
        following[last] = end
    return tokens, following


def _pieces(text: str, taken: dict[str, int]) -> list[str]:
    """A text in parts that no other text has and that are all different, so that each has one that follows."""
    pieces: list[str] = []
    while text:
        size = PIECE
        while text[:size] in taken or text[:size] in pieces:
            assert size < len(text), f"{text!r} ends as another line does; end it otherwise"
            size += 1
        if len(text) - size < PIECE and text not in taken:
            size = len(text)
        pieces.append(text[:size])
        text = text[size:]
    return pieces


def _choice(lines: Sequence[Line], begins: Sequence[str]) -> str:
    """The end of the chat template: the token that the right line begins after."""
    tests = [" and ".join(f"{json.dumps(word)} in said.text" for word in line.words) for line in lines]
    branches = [
        f"{{%- {'elif' if at else 'if'} {test or 'true'} %}}{{{{- {json.dumps(begin)} }}}}"
        for at, (test, begin) in enumerate(zip(tests, begins, strict=False))
    ]
    return (
        '{%- set said = namespace(text="") %}'
        '{%- for message in messages %}{%- set said.text = said.text ~ "\\n" ~ (message.content or "") %}{%- endfor %}'
        "{%- if add_generation_prompt %}"
        f'{{%- if tools and messages[-1].role == "user" %}}{{{{- {json.dumps(begins[-1])} }}}}'
        f"{{%- else %}}{''.join(branches)}{{%- endif %}}{{%- endif %}}{{%- endif %}}"
    )


def _weights(width: int, following: dict[int, int], head: int) -> dict[str, torch.Tensor]:
    """One layer that adds nothing, between a one-hot embedding and the chain."""
    layer = "model.layers.0"
    shapes = {
        **{f"{layer}.self_attn.{name}_proj.weight": (head, width) for name in "qkv"},
        f"{layer}.self_attn.o_proj.weight": (width, head),
        f"{layer}.mlp.gate_proj.weight": (64, width),
        f"{layer}.mlp.up_proj.weight": (64, width),
        f"{layer}.mlp.down_proj.weight": (width, 64),
    }
    norms = (f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm", "model.norm")
    chain = torch.zeros(width, width)
    # The last norm gives a one-hot state the length sqrt(width).
    chain[[*following.values()], [*following]] = LOGIT * width**-0.5
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    weights |= {f"{name}.weight": torch.ones(width) for name in norms}
    weights |= {"model.embed_tokens.weight": torch.eye(width), "lm_head.weight": chain}
    return {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
