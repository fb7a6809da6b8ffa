"""Planned work to a batch, and the batch's logits to tokens.

T new tokens, S sequences, B blocks of the longest, R rows of logits, V tokens of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from openwafer.base import EngineError
from openwafer.serve.engine._request import TokenProbability
from openwafer.serve.engine._sampling import choose, probabilities, uniform
from openwafer.serve.engine._scheduler import Work
from openwafer.serve.engine._sequence import Sequence
from openwafer.serve.executors import Batch


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of logits from which a token is chosen: after `drafted` of the work's drafts."""

    work: Work
    drafted: int

    @property
    def sequence(self) -> Sequence:
        return self.work.sequence


@dataclass(frozen=True, slots=True)
class Flight:
    """A batch and what it was made of."""

    works: tuple[Work, ...]
    batch: Batch
    echoes: tuple[tuple[Sequence, int, int], ...]
    """Sequences whose rows, from the first to before the last, give probabilities of their prompts."""
    rows: tuple[int, ...]
    """Rows from which tokens are chosen: for each complete work one more than it has drafts."""


@final
class ModelRunner:
    """Makes batches, and chooses tokens as each request wants them chosen. Holds nothing between batches."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def prepare(self, works: list[Work]) -> Flight:
        """The batch of these works, in their order."""
        tokens: list[int] = []
        positions: list[int] = []
        starts, contexts = [0], []
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
            starts.append(len(tokens))
            contexts.append(end)
            if sequence.group.request.echo and sequence.echoed < sequence.prompt_tokens:
                last = min(first + work.count, sequence.prompt_tokens - 1)
                wanted = range(max(first, sequence.echoed - 1), last)
                if wanted:
                    echoes.append((sequence, len(outputs), len(outputs) + len(wanted)))
                    outputs += [p + shift for p in wanted]
            if work.complete:
                wanted = range(first + work.count - 1, end)
                rows += range(len(outputs), len(outputs) + len(wanted))
                outputs += [p + shift for p in wanted]
        width = max(len(work.sequence.table) for work in works)
        tables = [work.sequence.table + [-1] * (width - len(work.sequence.table)) for work in works]
        batch = Batch(
            tokens_T=torch.tensor(tokens, dtype=torch.int64),
            positions_T=torch.tensor(positions, dtype=torch.int64),
            starts=tuple(starts),
            contexts=tuple(contexts),
            tables_SB=torch.tensor(tables, dtype=torch.int32),
            outputs=tuple(outputs),
        )
        return Flight(tuple(works), batch, tuple(echoes), tuple(rows))

    @torch.inference_mode()
    def finish(self, flight: Flight, logits_RV: torch.Tensor) -> list[int]:
        """Give every sequence its new tokens; one that ended or was cancelled gets none. The logits are overwritten.

        Returns for each work how many of its drafts were accepted. Raises EngineError if the logits are not the batch's.
        """
        expected = (len(flight.batch.outputs), self._vocabulary)
        if tuple(logits_RV.shape) != expected:
            raise EngineError(
                f"the executor returned logits of shape {tuple(logits_RV.shape)} for a batch that wants {expected}; this is "
                "a fault of the executor"
            )
        for sequence, first, end in flight.echoes:
            self._echo(sequence, logits_RV[first:end])
        complete = [work for work in flight.works if work.complete]
        if not complete:
            return [0] * len(flight.works)
        rows = [_Row(work, i) for work in complete for i in range(len(work.drafts) + 1)]
        chosen_RV = logits_RV if len(flight.rows) == len(logits_RV) else logits_RV[list(flight.rows)]
        told = [i for i, row in enumerate(rows) if row.sequence.group.request.logprobs is not None]
        # Probabilities are the model's: a copy, from before requests change theirs.
        told_RV = chosen_RV[told] if told else None
        self._adjust(complete, rows, chosen_RV)
        samplings = [row.sequence.group.request.sampling for row in rows]
        tokens = choose(
            chosen_RV,
            [s.temperature for s in samplings],
            [s.top_p for s in samplings],
            [_draw(row) if s.temperature > 0 else 0.0 for row, s in zip(rows, samplings, strict=True)],
        )
        known: dict[int, TokenProbability] = {}
        if told_RV is not None:
            tops = [min(rows[i].sequence.group.request.logprobs or 0, self._vocabulary) for i in told]
            known = dict(
                zip(told, probabilities(told_RV, [max(0, tokens[i]) for i in told], tops), strict=True)
            )
        return self._deal(flight.works, tokens, known)

    def _echo(self, sequence: Sequence, logits_RV: torch.Tensor) -> None:
        asked = sequence.group.request.logprobs or 0
        following = sequence.tokens[sequence.echoed : sequence.echoed + len(logits_RV)]
        tops = [min(asked, self._vocabulary)] * len(following)
        sequence.echo(probabilities(logits_RV, following, tops))

    def _adjust(self, works: list[Work], rows: list[_Row], logits_RV: torch.Tensor) -> None:
        """What requests change in their rows, in place: biases, penalties, the grammar, the end before its time."""
        refused: list[torch.Tensor | None] = []
        for work in works:
            matcher = work.sequence.matcher
            drafts = work.drafts
            refused += [None] * (len(drafts) + 1) if matcher is None else matcher.refused(drafts)
        for row, logits_V, refused_V in zip(rows, logits_RV, refused, strict=True):
            request = row.sequence.group.request
            sampling = request.sampling
            if sampling.logit_bias:
                biased = torch.tensor(list(sampling.logit_bias))
                logits_V[biased] += torch.tensor(list(sampling.logit_bias.values()), dtype=torch.float32)
            if sampling.frequency_penalty or sampling.presence_penalty:
                _penalise(row, logits_V)
            if refused_V is not None:
                logits_V.masked_fill_(refused_V, -torch.inf)
            if row.sequence.answer_tokens + row.drafted < request.min_tokens and row.sequence.end_tokens:
                ends = torch.tensor(sorted(row.sequence.end_tokens))
                values = logits_V[ends]
                logits_V[ends] = -torch.inf
                # Where the grammar allows nothing but the end, the text is at its end.
                if refused_V is not None and not bool(logits_V.isfinite().any()):
                    logits_V[ends] = values

    def _deal(
        self, works: tuple[Work, ...], tokens: list[int], known: dict[int, TokenProbability]
    ) -> list[int]:
        accepted = []
        at = 0
        for work in works:
            sequence, count = work.sequence, 0
            if not work.complete:
                accepted.append(0)
                continue
            for i in range(len(work.drafts) + 1):
                if sequence.group.cancelled or sequence.finish is not None:
                    break
                if sequence.room <= 0:  # only the prompt's probabilities were asked for
                    sequence.finish = "length"
                    break
                token = tokens[at + i]
                if token < 0:
                    sequence.finish = "error"
                    sequence.error = "the model's logits have no largest number (NaN or infinite)"
                    break
                sequence.append(token, known.get(at + i))
                if i == len(work.drafts) or token != work.drafts[i]:
                    break
                count += 1
            at += len(work.drafts) + 1
            sequence.accepted += count
            sequence.rejected += len(work.drafts) - count
            accepted.append(count)
        return accepted


def _draw(row: _Row) -> float:
    group = row.sequence.group
    return uniform(group.seed, row.sequence.choice, row.sequence.answer_tokens + row.drafted)


def _penalise(row: _Row, logits_V: torch.Tensor) -> None:
    sampling = row.sequence.group.request.sampling
    counts = row.sequence.counts
    if row.drafted:
        counts = dict(counts)
        for token in row.work.drafts[: row.drafted]:
            counts[token] = counts.get(token, 0) + 1
    if counts:
        counts_K = torch.tensor(list(counts.values()), dtype=torch.float32)
        logits_V[torch.tensor(list(counts))] -= (
            sampling.frequency_penalty * counts_K + sampling.presence_penalty
        )
