"""What runs in the next batch, and who gives up blocks when there are none left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from openwafer.serve.engine._blocks import BlockManager, blocks_for
from openwafer.serve.engine._limits import Limits
from openwafer.serve.engine._queue import FairQueue
from openwafer.serve.engine._sequence import Group, Sequence
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

    What a batch has of a prompt ends with a block or with the prompt, and an answer goes on, or is computed again, by few
    tokens at a time, so that how a token is computed depends on its own place alone (`model.Step`).
    """

    def __init__(self, blocks: BlockManager, limits: Limits, in_flight: int) -> None:
        """in_flight: batches that are under way at the same time, among which what runs is dealt out."""
        self.blocks = blocks
        self.queue = FairQueue(limits.fair_tokens)
        self.running: list[Sequence] = []
        """In order of rank."""
        self.begun: list[Group] = []
        """Requests whose first choice was taken from the queue; whoever counts them takes them out."""
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
            if len(works) == max(1, share) or len(works) == self._limits.batch_answers:
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
        for i in range(before // BLOCK_TOKENS, full):
            self.blocks.keep(sequence.table[i], sequence.digests(full)[i], answered=i >= sequence.alike)

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
        sequence.returned = True
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
        most = min(self._limits.verified_tokens, self._limits.batch_answers)
        for index, work in enumerate(works):
            if work.sequence.draft is None or tokens >= most:
                continue
            sequence = work.sequence
            drafts = sequence.proposal(min(self._limits.answer_tokens - 1, most - tokens))
            # Nobody is preempted for a guess.
            lacking = blocks_for(sequence.computed + 1 + len(drafts)) - len(sequence.table)
            for _ in range(min(lacking, self.blocks.available)):
                sequence.table.append(self.blocks.take())
            drafts = drafts[: len(sequence.table) * BLOCK_TOKENS - sequence.computed - 1]
            tokens += len(drafts)
            works[index] = Work(sequence, 1, True, tuple(drafts))

    def _add_prompts(self, works: list[Work]) -> None:
        outputs = sum(1 + len(work.drafts) for work in works)
        room = self._limits.batch_tokens - outputs
        outputs = self._limits.batch_outputs - outputs
        if works or self._in_flight > 1:
            room = min(room, self._limits.chunk_tokens)
        under_way: set[bytes] = set()
        waiting = [s for s in self.running if s.flying or len(s.tokens) - s.computed > 1]
        while room > 0 and outputs > 0:
            sequence = waiting.pop(0) if waiting else self._admit() if room >= BLOCK_TOKENS else None
            if sequence is None:
                break
            if not sequence.flying and sequence.admitted and not self._leave_to_others(sequence, under_way):
                end, wanted = self._chunk(sequence, room, outputs)
                count = end - sequence.computed
                if count:
                    room, outputs = room - count, outputs - wanted
                    sequence.flying = True
                    works.append(Work(sequence, count, end == len(sequence.tokens)))
            if sequence.in_prompt:
                names = sequence.digests(sequence.prompt_tokens // BLOCK_TOKENS)
                under_way.update(names[sequence.computed // BLOCK_TOKENS : sequence.alike])

    def _leave_to_others(self, sequence: Sequence, under_way: set[bytes]) -> bool:
        """Take over what others computed since it began; whether one before it is at its next block just now."""
        done, partly = divmod(sequence.computed, BLOCK_TOKENS)
        ahead = [] if partly else sequence.digests(sequence.shareable)[done:]
        found = self.blocks.find(ahead, not sequence.group.repeatable)
        if found:
            self.blocks.share(found)
            self.blocks.release(sequence.table[done : done + len(found)])
            sequence.table[done : done + len(found)] = found
            self._skip(sequence, found)
        return sequence.in_prompt and len(found) < len(ahead) and ahead[len(found)] in under_way

    def _skip(self, sequence: Sequence, found: list[int]) -> None:
        """The next blocks of a sequence need not be computed."""
        alike = sequence.computed // BLOCK_TOKENS + self.blocks.prompts(found)
        sequence.computed += len(found) * BLOCK_TOKENS
        if alike < sequence.computed // BLOCK_TOKENS:
            sequence.alike = min(sequence.alike, alike)
        if sequence.choice == 0 and not sequence.returned:
            sequence.group.cached_tokens += len(found) * BLOCK_TOKENS

    def _chunk(self, sequence: Sequence, room: int, outputs: int) -> tuple[int, int]:
        """Where a sequence's part of this batch ends, and how many of its tokens have logits."""
        first, last = sequence.computed, len(sequence.tokens)
        wanted = sequence.echoed - 1 if sequence.echoing else last - 1
        end = min(last, first + room, max(first, wanted) + outputs)
        if not sequence.in_prompt:
            end = min(end, first + self._limits.answer_tokens)
        elif end >= sequence.prompt_tokens:
            end = sequence.prompt_tokens
        else:
            end -= end % BLOCK_TOKENS
        return max(first, end), max(0, end - max(first, wanted))

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
            shared = self.blocks.find(sequence.digests(sequence.shareable), not sequence.group.repeatable)
            own = blocks_for(len(sequence.tokens)) - len(shared)
            if self.blocks.needed(shared, own) + spare <= self.blocks.available:
                break
            if not self._preempt_after(behind):
                return None
        taken = self.queue.pop()
        assert taken is sequence
        self.blocks.share(shared)
        sequence.table = [*shared, *(self.blocks.take() for _ in range(own))]
        sequence.alike = sequence.prompt_tokens // BLOCK_TOKENS
        self._skip(sequence, shared)
        sequence.admitted = True
        self.running.append(sequence)
        self.running.sort(key=lambda s: s.rank)
        if sequence.group.admitted is None:
            self.begun.append(sequence.group)
        sequence.begin()
        return sequence
