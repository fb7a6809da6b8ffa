"""Grammars: which tokens may come next, for requests whose text has a form."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from llguidance import LLMatcher, LLTokenizer

from openwafer.base import InputError
from openwafer.serve.engine._request import Grammar
from openwafer.serve.text import Tokenizer

_KEPT = 64


class Grammars:
    """Makes matchers for one tokenizer. What was compiled lately is copied and not compiled again. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, end_tokens: Iterable[int]) -> None:
        """vocabulary: the width of the model's logits."""
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._end_tokens = sorted(set(end_tokens))
        self._lock = threading.Lock()
        self._words: LLTokenizer | None = None
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()

    def open(self, grammar: Grammar) -> Matcher:
        """A matcher at the beginning of a text. Raises InputError if the grammar cannot be enforced."""
        with self._lock:
            ready = self._compiled.get(grammar)
            if ready is None:
                ready = self._compile(grammar)
                self._compiled[grammar] = ready
                if len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(grammar)
            return Matcher(ready.deep_copy())

    def _compile(self, grammar: Grammar) -> LLMatcher:
        if self._words is None:
            if not self._end_tokens:
                raise InputError(
                    "a grammar needs a token that ends the text, and neither the tokenizer nor the model names one; "
                    "add eos_token_id to generation_config.json"
                )
            words = self._tokenizer.vocabulary_size
            self._words = LLTokenizer(
                self._tokenizer.backend.to_str(),
                n_vocab=max(words, self._vocabulary),
                eos_token=self._end_tokens,
            )
        try:
            match grammar.kind:
                case "json_schema":
                    text = LLMatcher.grammar_from_json_schema(grammar.text)
                case "regex":
                    text = LLMatcher.grammar_from_regex(grammar.text)
                case "lark":
                    text = LLMatcher.grammar_from_lark(grammar.text)
        except ValueError as error:
            raise InputError(f"the {grammar.kind} grammar cannot be read: {error}") from None
        matcher = LLMatcher(self._words, text, log_level=0)
        if matcher.is_error():
            raise InputError(f"the {grammar.kind} grammar cannot be enforced: {matcher.get_error().strip()}")
        return matcher


class Matcher:
    """Where one text is in its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def error(self) -> str:
        """Why there is no way on (limits on a grammar's size, in the main); empty if there is."""
        return self._matcher.get_error().strip() if self._matcher.is_error() else ""

    def take(self, token: int) -> bool:
        """The text goes on with a token. True if nothing may follow it: the text is one of the grammar's, or see `error`."""
        return not self._matcher.consume_token(token) or bool(self._matcher.is_stopped())

    def allowed_prefix(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, in order, may follow."""
        return self._matcher.validate_tokens(list(tokens)) if tokens else 0

    def masks(self, drafts: Sequence[int]) -> list[bytes]:
        """After none, one, two ... of these tokens: a bit for each token, the lowest first, whether it may come next.

        Drafts must be allowed.
        """
        masks = [self._matcher.compute_bitmask()]
        for draft in drafts:
            self._matcher.consume_token(draft)
            masks.append(self._matcher.compute_bitmask())
        if drafts:
            self._matcher.rollback(len(drafts))
        return masks
