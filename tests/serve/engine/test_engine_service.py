"""What an engine does when too much, too little or the wrong thing happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from engine_fakes import (  # type: ignore[import-not-found]
    END,
    FakeExecutor,
    SteppedExecutor,
    ask,
    engine_on,
    greedy,
    prompt,
    run,
    tokenizer,
    whole,
)

from openwafer.base import ContextLengthError, EngineError, InputError, QueueFullError
from openwafer.serve.engine import Engine, Grammar, Limits

NO_END = {END: -100.0}


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something that another thread does is done."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.001)


def test_a_full_queue_refuses_with_its_length_and_when_to_come_again() -> None:
    """Waiting is bounded, so that the time to the first token is; what runs takes no place in the queue."""
    executor = SteppedExecutor()
    engine = engine_on(executor, waiting=3, running=1)
    answers = [engine.submit(ask(prompt(5), most=3))]
    eventually(lambda: engine.statistics().running == 1)
    answers += [engine.submit(ask(prompt(5, seed=i), most=3)) for i in range(3)]

    with pytest.raises(QueueFullError, match="3 requests wait, and there are 3 places") as refusal:
        engine.submit(ask(prompt(5)))
    executor.go_on()
    found = [whole(answer)[0] for answer in answers]
    engine.stop()

    assert refusal.value.retry_after_s >= 1
    assert [list(p.tokens) for p in found] == [
        greedy(prompt(5), 3),
        *(greedy(prompt(5, i), 3) for i in range(3)),
    ]
    assert engine.statistics().refused_total == 1
    assert engine.statistics().requests_total == 4


def test_what_can_never_fit_is_refused_at_once() -> None:
    """By the model's length or by the cache's, whichever is less; the text names all lengths."""
    small, short = engine_on(FakeExecutor(blocks=2)), engine_on(FakeExecutor(context_tokens=100))

    with pytest.raises(ContextLengthError, match=r"250 tokens and the answer may have 7, together 257.*256"):
        small.submit(ask(prompt(250), most=7))
    with pytest.raises(ContextLengthError, match="100"):
        short.submit(ask(prompt(100), most=None))
    fits = run(small, ask(prompt(250), most=None, logit_bias=NO_END))
    small.stop()
    short.stop()

    assert (fits.finish, len(fits.tokens)) == ("length", 6)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (ask(()), "needs a prompt"),
        (ask(prompt(3), n=0), "n=0"),
        (ask((1, 258)), "prompt: 258 is no token"),
        (ask((1,), logit_bias={-1: 1.0}), "logit_bias: -1 is no token"),
    ],
)
def test_requests_that_make_no_sense_are_refused(request_, text: str) -> None:  # type: ignore[no-untyped-def]
    """Before they reach the engine's thread, where they would fail others."""
    engine = engine_on(FakeExecutor())

    with pytest.raises(InputError, match=text):
        engine.submit(request_)
    engine.stop()


def test_tiers_go_strictly_before_each_other() -> None:
    """What came first in a lower tier waits until no higher one does."""
    executor = SteppedExecutor()
    engine = engine_on(executor, running=1)
    ended: list[str] = []
    first = engine.submit(ask(prompt(5), most=2, tier="priority"))
    eventually(lambda: engine.statistics().running == 1)

    def follow(tier: str) -> threading.Thread:
        answer = engine.submit(ask(prompt(5), most=2, tier=tier, logit_bias=NO_END))
        thread = threading.Thread(target=lambda: (whole(answer), ended.append(tier)))
        thread.start()
        return thread

    threads = [follow(tier) for tier in ("flex", "default", "priority")]
    for i in range(3):
        executor.step(2)
        eventually(lambda i=i: len(ended) == i)  # type: ignore[misc]
    executor.go_on()
    whole(first)
    for thread in threads:
        thread.join()
    engine.stop()

    assert ended == ["priority", "default", "flex"]


def test_a_priority_request_takes_the_place_of_a_flexible_one() -> None:
    """Which begins again afterwards, and gives the same answer."""
    executor = SteppedExecutor()
    engine = engine_on(executor, running=1)
    flexible = engine.submit(ask(prompt(5), most=20, tier="flex", logit_bias=NO_END))
    executor.step(5)
    urgent = engine.submit(ask(prompt(6), most=5, tier="priority", logit_bias=NO_END))
    executor.go_on()

    found = [whole(urgent)[0], whole(flexible)[0]]
    statistics = engine.statistics()
    engine.stop()

    assert list(found[0].tokens) == greedy(prompt(6), 5, end=-1)
    assert len(found[1].tokens) == 20
    assert statistics.preemptions_total == 1


def test_cancelling_frees_blocks_before_the_next_batch() -> None:
    """Running or waiting; the other answers do not notice."""
    executor = SteppedExecutor()
    engine = engine_on(executor, running=2)
    keep, drop, wait = (engine.submit(ask(prompt(300, seed=i), most=30, logit_bias=NO_END)) for i in range(3))
    executor.step(3)
    eventually(lambda: engine.statistics().blocks_used == 6)

    wait.cancel()
    drop.cancel()
    drop.cancel()
    executor.step(1)
    eventually(lambda: engine.statistics().blocks_used == 3)
    executor.go_on()
    found = [whole(answer)[0] for answer in (keep, drop, wait)]
    keep.cancel()
    engine.stop()

    assert [p.finish for p in found] == ["length", "cancelled", "cancelled"]
    assert list(found[0].tokens) == greedy(prompt(300), 30, end=-1)
    assert engine.statistics().cancelled_total == 2
    assert engine.statistics().blocks_used == 0


def test_a_failed_executor_ends_what_ran_and_nothing_that_waits() -> None:
    """Its cache is gone, so answers under way cannot go on as they were; the others have lost nothing."""
    executors = [FakeExecutor(fail_after=6)]

    def reopen() -> FakeExecutor:
        executors.append(FakeExecutor())
        return executors[-1]

    engine = Engine(executors[0], tokenizer(), reopen=reopen, limits=Limits(running=2))
    answers = [engine.submit(ask(prompt(9, seed=i), most=10, n=2, logit_bias=NO_END)) for i in range(5)]

    found = [whole(answer) for answer in answers]
    statistics = engine.statistics()
    engine.stop()

    failed = [f for f in found if f[0].finish == "error"]
    assert failed == found[: len(failed)] != []
    assert all("a stage was killed" in choice.error for f in failed for choice in f.values())
    for i, answer in list(enumerate(found))[len(failed) :]:
        assert list(answer[0].tokens) == list(answer[1].tokens) == greedy(prompt(9, seed=i), 10, end=-1)
    assert statistics.restarts_total == 1
    assert [e.closed for e in executors] == [True, True]


@pytest.mark.parametrize("reopen", [None, "raises", "fails again"])
def test_an_executor_that_cannot_be_replaced_ends_everything(reopen: str | None) -> None:
    """Every request that was taken ends with the reason, and no more are taken."""

    def again() -> FakeExecutor:
        if reopen == "raises":
            raise EngineError("no memory")
        return FakeExecutor(fail_after=0)

    executor = SteppedExecutor(fail_after=2)
    engine = Engine(executor, tokenizer(), reopen=again if reopen else None, limits=Limits(running=1))
    answers = [engine.submit(ask(prompt(9, seed=i), most=10, logit_bias=NO_END)) for i in range(6)]
    with_grammar = engine.submit(ask(prompt(9), grammar=Grammar("regex", "[a-z]{40}")))
    executor.go_on()

    found = [whole(answer)[0] for answer in [*answers, with_grammar]]
    with pytest.raises(EngineError, match="executor failed"):
        engine.submit(ask(prompt(9)))
    engine.stop()

    assert {p.finish for p in found} == {"error"}
    assert all("a stage was killed" in p.error for p in found)


def test_stopping_lets_answers_end_and_takes_no_more() -> None:
    """What came before the stop is answered, waiting requests too."""
    engine = engine_on(FakeExecutor(), running=2)
    answers = [engine.submit(ask(prompt(40, seed=i), most=20)) for i in range(10)]

    engine.stop(drain_s=60)

    assert [list(whole(a)[0].tokens) for a in answers] == [greedy(prompt(40, i), 20) for i in range(10)]
    with pytest.raises(EngineError, match="stopping"):
        engine.submit(ask(prompt(4)))


def test_stopping_cancels_what_has_not_ended_in_time() -> None:
    """Running, waiting and not yet compiled: each gets its last piece."""
    executor = SteppedExecutor()
    engine = engine_on(executor, running=1)
    grammar = Grammar("regex", "(a|b)*")
    answers = [engine.submit(ask(prompt(40), most=20, grammar=g)) for g in (None, None, grammar)]
    stopper = threading.Thread(target=engine.stop)
    stopper.start()
    executor.go_on()

    found = [whole(answer)[0] for answer in answers]
    stopper.join()

    assert {p.finish for p in found} == {"cancelled"}
    assert engine.statistics().blocks_used == 0
    assert executor.closed


def test_logits_without_a_largest_number_end_one_answer_only() -> None:
    """A NaN is the model's fault, and told as such; it must not become a token."""

    class Broken(FakeExecutor):
        def collect(self):  # type: ignore[no-untyped-def]
            logits = super().collect()
            if len(self.batches) > 3:
                logits[0] = float("nan")
            return logits

    engine = engine_on(Broken())
    first = engine.submit(ask(prompt(4), most=10, logit_bias=NO_END))
    found = whole(first)[0]
    engine.stop()

    assert found.finish == "error"
    assert "NaN" in found.error
    assert list(found.tokens) == greedy(prompt(4), 3, end=-1)


def test_a_client_with_many_requests_does_not_hold_up_another() -> None:
    """Forty requests of one client wait when the other's two come: they are answered after a turn, not after forty."""
    engine = engine_on(executor := SteppedExecutor(), running=1, fair_tokens=64)
    first = engine.submit(ask(prompt(5), most=5), client="greedy")
    eventually(lambda: engine.statistics().running == 1)
    many = [engine.submit(ask(prompt(30, seed=i), most=30), client="greedy") for i in range(40)]
    few = [engine.submit(ask(prompt(30, seed=i), most=30), client="modest") for i in range(2)]
    executor.go_on()

    for answer in few:
        whole(answer)
    left = engine.statistics().waiting
    for answer in [first, *many]:
        whole(answer)
    engine.stop()

    assert left > 20


def test_a_prompt_begins_within_a_number_of_batches_that_the_queue_bounds() -> None:
    """What was taken waits for no more than what was before it in the queue and beside it, however much was refused."""
    running, waiting, most = 4, 12, 20
    executor = SteppedExecutor()
    engine = engine_on(executor, running=running, waiting=waiting)
    answers, came, refused = [], {}, 0
    for i in range(120):
        tokens = (i, *prompt(30 + 9 * i % 200, seed=i))
        try:
            answers.append(engine.submit(ask(tokens, most=most, logit_bias=NO_END)))
            came[i] = len(executor.batches)
        except QueueFullError:
            refused += 1
        if i % 2:
            executor.step()
    executor.go_on()
    found = [whole(answer)[0] for answer in answers]
    engine.stop()

    begun = {
        token: number
        for number, batch in reversed([*enumerate(executor.batches)])
        for token, position in zip(batch.tokens_T.tolist(), batch.positions_T.tolist(), strict=True)
        if position == 0
    }
    assert refused > 20
    assert all(len(piece.tokens) == most for piece in found)
    # A place is given on after a prompt of two chunks at most, and `most` tokens.
    assert max(begun[i] - came[i] for i in came) <= (waiting // running + 1) * (most + 2)
    assert max(begun[i] - came[i] for i in came) > most
