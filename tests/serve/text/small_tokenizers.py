"""Small tokenizers of both kinds, made here."""

from __future__ import annotations

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend


def byte_level() -> Backend:
    """A token for each byte, some merges, and special tokens as Llama 3 and Qwen have them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "w"), ("Ã", "©")]
    words = [*letters, *("".join(m) for m in merges)]
    backend = Backend(models.BPE({w: i for i, w in enumerate(words)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(t, special=True) for t in ("<|begin|>", "<|end|>", "<|python_tag|>")]
    )
    backend.add_tokens([AddedToken("<tool_call>", special=False)])
    return backend


def sentencepiece() -> Backend:
    """Words with their space, and a token for each byte, as Llama 2 has them."""
    words = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "▁he", "llo", "▁wor", "ld", "é"]
    backend = Backend(
        models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True)
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend
