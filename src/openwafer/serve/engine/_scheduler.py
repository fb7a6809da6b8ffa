"""What runs in the next batch, and who gives up blocks when there are none left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from openwafer.serve.engine._blocks import BlockManager, blocks_for
from openwafer.serve.engine._limits import Limits
from openwafer.serve.engine._queue import FairQueue
from openwafer.serve.engine._sequence import Sequence
from openwafer.serve.executors import BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence's part of a batch: `count` tokens after those computed, then drafts to verify."""

    sequence: Sequence
    count: int
    complete: bool
    """After it the next token can be chosen."""
    drafts: tuple[int, ...] = ()


@final
class Scheduler:
    """Continuous batching: answers go on in every batch, prompts fill it up in chunks, the queue refills what ended.

    A sequence has blocks for its whole prompt before it begins; its answer takes more as it grows. If none is left,
    whoever is last in rank gives up all of its blocks and begins again later, from its prompt and its answer so far. The
    first in rank can thus always go on, so every sequence comes to its end.
    """

    def __init__(self, blocks: BlockManager, limits: Limits, in_flight: int) -> None:
        """in_flight: batches that are under way at the same time, among which what runs is dealt out."""
        self.blocks = blocks
        self.queue = FairQueue(limits.fair_tokens)
        self.running: list[Sequence] = []
        """In order of rank."""
        self.preemptions = 0
        self._limits = limits
        self._in_flight = in_flight

    def plan(self) -> list[Work]:
        """The next batch; empty if nothing can run now. Its sequences fly until `land`."""
        # A higher tier takes a lower one's place before that goes on, because what flies cannot be preempted.
        while self._urgent and self._admit() is not None:
            pass
        works: list[Work] = []
        share = -(-len(self.running) // self._in_flight) if self._in_flight > 1 else len(self.running)
        answering = [s for s in self.running if not s.flying and len(s.tokens) - s.computed == 1]
        for sequence in answering:
            if len(works) == max(1, share) or len(works) == self._limits.batch_outputs:
                break
            if sequence.admitted and self._grow(sequence):
                sequence.flying = True
                works.append(Work(sequence, 1, True))
        self._add_drafts(works)
        self._add_prompts(works)
        return works

    @property
    def _urgent(self) -> bool:
        first = self.queue.peek()
        return first is not None and bool(self.running) and first.group.tier < self.running[-1].group.tier

    def land(self, work: Work, accepted: int) -> None:
        """The batch with this work was collected: so many of its drafts became tokens."""
        sequence = work.sequence
        sequence.flying = False
        before = sequence.computed
        sequence.computed = min(before + work.count + accepted, len(sequence.tokens))
        full = sequence.computed // BLOCK_TOKENS
        if full > before // BLOCK_TOKENS:
            for block, name in zip(sequence.table, sequence.digests(full), strict=False):
                self.blocks.keep(block, name)

    def remove(self, sequence: Sequence) -> None:
        """It ended, whether it runs, waits, or has not come yet. It must not fly."""
        assert not sequence.flying
        if sequence.admitted:
            self._vacate(sequence)
            self.running.remove(sequence)
        elif sequence.queued:
            self.queue.remove(sequence)
        group = sequence.group
        if not any(s.group.client == group.client and s.group.tier == group.tier for s in self.running):
            self.queue.forget(group.tier, group.client)

    def preempt(self, sequence: Sequence) -> None:
        """Take a running sequence's blocks. It waits before all others of its tier, and computes its tokens again."""
        assert not sequence.flying
        self._vacate(sequence)
        self.running.remove(sequence)
        self.queue.push_first(sequence)
        self.preemptions += 1

    def _vacate(self, sequence: Sequence) -> None:
        self.blocks.release(sequence.table)
        sequence.table = []
        sequence.computed = 0
        sequence.admitted = False

    def _grow(self, sequence: Sequence, tokens: int = 1) -> bool:
        """Have blocks for more tokens, at the cost of whoever is last in rank; False if that is not to be had now."""
        while len(sequence.table) < blocks_for(sequence.computed + tokens):
            if self.blocks.available:
                sequence.table.append(self.blocks.take())
            elif not self._preempt_after(sequence.rank):
                return False
        return True

    def _preempt_after(self, rank: tuple[int, int, int]) -> bool:
        for victim in reversed(self.running):
            if victim.rank <= rank:
                break
            if not victim.flying:
                self.preempt(victim)
                return True
        return False

    def _add_drafts(self, works: list[Work]) -> None:
        tokens = len(works)
        most = min(self._limits.verified_tokens, self._limits.batch_outputs)
        for index, work in enumerate(works):
            if work.sequence.draft is None or tokens >= most:
                continue
            sequence = work.sequence
            drafts = sequence.proposal(min(self._limits.draft_tokens, most - tokens))
            # Nobody is preempted for a guess.
            lacking = blocks_for(sequence.computed + 1 + len(drafts)) - len(sequence.table)
            for _ in range(min(lacking, self.blocks.available)):
                sequence.table.append(self.blocks.take())
            drafts = drafts[: len(sequence.table) * BLOCK_TOKENS - sequence.computed - 1]
            tokens += len(drafts)
            works[index] = Work(sequence, 1, True, tuple(drafts))

    def _add_prompts(self, works: list[Work]) -> None:
        used = sum(1 + len(work.drafts) for work in works)
        outputs = used
        room = self._limits.batch_tokens - used
        if works or self._in_flight > 1:
            room = min(room, self._limits.chunk_tokens)
        for sequence in [s for s in self.running if not s.flying and len(s.tokens) - s.computed > 1]:
            if not sequence.admitted:
                continue
            count, wanted = self._chunk(sequence, room, self._limits.batch_outputs - outputs)
            if count:
                room, outputs = room - count, outputs + wanted
                works.append(_prompt_work(sequence, count))
        while room > 0 and outputs < self._limits.batch_outputs and (admitted := self._admit()) is not None:
            count, wanted = self._chunk(admitted, room, self._limits.batch_outputs - outputs)
            room, outputs = room - count, outputs + wanted
            works.append(_prompt_work(admitted, count))

    def _chunk(self, sequence: Sequence, room: int, outputs: int) -> tuple[int, int]:
        """Tokens of a prompt that go into this batch, and how many of them have logits."""
        count = min(len(sequence.tokens) - sequence.computed, room)
        if outputs <= 0:
            return 0, 0
        first = sequence.computed
        if sequence.group.request.echo and sequence.echoed < sequence.prompt_tokens:
            # Every token from the last echoed one on has logits.
            unwanted = max(0, sequence.echoed - 1 - first)
            count = min(count, unwanted + outputs)
            return count, max(0, count - unwanted)
        return count, int(first + count == len(sequence.tokens))

    def _admit(self) -> Sequence | None:
        """The next of the queue, with blocks for all of its tokens; None if it has to wait."""
        sequence = self.queue.peek()
        if sequence is None:
            return None
        behind = (sequence.group.tier + 1, -1, -1)
        while len(self.running) >= self._limits.running:
            if not self._preempt_after(behind):
                return None
        # What runs should be able to grow a little before somebody has to leave again.
        spare = self.blocks.total // 100 if self.running else 0
        while True:
            shared = self.blocks.find(sequence.digests(sequence.shareable))
            own = blocks_for(len(sequence.tokens)) - len(shared)
            if self.blocks.needed(shared, own) + spare <= self.blocks.available:
                break
            if not self._preempt_after(behind):
                return None
        taken = self.queue.pop()
        assert taken is sequence
        self.blocks.share(shared)
        sequence.table = [*shared, *(self.blocks.take() for _ in range(own))]
        sequence.computed = len(shared) * BLOCK_TOKENS
        sequence.admitted = True
        self.running.append(sequence)
        self.running.sort(key=lambda s: s.rank)
        if sequence.group.admitted is None:
            sequence.group.cached_tokens = sequence.computed
        sequence.begin()
        return sequence


def _prompt_work(sequence: Sequence, count: int) -> Work:
    sequence.flying = True
    return Work(sequence, count, sequence.computed + count == len(sequence.tokens))
