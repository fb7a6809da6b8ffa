"""Blocks of the KV cache: who refers to which, and which of the idle ones still hold a prefix worth finding.

A block that was filled as a part of a prompt has the same bits whoever computed it. One with tokens of an answer, or behind
such a one, was computed token by token, and differs from those in its last bits. So the two have different names.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import takewhile

from openwafer.serve.executors import BLOCK_TOKENS

_ANSWERED = b"answered"


class BlockManager:
    """Counts references to blocks. A block that nobody refers to is free, or idle if it holds a known prefix.

    Idle blocks are found by digest and used again; when no block is free the one that was idle longest is emptied.
    """

    def __init__(self, blocks: int) -> None:
        self.total = blocks
        self._references = [0] * blocks
        self._free = list(range(blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._block_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}

    @property
    def available(self) -> int:
        """Blocks that `take` can give."""
        return len(self._free) + len(self._idle)

    @property
    def idle(self) -> int:
        """Blocks that only hold a prefix for whoever asks for it next."""
        return len(self._idle)

    def find(self, digests: Iterable[bytes], answered: bool = False) -> list[int]:
        """The blocks of the longest known prefix. Nothing is taken yet: call `share` before anything else.

        answered: blocks with tokens of answers will do as well.
        """
        found = []
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None and answered:
                block = self._block_of.get(digest + _ANSWERED)
            if block is None:
                break
            found.append(block)
        return found

    def prompts(self, blocks: Iterable[int]) -> int:
        """How many of these known blocks, from the first on, were filled as parts of prompts."""
        return sum(1 for _ in takewhile(lambda b: not self._digest_of[b].endswith(_ANSWERED), blocks))

    def needed(self, shared: Sequence[int], count: int) -> int:
        """How many of the available blocks it takes to share these and take `count` more."""
        return count + sum(self._references[block] == 0 for block in shared)

    def share(self, blocks: Iterable[int]) -> None:
        """One more reference to each."""
        for block in blocks:
            self._references[block] += 1
            self._idle.pop(block, None)

    def take(self) -> int:
        """A block for one owner to write. There must be one available."""
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            del self._block_of[self._digest_of.pop(block)]
        assert self._references[block] == 0
        self._references[block] = 1
        return block

    def keep(self, block: int, digest: bytes, answered: bool = False) -> None:
        """The block is full and holds this prefix's end. If another does already, that one stays the known one."""
        assert self._references[block] > 0
        digest += _ANSWERED if answered else b""
        if digest not in self._block_of and block not in self._digest_of:
            self._block_of[digest] = block
            self._digest_of[block] = digest

    def release(self, table: Sequence[int]) -> None:
        """One reference fewer to each block of a sequence. Its last blocks will be emptied before its first."""
        for block in reversed(table):
            self._references[block] -= 1
            assert self._references[block] >= 0
            if self._references[block]:
                continue
            if block in self._digest_of:
                self._idle[block] = None
            else:
                self._free.append(block)

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Assert that these tables are all the references that there are."""
        counts = [0] * self.total
        for table in tables:
            assert len(set(table)) == len(table)
            for block in table:
                counts[block] += 1
        assert counts == self._references
        unused = {block for block, count in enumerate(counts) if count == 0}
        assert set(self._free) | set(self._idle) == unused
        assert len(self._free) + len(self._idle) == len(unused)
        assert {b: d for d, b in self._block_of.items()} == self._digest_of
        assert set(self._idle) <= set(self._digest_of)


def blocks_for(tokens: int) -> int:
    """Blocks that so many tokens take."""
    return -(-tokens // BLOCK_TOKENS)


def digest(before: bytes, tokens: Sequence[int]) -> bytes:
    """The name of a prefix that ends with a block of these tokens after the prefix named `before`.

    A cryptographic hash: nobody can make a prompt that finds another's blocks.
    """
    return hashlib.blake2b(before + array("I", tokens).tobytes(), digest_size=16).digest()
