"""Runs under the client's interpreter, confined: makes batches of the client's data pipeline and puts them into slots.

This file is a program by itself: it imports nothing of openwafer, which is not installed there, and of others only what the
pipeline brings along (dill, torch, cerebras.pytorch). It says what it has done on one descriptor and lays batches into the
memory behind another; whoever listens believes none of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import mmap
import os
import pickle
import struct
import sys
import traceback
from collections.abc import Iterator
from typing import Any

HEADER = struct.Struct("<cQ")
NAME_PREFIX = "input"  # what the client's compiler calls the tensors of a batch
PROTOCOL = ("state_dict", "load_state_dict", "aggregate_state_dict", "deaggregate_state_dict")


class Channel:
    """Frames to and from the side that starts this program."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def read(self) -> tuple[bytes, bytes]:
        kind, length = HEADER.unpack(self._exactly(HEADER.size))
        return kind, self._exactly(length)

    def write(self, kind: bytes, payload: bytes) -> None:
        rest = memoryview(HEADER.pack(kind, len(payload)) + payload)
        while rest:
            rest = rest[os.write(self.descriptor, rest) :]

    def _exactly(self, length: int) -> bytes:
        parts = []
        while length:
            part = os.read(self.descriptor, min(length, 1 << 20))
            if not part:
                os._exit(0)  # nobody wants batches any more
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


class Slots:
    """The shared memory, and which parts of it are free."""

    def __init__(self, descriptor: int, order: dict[str, Any], channel: Channel) -> None:
        self.memory = mmap.mmap(descriptor, order["slots"] * order["stride"])
        self.stride = order["stride"]
        self.free = list(range(order["slots"]))
        self.channel = channel

    def acquire(self) -> int:
        while not self.free:
            kind, payload = self.channel.read()
            assert kind == b"R"
            self.free.append(struct.unpack("<I", payload)[0])
        return self.free.pop(0)


class Plain:
    """What surrounds a pipeline where the client's packages are not installed: nothing."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order

    def leaves(
        self, batch: Any, scope: tuple[str, ...] = (NAME_PREFIX,)
    ) -> Iterator[tuple[tuple[str, ...], Any]]:
        """The arrays of a nested batch and the path to each."""
        if hasattr(batch, "items"):
            for key, value in batch.items():
                yield from self.leaves(value, (*scope, str(key)))
        elif isinstance(batch, (list, tuple)):
            for index, value in enumerate(batch):
                yield from self.leaves(value, (*scope, str(index)))
        elif hasattr(batch, "shape") and hasattr(batch, "dtype"):
            yield scope, batch

    def checkpoint(self, loader: Any, fields: dict[str, int]) -> Any:
        return {**fields, "user_state_dict": loader.state_dict()}


class Client(Plain):
    """The client's own packages, told that this process is an input worker of a cluster."""

    def __init__(self, order: dict[str, Any]) -> None:
        super().__init__(order)
        cstorch = importlib.import_module("cerebras.pytorch")
        backends = importlib.import_module("cerebras.pytorch.backend")
        distributed = importlib.import_module("cerebras.pytorch.distributed")
        resolver = importlib.import_module("cerebras.pytorch.distributed.cluster_resolver")
        self.nest = importlib.import_module("cerebras.pytorch.utils.nest")
        self.loaders = importlib.import_module("cerebras.pytorch.utils.data.dataloader")
        self.states = importlib.import_module("cerebras.pytorch.distributed.worker_state")
        per_system, boxes = order["workers_per_system"], order["rows_by_system"]
        resolver.ApplianceWorkerClusterResolver.configure(
            order["rank"], per_system * len(boxes), len(boxes), per_system
        )
        backends.Backend._init_impl = False  # the backend is only asked what it is
        cstorch.backend("CSX")
        distributed._set_streaming_batch_sizes([[rows] for rows in boxes])
        self.nest.deserialize_visit_fns({key.hex(): value.hex() for key, value in order["visitors"]})

    def leaves(
        self, batch: Any, scope: tuple[str, ...] = (NAME_PREFIX,)
    ) -> Iterator[tuple[tuple[str, ...], Any]]:
        yield from self.nest.visit_torch_tensors(batch, scope=list(scope))

    def checkpoint(self, loader: Any, fields: dict[str, int]) -> Any:
        told = self.loaders.DataLoaderCheckpoint(**fields, user_state_dict=None)
        self.states.WorkerState.configure(told)
        told.user_state_dict = loader.state_dict()
        return told


def main() -> None:
    channel = Channel(int(sys.argv[1]))
    try:
        run(channel, int(sys.argv[2]))
    except BaseException as error:
        told = {
            "type": type(error).__name__,
            "text": str(error)[:4000],
            "trace": traceback.format_exc()[-8000:],
            "errno": getattr(error, "errno", None) if isinstance(error, OSError) else None,
            "filename": str(error.filename)[:1000] if isinstance(error, OSError) and error.filename else None,
        }
        sys.stdout.flush()
        channel.write(b"E", json.dumps(told).encode())
        os._exit(1)  # worker processes of a loader would be waited for


def run(channel: Channel, memory: int) -> None:
    order = json.loads(channel.read()[1])
    blobs = [channel.read()[1] for _ in range(order["blobs"])]
    slots = Slots(memory, order, channel)
    (make_values if order["task"] == "values" else make_batches)(order, blobs, slots, channel)


def make_batches(order: dict[str, Any], blobs: list[bytes], slots: Slots, channel: Channel) -> None:
    # 1. the client's objects
    builder, arguments, initial, *rest = blobs
    visitors, earlier = rest[: 2 * order["visitor_count"]], rest[2 * order["visitor_count"] :]
    order["visitors"] = list(zip(visitors[::2], visitors[1::2], strict=True))
    os.environ.update(order["environment"])
    sys.path[:0] = order["python_paths"]
    surroundings = Client(order) if has_client() else Plain(order)
    pickles = pickle_module()
    build = pickles.loads(builder)
    args, kwargs = pickles.loads(arguments) if arguments else ((), {})
    # 2. the loader, in the state where it shall begin
    loader = build(*args, **kwargs)
    if not order["may_fork"]:
        without_processes(loader)
    restartable = all(callable(getattr(loader, name, None)) for name in PROTOCOL)
    if restartable:
        state, options = pickles.loads(initial) if initial else (None, {})
        if earlier:
            state = loader.aggregate_state_dict([user_state(pickles.loads(blob)) for blob in earlier])
        if state is not None:
            loader.load_state_dict(loader.deaggregate_state_dict(state, **options), **options)
    channel.write(b"J", json.dumps({"restartable": restartable}).encode())
    # 3. batches, one after the other; a state is taken between two of them
    made = blocks(loader, surroundings, order, restartable)
    index, slot = order["base_index"], 0
    while True:
        if restartable and index >= order["first"]:
            for step in steps_at(index, order):
                relative = index - order["base_index"]  # the client counts from the state that it loaded
                fields = {
                    "local_worker_id": order["rank"] % order["workers_per_system"],
                    "num_workers_per_csx": order["workers_per_system"],
                    "num_csx": len(order["rows_by_system"]),
                    "wse_id": order["rank"] // order["workers_per_system"],
                    "appliance_step": step - order["base_step"],
                    "worker_step": relative,
                    "samples_streamed": relative * order["rows"],
                }
                blob = pickles.dumps(surroundings.checkpoint(loader, fields))
                channel.write(b"S", struct.pack("<Q", step) + blob)
        if index > order["first"]:
            channel.write(b"B", struct.pack("<QI", index - 1, slot))
        if index < order["first"]:
            next(made)
        else:
            slot = slots.acquire()
            lay(next(made), slots, slot, order)
        index += 1


def make_values(order: dict[str, Any], blobs: list[bytes], slots: Slots, channel: Channel) -> None:
    """Tensors that are described rather than sent: graphs, fills, and what the client's functions make of them."""
    torch = importlib.import_module("torch")
    for index, wanted in enumerate(order["values"]):
        tensor = compute(wanted, blobs, torch)
        for stage in ("", " after its hooks"):
            found = [str(tensor.dtype), *tensor.shape]
            if found != ["torch." + wanted["dtype"], *wanted["shape"]]:
                raise ValueError(
                    f"{wanted['name']} became {found}{stage}, and is {wanted['dtype']} {wanted['shape']} in the program"
                )
            for hook in (
                pickle_module().loads(blobs[wanted["hooks"]])
                if wanted["hooks"] is not None and not stage
                else ()
            ):
                made = hook(tensor)
                tensor = tensor if made is None else made
        slot = slots.acquire()
        piece = {"source": "", "storage": wanted["storage"], "offset": 0}
        lay({"": [tensor]}, slots, slot, {"tensors": [piece]})
        channel.write(b"B", struct.pack("<QI", index, slot))
    channel.read()  # until the other side has taken the last one and leaves


def compute(wanted: dict[str, Any], blobs: list[bytes], torch: Any) -> Any:
    dtype, shape = getattr(torch, wanted["dtype"]), tuple(wanted["shape"])
    if wanted["graph"] is not None:
        deferred = importlib.import_module("cerebras.pytorch.storage.serializers").DeferredGraphTensor
        args = [compute(argument, blobs, torch) for argument in wanted["args"]]
        return deferred(wanted["graph"], args, shape, dtype)._to_cpu()
    if wanted["data"] is not None:
        data = bytearray(blobs[wanted["data"]])
        return torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)
    return torch.full(shape, wanted["fill"], dtype=dtype)


def pickle_module() -> Any:
    return importlib.import_module("dill") if importlib.util.find_spec("dill") else pickle


def has_client() -> bool:
    try:
        return importlib.util.find_spec("cerebras.pytorch") is not None
    except ModuleNotFoundError:
        return False


def without_processes(loader: Any) -> None:
    """Where no process may be started, a torch loader works in this one, as if it were its own first worker."""
    if getattr(loader, "num_workers", 0) and hasattr(loader, "worker_init_fn"):
        values = {"num_workers": 0, "persistent_workers": False, "prefetch_factor": None, "timeout": 0}
        for name, value in values.items():
            object.__setattr__(loader, name, value)
        if loader.worker_init_fn is not None:
            loader.worker_init_fn(0)
        print(
            "the loader's worker processes run as one with the input worker: this machine cannot confine them",
            flush=True,
        )


def user_state(checkpoint: Any) -> Any:
    return checkpoint["user_state_dict"] if isinstance(checkpoint, dict) else checkpoint.user_state_dict


def steps_at(index: int, order: dict[str, Any]) -> list[int]:
    """The steps of the run after which this worker has made `index` batches, and whose state is wanted.

    The workers of one system take turns, batch by batch.
    """
    turn, workers = order["rank"] % order["workers_per_system"], order["workers_per_system"]
    first = (index - 1) * workers + turn + 1 if index else 0
    last = index * workers + turn
    return [
        step for step in range(first, last + 1) if any(step in range(*part) for part in order["state_steps"])
    ]


def epochs(loader: Any) -> Iterator[Any]:
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise RuntimeError(
                "the data loader gave no batch in an epoch; check its data, its batch size and drop_last, and that it can be "
                "iterated again"
            )


def blocks(
    loader: Any, surroundings: Plain, order: dict[str, Any], restartable: bool
) -> Iterator[dict[str, list[Any]]]:
    """By tensor, the pieces that make exactly the rows of one batch, whatever sizes the loader gives."""
    rows = order["rows"]
    waiting: list[tuple[dict[str, Any], int]] = []  # batches and the first row of each that was not given yet
    ready = 0
    for batch in epochs(loader):
        named = {}
        for scope, value in surroundings.leaves(batch):
            named["_".join(scope)] = value if len(value.shape) else value.reshape(1)
        sizes = {int(value.shape[0]) for value in named.values()}
        if len(sizes) != 1 or 0 in sizes:
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in named.items())
            raise ValueError(
                f"a batch must have tensors of one number of samples, and has {shapes or 'no tensor'}"
            )
        size = sizes.pop()
        if restartable and size != rows:
            raise ValueError(
                f"a restartable data loader must give the {rows} samples of this worker in every batch, and gave {size}; use "
                "cstorch.distributed.get_streaming_batch_size() for its batch size, and drop_last=True"
            )
        check(named, order)
        waiting.append((named, 0))
        ready += size
        while ready >= rows:
            pieces: dict[str, list[Any]] = {tensor["source"]: [] for tensor in order["tensors"]}
            missing = rows
            while missing:
                named, start = waiting.pop(0)
                stop = min(start + missing, int(next(iter(named.values())).shape[0]))
                for source, parts in pieces.items():
                    parts.append(named[source][start:stop])
                missing -= stop - start
                if stop < int(next(iter(named.values())).shape[0]):
                    waiting.insert(0, (named, stop))
            ready -= rows
            yield pieces


def check(named: dict[str, Any], order: dict[str, Any]) -> None:
    for tensor in order["tensors"]:
        value = named.get(tensor["source"])
        if value is None:
            raise ValueError(f"a batch has no {tensor['source']!r}; it has {', '.join(named)}")
        found = [str(value.dtype).replace("torch.", ""), *value.shape[1:]]
        wanted = [tensor["dtype"], *tensor["shape"]]
        if found != wanted:
            raise ValueError(
                f"samples of {tensor['source']!r} are {found[0]} of shape {found[1:]}, but the program was compiled for "
                f"{wanted[0]} of shape {wanted[1:]}; every batch must be like the first"
            )


def lay(pieces: dict[str, list[Any]], slots: Slots, slot: int, order: dict[str, Any]) -> None:
    numpy = importlib.import_module("numpy")
    for tensor in order["tensors"]:
        at = slot * slots.stride + tensor["offset"]
        for piece in pieces[tensor["source"]]:
            array = as_array(piece).reshape(-1)
            target = numpy.frombuffer(slots.memory, tensor["storage"], math.prod(piece.shape), at)
            target[:] = array.view(tensor["storage"])
            at += array.nbytes


def as_array(value: Any) -> Any:
    """A contiguous numpy array of the same bytes."""
    numpy = importlib.import_module("numpy")
    if hasattr(value, "detach"):
        torch = importlib.import_module("torch")
        value = value.detach().cpu().contiguous()
        value = (value.view(torch.int16) if value.dtype == torch.bfloat16 else value).numpy()
    return numpy.ascontiguousarray(value)


if __name__ == "__main__":
    main()
