"""Who is next: tiers strictly before each other, clients within a tier in turns of equally many tokens."""

from __future__ import annotations

import bisect
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from typing import final

from openwafer.serve.engine._sequence import Sequence


@final
class FairQueue:
    """Sequences that wait. Deficit round robin: a client pays for its prompts when they begin, and for every token of
    its answers as it comes, so one with long answers waits longer for its next turn."""

    def __init__(self, turn_tokens: int) -> None:
        self._turn = turn_tokens
        self._returned: list[list[Sequence]] = [[], [], []]
        self._waiting: list[OrderedDict[str, deque[Sequence]]] = [OrderedDict() for _ in range(3)]
        self._credit: list[defaultdict[str, float]] = [defaultdict(float) for _ in range(3)]
        self._next: Sequence | None = None
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Sequence]:
        for tier in range(3):
            yield from self._returned[tier]
            for queue in self._waiting[tier].values():
                yield from queue

    @property
    def returned(self) -> int:
        """Sequences of requests that have begun."""
        return sum(map(len, self._returned))

    def push(self, sequence: Sequence) -> None:
        """To the end of its client's line."""
        sequence.queued = True
        group = sequence.group
        self._waiting[group.tier].setdefault(group.client, deque()).append(sequence)
        self._length += 1
        self._next = None

    def push_first(self, sequence: Sequence) -> None:
        """Before all of its tier that have not begun: it had its turn already."""
        sequence.queued = True
        bisect.insort(self._returned[sequence.group.tier], sequence, key=lambda s: s.rank)
        self._length += 1
        self._next = None

    def peek(self) -> Sequence | None:
        """The next one; the same until the queue changes."""
        if self._next is None:
            for tier in range(3):
                if self._returned[tier]:
                    self._next = self._returned[tier][0]
                    break
                if self._waiting[tier]:
                    self._next = self._waiting[tier][self._turn_of(tier)][0]
                    break
        return self._next

    def pop(self) -> Sequence:
        """Take the next one out, at its client's cost. There must be one."""
        sequence = self.peek()
        assert sequence is not None
        tier, client = sequence.group.tier, sequence.group.client
        if self._returned[tier]:
            self._returned[tier].pop(0)
        else:
            self._credit[tier][client] -= len(sequence.tokens)
            line = self._waiting[tier][client]
            line.popleft()
            if line:
                self._waiting[tier].move_to_end(client)
            else:
                self._drop_line(tier, client)
        self._length -= 1
        self._next = None
        sequence.queued = False
        return sequence

    def remove(self, sequence: Sequence) -> None:
        """It waits no longer. Raises ValueError if it did not."""
        tier, client = sequence.group.tier, sequence.group.client
        if sequence in self._returned[tier]:
            self._returned[tier].remove(sequence)
        else:
            line = self._waiting[tier].get(client, deque())
            line.remove(sequence)
            if not line:
                self._drop_line(tier, client)
        self._length -= 1
        self._next = None
        sequence.queued = False

    def charge(self, sequence: Sequence, tokens: int) -> None:
        """So many tokens of an answer came."""
        self._credit[sequence.group.tier][sequence.group.client] -= tokens

    def forget(self, tier: int, client: str) -> None:
        """Nothing of this client runs any more; if nothing waits either, it owes nothing when it comes again."""
        if client not in self._waiting[tier]:
            self._credit[tier].pop(client, None)

    def _turn_of(self, tier: int) -> str:
        """The client whose head can be paid for after the fewest turns; of equals the one that waits longest."""
        credit = self._credit[tier]
        turns = {
            client: max(0, -int((credit[client] - len(line[0].tokens)) // self._turn))
            for client, line in self._waiting[tier].items()
        }
        chosen = min(turns, key=turns.__getitem__)
        for client in turns:
            credit[client] += turns[chosen] * self._turn
        return chosen

    def _drop_line(self, tier: int, client: str) -> None:
        del self._waiting[tier][client]
        # A turn is not saved up for later.
        self._credit[tier][client] = min(0.0, self._credit[tier][client])
