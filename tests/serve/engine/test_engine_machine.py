"""Random lives of a scheduler: requests, batches in any order of landing, cancellations, preemptions, few blocks."""

from __future__ import annotations

from collections import deque

from engine_fakes import (  # type: ignore[import-not-found]
    END,
    VOCABULARY,
    FakeExecutor,
    ask,
    greedy,
    prompt,
    tokenizer,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from openwafer.serve.engine import (
    BlockManager,
    Flight,
    Group,
    Limits,
    ModelRunner,
    Piece,
    Scheduler,
    Sequence,
)

_WORDS = [prompt(420, seed=i) for i in range(3)]


class Life(RuleBasedStateMachine):
    """Blocks never leak, nobody writes what another reads (the executor sees to it), and every sequence ends rightly."""

    @initialize(
        blocks=st.integers(4, 12),
        in_flight=st.integers(1, 3),
        running=st.integers(1, 6),
        batch=st.integers(640, 1000),
        chunk=st.integers(128, 400),
    )
    def begin(self, blocks: int, in_flight: int, running: int, batch: int, chunk: int) -> None:
        self.executor = FakeExecutor(blocks, in_flight)
        limits = Limits(running=running, batch_tokens=batch, chunk_tokens=chunk, fair_tokens=100)
        self.scheduler = Scheduler(BlockManager(blocks), limits, in_flight)
        self.runner = ModelRunner(VOCABULARY)
        self.flights: deque[Flight] = deque()
        self.alive: list[Sequence] = []
        self.pieces: dict[Sequence, list[Piece]] = {}
        self.orders = 0

    @rule(
        word=st.integers(0, 2),
        length=st.one_of(st.integers(1, 400), st.sampled_from([127, 128, 129, 256])),
        most=st.integers(1, 100),
        tier=st.sampled_from(["priority", "default", "flex"]),
        client=st.sampled_from("abc"),
        predicted=st.integers(0, 30),
        echo=st.booleans(),
    )
    def submit(
        self, word: int, length: int, most: int, tier: str, client: str, predicted: int, echo: bool
    ) -> None:
        start = _WORDS[word][:length]
        prediction = (*greedy(start, predicted), 5, 6, 7) if predicted else ()
        request = ask(start, most=most, tier=tier, prediction=prediction, echo=echo, logprobs=0)
        group = Group(request, client, self.orders, most, lambda piece: None)
        self.orders += 1
        sequence = Sequence(group, 0, tokenizer(), frozenset({END}), None)
        self.alive.append(sequence)
        self.pieces[sequence] = []
        self.scheduler.queue.push(sequence)

    @precondition(lambda self: len(self.flights) < self.executor.in_flight)
    @rule()
    def send(self) -> None:
        works = self.scheduler.plan()
        assert works or self.flights or not self.alive, "sequences wait and no batch can be made"
        if works:
            self.flights.append(self.runner.prepare(works))
            self.executor.submit(self.flights[-1].batch)

    @precondition(lambda self: self.flights)
    @rule()
    def land(self) -> None:
        flight = self.flights.popleft()
        accepted = self.runner.finish(flight, self.executor.collect())
        for work, count in zip(flight.works, accepted, strict=True):
            self.scheduler.land(work, count)
            sequence = work.sequence
            if sequence.group.cancelled and sequence.finish is None:
                sequence.finish = "cancelled"
            self.tell(sequence)

    @rule(times=st.integers(1, 40))
    def go_on(self, times: int) -> None:
        for _ in range(times):
            while len(self.flights) < self.executor.in_flight:
                before = len(self.flights)
                self.send()
                if len(self.flights) == before:
                    break
            if self.flights:
                self.land()

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.alive))
        sequence.group.cancelled = True
        if not sequence.flying:
            sequence.finish = "cancelled"
            self.tell(sequence)

    @precondition(lambda self: any(not s.flying for s in self.scheduler.running))
    @rule(data=st.data())
    def preempt(self, data: st.DataObject) -> None:
        self.scheduler.preempt(
            data.draw(st.sampled_from([s for s in self.scheduler.running if not s.flying]))
        )

    def tell(self, sequence: Sequence) -> None:
        piece = sequence.piece()
        if piece is None:
            return
        self.pieces[sequence].append(piece)
        if piece.finish is None:
            return
        self.scheduler.remove(sequence)
        self.alive.remove(sequence)
        request = sequence.group.request
        tokens = [token for p in self.pieces[sequence] for token in p.tokens]
        expected = greedy(request.prompt, request.max_tokens)
        if piece.finish == "cancelled":
            assert tokens == expected[: len(tokens)]
        else:
            assert tokens == expected
            known = [p.token for piece in self.pieces[sequence] for p in piece.logprobs]
            assert known == [*request.prompt[1:], *tokens] if request.echo else known == tokens

    @invariant()
    def references_are_those_of_running_sequences(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        self.scheduler.blocks.check(s.table for s in self.scheduler.running)
        assert all(s.admitted != s.queued for s in self.alive)
        assert set(self.scheduler.running) | set(self.scheduler.queue) == set(self.alive)
        assert [s.rank for s in self.scheduler.running] == sorted(s.rank for s in self.scheduler.running)

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for _ in range(20_000):
            if not self.alive:
                break
            self.go_on(1)
        assert not self.alive, "a sequence never ended"
        while self.flights:
            self.land()
        self.scheduler.blocks.check([])


Life.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestLife = Life.TestCase
