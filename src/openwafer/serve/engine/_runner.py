"""Planned work to a batch, and the batch's logits to tokens.

T new tokens, S sequences, B blocks of the longest, R rows of logits, V tokens of the vocabulary.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import accumulate
from typing import final

import torch

from openwafer.base import EngineError
from openwafer.serve.engine._choice import Chooser, Row
from openwafer.serve.engine._request import TokenProbability
from openwafer.serve.engine._scheduler import Work
from openwafer.serve.engine._sequence import Sequence
from openwafer.serve.executors import Batch
from openwafer.serve.kernels import Floats


@dataclass(frozen=True, slots=True)
class Flight:
    """A batch and what it was made of."""

    works: tuple[Work, ...]
    batch: Batch
    echoes: tuple[tuple[Sequence, int, int], ...]
    """Sequences whose rows, from the first to before the last, give probabilities of their prompts."""
    rows: tuple[int, ...]
    """For each work the first row from which a token is chosen; the next rows are those after each of its drafts."""
    masks: Future[list[list[bytes] | None]] | None
    """For each work what its grammar, if it has one, allows in each of its rows; found out while the batch is computed."""

    def drop(self) -> None:
        """It will not be collected: return when nothing works on its sequences any more."""
        if self.masks is not None:
            wait([self.masks])


@final
class ModelRunner:
    """Makes batches, and chooses tokens as each request wants them chosen. Holds nothing between batches but memory."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._chooser = Chooser(vocabulary)
        self._masks = ThreadPoolExecutor(1, thread_name_prefix="masks")

    def close(self) -> None:
        """Let its thread go."""
        self._masks.shutdown()

    def prepare(self, works: list[Work]) -> Flight:
        """The batch of these works, in their order."""
        tokens: list[int] = []
        positions: list[int] = []
        outputs: list[int] = []
        echoes: list[tuple[Sequence, int, int]] = []
        rows: list[int] = []
        for work in works:
            sequence, first = work.sequence, work.sequence.computed
            end = first + work.count + len(work.drafts)
            # Token p has its logits in row p + shift.
            shift = len(tokens) - first
            tokens += sequence.tokens[first : first + work.count]
            tokens += work.drafts
            positions += range(first, end)
            if sequence.echoing:
                last = min(first + work.count, sequence.prompt_tokens - 1)
                wanted = range(max(first, sequence.echoed - 1), last)
                if wanted:
                    echoes.append((sequence, len(outputs), len(outputs) + len(wanted)))
                    outputs += [p + shift for p in wanted]
            rows.append(len(outputs))
            if work.complete:
                outputs += range(first + work.count - 1 + shift, end + shift)
        counts = [work.count + len(work.drafts) for work in works]
        width = max(len(work.sequence.table) for work in works)
        tables = [work.sequence.table + [-1] * (width - len(work.sequence.table)) for work in works]
        batch = Batch(
            tokens_T=torch.tensor(tokens, dtype=torch.int64),
            positions_T=torch.tensor(positions, dtype=torch.int64),
            starts=tuple(accumulate(counts, initial=0)),
            contexts=tuple(work.sequence.computed + count for work, count in zip(works, counts, strict=True)),
            tables_SB=torch.tensor(tables, dtype=torch.int32),
            outputs=tuple(outputs),
        )
        constrained = any(work.sequence.matcher is not None for work in works)
        masks = self._masks.submit(_masks, works) if constrained else None
        return Flight(tuple(works), batch, tuple(echoes), tuple(rows), masks)

    def finish(self, flight: Flight, logits_RV: torch.Tensor) -> list[int]:
        """Give every sequence its new tokens; one that ended or was cancelled gets none. The logits may be overwritten.

        Returns for each work how many of its drafts were accepted. Raises EngineError if the logits are not the batch's.
        """
        expected = (len(flight.batch.outputs), self._vocabulary)
        if tuple(logits_RV.shape) != expected:
            raise EngineError(
                f"the executor returned logits of shape {tuple(logits_RV.shape)} for a batch that wants {expected}; this is "
                "a fault of the executor"
            )
        rows_RV: Floats = logits_RV.float().contiguous().numpy()
        for sequence, first, end in flight.echoes:
            self._echo(sequence, rows_RV, range(first, end))
        masks = [None] * len(flight.works) if flight.masks is None else flight.masks.result()
        accepted = [0] * len(flight.works)
        # The next token of each at once; then, of those whose draft it was, the one after it, and so on.
        going, step = [i for i, work in enumerate(flight.works) if work.complete], 0
        while going := [i for i in going if _goes_on(flight.works[i].sequence)]:
            rows = [Row(flight.works[i].sequence, flight.rows[i] + step, _at(masks[i], step)) for i in going]
            chosen = self._chooser.choose(rows_RV, rows)
            going = [
                i
                for i, (token, known) in zip(going, chosen, strict=True)
                if _append(flight.works[i], step, token, known)
            ]
            for i in going:
                accepted[i] += 1
            step += 1
        for work, count in zip(flight.works, accepted, strict=True):
            work.sequence.accepted += count
            work.sequence.rejected += len(work.drafts) - count if work.complete else 0
        return accepted

    def _echo(self, sequence: Sequence, rows_RV: Floats, rows: range) -> None:
        following = sequence.tokens[sequence.echoed : sequence.echoed + len(rows)]
        top = sequence.group.request.logprobs or 0
        sequence.echo(self._chooser.told(rows_RV, rows, following, top))


def _masks(works: list[Work]) -> list[list[bytes] | None]:
    return [
        work.sequence.matcher.masks(work.drafts)
        if work.sequence.matcher is not None and work.complete
        else None
        for work in works
    ]


def _at(masks: list[bytes] | None, step: int) -> bytes | None:
    return None if masks is None else masks[step]


def _goes_on(sequence: Sequence) -> bool:
    """Whether it is to have one more token."""
    if sequence.group.cancelled or sequence.finish is not None:
        return False
    if sequence.room <= 0:  # only the prompt's probabilities were asked for
        sequence.finish = "length"
        return False
    return True


def _append(work: Work, step: int, token: int, known: TokenProbability | None) -> bool:
    """Give a sequence its token. Whether that is the draft at its place, so that the next row goes on from it."""
    if token < 0:
        work.sequence.finish = "error"
        work.sequence.error = "the model's logits have no largest number (NaN or infinite)"
        return False
    work.sequence.append(token, known)
    return step < len(work.drafts) and token == work.drafts[step]
