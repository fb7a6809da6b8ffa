"""Replay plans over names alone: whatever a system would miss, send twice or wait for in vain shows without arithmetic."""

from __future__ import annotations

from collections import Counter, deque
from itertools import pairwise

from openwafer.artifact import (
    Backward,
    Forward,
    Load,
    Plan,
    ReceiveValues,
    SendGradients,
    SendValues,
    System,
    Unload,
    drops,
    gradient_order,
    gradient_slots,
    layers_for,
    load_order,
    systems_of_stage,
    value_slots,
    weight_slots,
)


def check_plan(plan: Plan) -> None:
    """Everything that executors take for granted about a plan; see the functions below."""
    check_records(plan)
    check_rows(plan)
    for train in (True, False):
        if train or plan.evaluation:
            check_programs(plan, train)
            check_streams(plan, train)
    check_gradients(plan)
    check_updates_come_last(plan)
    check_update(plan)


def check_records(plan: Plan) -> None:
    """Each weight has one home; regions do not overlap; trained weights and no others have gradients."""
    names = [tensor.name for record in plan.records for tensor in (*record.weights, *record.state)]
    assert len(names) == len(set(names))
    wholes = {tensor.whole for record in plan.records for tensor in (*record.weights, *record.state)}
    assert not set(dict(plan.tied)) & wholes
    assert set(dict(plan.tied).values()) <= wholes
    check_shards(plan)
    for record in plan.records:
        for tensors, end in ((record.weights, record.weight_bytes), (record.state, record.state_bytes)):
            spans = sorted((tensor.offset, tensor.offset + tensor.nbytes) for tensor in tensors)
            assert all(one[1] <= other[0] for one, other in pairwise(spans))
            assert not spans or spans[-1][1] <= end
    used = {
        gradient.weight
        for layer in layers_for(plan, plan.systems[0].rows[0], True)
        for gradient in layer.gradients
    }
    assert used == {weight.name for record in plan.records for weight in record.trained}


def check_shards(plan: Plan) -> None:
    """The parts of a tensor follow each other from its first row to its last, or each are a copy of it."""
    parts: dict[str, list] = {}
    for record in plan.records:
        for tensor in (*record.weights, *record.state):
            if tensor.part is not None:
                parts.setdefault(tensor.whole, []).append(tensor)
    for members in parts.values():
        members.sort(key=lambda tensor: tensor.whole_offset)
        assert len({tensor.whole_type for tensor in members}) == 1
        if members[0].shape:
            ends = [0, *(tensor.whole_offset + tensor.nbytes for tensor in members)]
            assert [tensor.whole_offset for tensor in members] == ends[:-1]
            assert ends[-1] == members[0].whole_type.nbytes


def check_rows(plan: Plan) -> None:
    """Replicas share the batch without rest; the stages of a replica agree on its microbatches."""
    rows = {system.replica: system.rows for system in plan.systems}
    assert sorted(rows) == list(range(plan.replicas))
    assert sum(sum(entry) for entry in rows.values()) == plan.batch
    assert all(system.rows == rows[system.replica] for system in plan.systems)
    assert [(s.replica, s.stage) for s in plan.systems] == [
        (replica, stage) for replica in range(plan.replicas) for stage in range(plan.stages)
    ]


def check_streams(plan: Plan, train: bool) -> None:
    """One ring feeds all systems of a stage, so they must ask for the same records, and send the same gradients."""
    for stage in range(plan.stages):
        members = [plan.systems[index] for index in systems_of_stage(plan, stage)]
        assert len({load_order(plan, member, train) for member in members}) == 1
        if train:
            assert len({gradient_order(plan, member) for member in members}) == 1


def check_gradients(plan: Plan) -> None:
    """Every contribution of a layer leaves once a step, and every trained weight gets one from some stage."""
    layers = layers_for(plan, plan.systems[0].rows[0], True)
    for replica in range(plan.replicas):
        own = [system for system in plan.systems if system.replica == replica]
        sent = [a.layer for system in own for a in system.program if isinstance(a, SendGradients)]
        assert sorted(sent) == [index for index, layer in enumerate(layers) if layer.gradients]
    trained = {weight.name for record in plan.records for weight in record.trained}
    assert {gradient.weight for layer in layers for gradient in layer.gradients} == trained


def check_updates_come_last(plan: Plan) -> None:
    """A record is updated when its last gradient is in: by then no program may load it again."""
    for system in plan.systems:
        layers = layers_for(plan, system.rows[0], True)
        last_gradient: dict[int, int] = {}
        last_load: dict[int, int] = {}
        for position, action in enumerate(system.program):
            if isinstance(action, SendGradients):
                for gradient in layers[action.layer].gradients:
                    last_gradient[plan.record_of[gradient.weight]] = position
            elif isinstance(action, (Load, Backward)):
                for record in layers[action.layer].records:
                    last_load[record] = position
        for record, position in last_gradient.items():
            assert last_load[record] < position, f"{plan.records[record].name} is read after its update"


def check_update(plan: Plan) -> None:
    """The update reads what is there when it runs, and makes each weight, state and global exactly once."""
    update = plan.update
    known = {entry.name for entry in plan.globals}
    if update.begin:
        assert _names(update.begin.inputs) <= known
        known |= set(update.begin.outputs)
    assert len(update.records) == len(plan.records)
    locals_: list[set[str]] = []
    carried: set[str] = set()
    for record, entry in zip(plan.records, update.records, strict=True):
        own = {tensor.name for tensor in (*record.weights, *record.state)}
        own |= {f"{weight.name}/gradient" for weight in record.trained}
        locals_.append(own)
        if entry.before:  # runs on gradients alone: weights may be on disk
            assert _names(entry.before.inputs) <= {f"{w.name}/gradient" for w in record.trained} | known
            assert not set(entry.before.outputs) & carried
            carried |= set(entry.before.outputs)
    if update.across:
        assert _names(update.across.inputs) <= known | carried
    across = set(update.across.outputs) if update.across else set()
    waits = False
    for record, entry, own in zip(plan.records, update.records, locals_, strict=True):
        made = set(entry.apply.outputs) if entry.apply else set()
        assert {weight.name for weight in record.trained} <= made
        assert made <= {weight.name for weight in record.trained} | {state.name for state in record.state}
        if entry.apply:
            assert len(entry.apply.outputs) == len(made)
            inputs = _names(entry.apply.inputs)
            assert inputs <= own | known | carried | across
            waits = waits or bool(inputs & across)
    assert update.waits == waits
    final = known | carried | across
    assert {value for _, value in update.new_globals} <= final
    assert {value for _, value in update.logs} <= final
    assert {name for name, _ in update.new_globals} <= {entry.name for entry in plan.globals}


def check_programs(plan: Plan, train: bool) -> None:
    """Run every replica's programs together, as far as each can go, until all are done."""
    for replica in range(plan.replicas):
        members = [index for index, system in enumerate(plan.systems) if system.replica == replica]
        rings = {key: deque() for key in value_slots(plan, members)}
        room = {key: slots for key, (slots, _) in value_slots(plan, members).items()}
        replays = [_Replay(plan, index, members, train, rings, room) for index in members]
        moved = True
        while moved:
            moved = any([replay.advance() for replay in replays])
        stuck = {replay.index: replay.program[replay.at] for replay in replays if not replay.done}
        assert not stuck, f"systems wait for ever at {stuck}"
        assert not any(rings.values())
        losses = sum((replay.losses for replay in replays), Counter())
        assert losses == Counter({microbatch: 1 for microbatch in range(len(plan.systems[members[0]].rows))})
        for replay in replays:
            replay.check_end()


class _Replay:
    """One system's program over names."""

    def __init__(self, plan, index, members, train, rings, room) -> None:
        self.plan, self.index, self.members, self.train = plan, index, members, train
        self.rings, self.room = rings, room
        self.me: System = plan.systems[index]
        self.program = self.me.program if train else self.me.evaluation
        self.drops = drops(self.program, self.me.rows, plan.layers if train else plan.evaluation)
        self.at = 0
        self.loaded: Counter[int] = Counter()
        self.layers_loaded: set[int] = set()
        self.values = [self._given(size) for size in self.me.rows]
        self.dropped: list[set[str]] = [set() for _ in self.me.rows]
        self.losses: Counter[int] = Counter()
        self.slots: list[tuple[int, int]] = []
        """Gradient slots in the order of their acquisition."""
        self.backwards: Counter[int] = Counter()
        self.sent: set[int] = set()

    @property
    def done(self) -> bool:
        return self.at == len(self.program)

    def _given(self, size: int) -> set[str]:
        constants = (self.plan.constants if self.train else self.plan.evaluation_constants)[size]
        return {
            *(name for name, _, _ in self.plan.inputs),
            *(constants.outputs if constants else ()),
            *(entry.name for entry in self.plan.globals),
            "sample_fraction",
            "rng",
        }

    def advance(self) -> bool:
        """Run until something must be waited for. Whether anything ran."""
        before = self.at
        while not self.done and self._step(self.program[self.at]):
            microbatch = getattr(self.program[self.at], "microbatch", 0)
            self.values[microbatch] -= set(self.drops[self.at])
            self.dropped[microbatch] |= set(self.drops[self.at])
            self.at += 1
        return self.at > before

    def _ring(self, source: int, target: int):
        by_stage = {self.plan.systems[index].stage: index for index in self.members}
        return by_stage[source], by_stage[target]

    def _step(self, action) -> bool:
        layers = layers_for(self.plan, self.me.rows[getattr(action, "microbatch", 0)], self.train)
        if isinstance(action, Load):
            assert action.layer not in self.layers_loaded
            self.layers_loaded.add(action.layer)
            self.loaded.update(layers[action.layer].records)
            for shard, own in enumerate(self.plan.memoryx_records):
                slots, _ = weight_slots(self.plan, self.me.stage, shard)
                held = {record for record, users in self.loaded.items() if users} & set(own)
                assert not slots or len(held) <= slots, "more records in use than the ring has slots"
        elif isinstance(action, Unload):
            self.layers_loaded.remove(action.layer)
            self.loaded.subtract(layers[action.layer].records)
        elif isinstance(action, Forward):
            self._run(action, layers[action.layer].forward)
        elif isinstance(action, Backward):
            self._run(action, layers[action.layer].backward)
            self._contribute(action, layers[action.layer])
        elif isinstance(action, SendGradients):
            self._send(action, layers[action.layer])
        elif isinstance(action, SendValues):
            key = self._ring(self.me.stage, action.peer)
            if len(self.rings[key]) >= self.room[key]:
                return False
            assert set(action.values) <= self.values[action.microbatch]
            self.rings[key].append((action.microbatch, action.values))
        elif isinstance(action, ReceiveValues):
            ring = self.rings[self._ring(action.peer, self.me.stage)]
            if not ring:
                return False
            assert ring.popleft() == (action.microbatch, action.values)
            self.values[action.microbatch] |= set(action.values)
        return True

    def _run(self, action, call) -> None:
        assert call is not None
        assert action.layer in self.layers_loaded
        body = self.plan.body[call.body]
        assert len(call.inputs) == len(body.inputs)
        assert len(call.outputs) == len(body.outputs) == len(set(call.outputs))
        weights = {
            weight.name
            for record, users in self.loaded.items()
            if users
            for weight in self.plan.records[record].weights
        }
        for name, kind in zip(call.inputs, body.inputs, strict=True):
            if isinstance(name, int):
                assert kind.dtype == "int64"
                assert kind.shape == ()
                continue
            assert name not in self.dropped[action.microbatch], f"{name} was dropped before {action}"
            assert name in self.values[action.microbatch] or name in weights, f"{name} is missing at {action}"
        again = set(call.outputs) & self.values[action.microbatch]
        assert not again, f"{again} made twice, at {action}"
        self.values[action.microbatch] |= set(call.outputs)
        loss = self.plan.loss if self.train else self.plan.evaluation_loss
        self.losses[action.microbatch] += loss in call.outputs

    def _contribute(self, action, layer) -> None:
        assert action.layer not in self.sent
        self.backwards[action.layer] += 1
        have = self.values[action.microbatch]
        assert {gradient.value for gradient in layer.gradients} <= have
        for record in sorted({self.plan.record_of[gradient.weight] for gradient in layer.gradients}):
            if (action.layer, record) not in self.slots:
                self.slots.append((action.layer, record))
        for shard, own in enumerate(self.plan.memoryx_records):
            slots, nbytes = gradient_slots(self.plan, self.index, shard)
            filled = [record for _, record in self.slots if record in own]
            assert len(filled) <= slots
            assert all(self.plan.records[record].gradient_bytes <= nbytes for record in filled)

    def _send(self, action, layer) -> None:
        assert action.layer not in self.sent
        assert self.backwards[action.layer] == len(self.me.rows), "sent before every microbatch was added"
        self.sent.add(action.layer)
        records = sorted({self.plan.record_of[gradient.weight] for gradient in layer.gradients})
        assert self.slots[: len(records)] == [(action.layer, record) for record in records], "out of turn"
        del self.slots[: len(records)]

    def check_end(self) -> None:
        """Nothing stays behind: every record was given back, every gradient sent, every value dropped."""
        assert not self.layers_loaded
        assert not any(self.loaded.values())
        assert not self.slots
        for size, left in zip(self.me.rows, self.values, strict=True):
            assert left <= self._given(size), f"never dropped: {left - self._given(size)}"


def _names(inputs: tuple[str | int, ...]) -> set[str]:
    return {name for name in inputs if isinstance(name, str)}
