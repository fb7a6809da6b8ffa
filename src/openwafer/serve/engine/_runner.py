"""Planned work to a batch, and the batch's logits to tokens.

T new tokens, S sequences, B blocks of the longest, R rows of logits, V tokens of the vocabulary.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import accumulate
from typing import final

import numpy as np
import torch

from openwafer.base import EngineError
from openwafer.serve.engine._choice import choose_token
from openwafer.serve.engine._grammar import Mask
from openwafer.serve.engine._probabilities import probability
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
    masks: tuple[Future[list[Mask]] | None, ...]
    """For each work what its grammar allows in each of its rows, found out while the batch is computed."""

    def drop(self) -> None:
        """It will not be collected: return when nothing works on its sequences any more."""
        wait([masks for masks in self.masks if masks is not None])


@final
class ModelRunner:
    """Makes batches, and chooses tokens as each request wants them chosen. Holds nothing between batches."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._scratch_V = np.empty(vocabulary + -vocabulary % 8, dtype=np.float32)
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
        masks = tuple(
            None
            if work.sequence.matcher is None or not work.complete
            else self._masks.submit(work.sequence.matcher.masks, work.drafts)
            for work in works
        )
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
        rows_RV: Floats = logits_RV.contiguous().numpy()
        for sequence, first, end in flight.echoes:
            self._echo(sequence, rows_RV[first:end])
        accepted = []
        for work, first, masks in zip(flight.works, flight.rows, flight.masks, strict=True):
            rows = rows_RV[first : first + 1 + len(work.drafts)] if work.complete else rows_RV[:0]
            accepted.append(self._continue(work, rows, masks.result() if masks is not None else None))
        return accepted

    def _echo(self, sequence: Sequence, rows_RV: Floats) -> None:
        top = sequence.group.request.logprobs or 0
        following = sequence.tokens[sequence.echoed : sequence.echoed + len(rows_RV)]
        sequence.echo(
            [
                probability(row_V, token, top, self._scratch_V)
                for row_V, token in zip(rows_RV, following, strict=True)
            ]
        )

    def _continue(self, work: Work, rows_RV: Floats, masks: list[Mask] | None) -> int:
        """Tokens for a complete work: the next, and as long as it is the draft, the one after it."""
        sequence, accepted = work.sequence, 0
        for i, row_V in enumerate(rows_RV):
            if sequence.group.cancelled or sequence.finish is not None:
                break
            if sequence.room <= 0:  # only the prompt's probabilities were asked for
                sequence.finish = "length"
                break
            token, known = choose_token(
                sequence, row_V, masks[i] if masks is not None else None, self._scratch_V
            )
            if token < 0:
                sequence.finish = "error"
                sequence.error = "the model's logits have no largest number (NaN or infinite)"
                break
            sequence.append(token, known)
            if i == len(work.drafts) or token != work.drafts[i]:
                break
            accepted += 1
        sequence.accepted += accepted
        sequence.rejected += len(work.drafts) - accepted if work.complete else 0
        return accepted
