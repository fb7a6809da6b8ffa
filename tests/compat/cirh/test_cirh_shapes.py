"""Operations that move, pick and place elements equal PyTorch's and NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cirh_ops import dense, run_op
from hypothesis import given, settings
from hypothesis import strategies as st

few = settings(max_examples=15, deadline=None)
some_shape = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
f32, i64 = torch.float32, torch.int64


def drawn(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def indices(high, shape, seed=0):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


@few
@given(shape=some_shape, data=st.data())
def test_reshape_and_transpose_are_those_of_torch(shape, data):
    """A permutation is an operand, which must be a constant."""
    x = drawn(shape)
    order = data.draw(st.permutations(range(len(shape))))
    turned = tuple(shape[dim] for dim in order)

    (flat,) = run_op("Reshape", [x], [(f32, (x.numel(),))])
    (moved,) = run_op("Transpose", [x], [(f32, turned)], constants=[dense(list(order))])
    (again,) = run_op("Reshape", [x.permute(order)], [(f32, (1, x.numel()))])

    assert torch.equal(flat, x.reshape(-1))
    assert torch.equal(moved, x.permute(order))
    assert torch.equal(again, x.permute(order).reshape(1, -1))


@few
@given(shape=some_shape, data=st.data())
def test_broadcasts_put_dims_where_they_are_told(shape, data):
    """Each dim of the operand becomes the dim that is named; a dim of one is repeated."""
    rank = data.draw(st.integers(len(shape), 5))
    into = sorted(data.draw(st.permutations(range(rank)))[: len(shape)])
    result = [data.draw(st.integers(1, 3)) for _ in range(rank)]
    for size, dim in zip(shape, into, strict=True):
        result[dim] = size if size != 1 else result[dim]
    x = drawn(shape)
    wide = [1] * rank
    for size, dim in zip(shape, into, strict=True):
        wide[dim] = size

    (found,) = run_op("BroadcastInDim", [x], [(f32, tuple(result))], f"broadcast_dimensions = {dense(into)}")

    assert torch.equal(found, x.reshape(wide).expand(result))


@few
@given(shape=some_shape, data=st.data())
def test_slices_are_those_of_numpy(shape, data):
    """Slice has a start and a size for each dim; StridedSlice start, end and step."""
    x = drawn(shape)
    begin = [data.draw(st.integers(0, size - 1)) for size in shape]
    sizes = [data.draw(st.integers(1, size - first)) for size, first in zip(shape, begin, strict=True)]
    steps = [data.draw(st.integers(1, 3)) for _ in shape]
    ends = [first + size for first, size in zip(begin, sizes, strict=True)]
    plain = x.numpy()[tuple(slice(b, e) for b, e in zip(begin, ends, strict=True))]
    strided = x.numpy()[tuple(slice(b, e, s) for b, e, s in zip(begin, ends, steps, strict=True))]

    (found,) = run_op("Slice", [x], [(f32, plain.shape)], constants=[dense(begin), dense(sizes)])
    masks = "begin_mask = 0 : i64, end_mask = 0 : i64"
    (every,) = run_op(
        "StridedSlice", [x], [(f32, strided.shape)], masks, [dense(begin), dense(ends), dense(steps)]
    )
    (back,) = run_op(
        "unpad",
        [x],
        [(f32, tuple(sizes))],
        f"edge_unpadding_high = {dense([a - b for a, b in zip(shape, sizes, strict=True)])}",
    )

    assert np.array_equal(found.numpy(), plain)
    assert np.array_equal(every.numpy(), strided)
    assert np.array_equal(back.numpy(), x.numpy()[tuple(slice(0, size) for size in sizes)])


def test_the_gradient_of_a_strided_slice_puts_it_back():
    """Zeros where nothing was taken."""
    gradient = drawn((2, 3))
    masks = "begin_mask = 0 : i64"

    found = torch.zeros(5, 8)
    found[1:5:2, 2:8:2] = gradient
    x = torch.zeros(5, 8, requires_grad=True)
    (wanted,) = torch.autograd.grad(x[1:5:2, 2:8:2], x, gradient)
    (made,) = run_strided_gradient(gradient, masks)

    assert torch.equal(made, wanted)
    assert torch.equal(found, wanted)


def run_strided_gradient(gradient, masks):
    from cirh_ops import kind, run

    return run(
        f"""
        func @graph(%g: {kind(gradient)}) -> tensor<5x8xf32> {{
          %s = cirh.Const {dense([5, 8])}
          %b = cirh.Const {dense([1, 2])}
          %e = cirh.Const {dense([5, 8])}
          %t = cirh.Const {dense([2, 2])}
          %0 = "cirh.StridedSliceGrad"(%s, %b, %e, %t, %g) {{{masks}}} : (tensor<2xi64>, tensor<2xi64>, tensor<2xi64>,
            tensor<2xi64>, tensor<2x3xf32>) -> tensor<5x8xf32>
          return %0 : tensor<5x8xf32>
        }}""",
        gradient,
    )


@few
@given(
    low=st.lists(st.integers(-1, 2), min_size=2, max_size=2),
    high=st.lists(st.integers(-1, 2), min_size=2, max_size=2),
)
def test_padding_adds_and_cuts_off(low, high):
    """Sizes may be negative; the constant is an attribute, one for all dims."""
    x = drawn((3, 4))
    wanted = F.pad(x, (low[1], high[1], low[0], high[0]), value=1.5)
    attributes = (
        f"constant_values = dense<1.5> : tensor<2xf32>, edge_padding_high = {dense(high)}, edge_padding_low = {dense(low)}, "
        'interior_padding = dense<0> : tensor<2xi64>, padding_mode = "CONSTANT"'
    )

    (found,) = run_op("pad", [x], [(f32, tuple(wanted.shape))], attributes)

    assert torch.equal(found, wanted)


@few
@given(parts=st.lists(st.integers(1, 3), min_size=1, max_size=4), axis=st.integers(0, 1))
def test_split_takes_apart_what_concat_joins(parts, axis):
    """In any dim, parts of any size."""
    pieces = [drawn((size, 3) if axis == 0 else (3, size), seed) for seed, size in enumerate(parts)]
    whole = torch.cat(pieces, axis)

    (joined,) = run_op("Concat", pieces, [(f32, tuple(whole.shape))], f"axis = {axis} : i64")
    split = run_op(
        "Split",
        [whole],
        [(f32, tuple(piece.shape)) for piece in pieces],
        f"axis = {axis} : i64, split_sizes = {dense(parts)}",
    )

    assert torch.equal(joined, whole)
    assert all(torch.equal(found, piece) for found, piece in zip(split, pieces, strict=True))


def test_repeats_and_bands():
    """MatrixBandPart keeps diagonals below and above the main one; a negative number keeps all of them."""
    x = drawn((2, 4, 5))

    (repeated,) = run_op("Repeat", [x], [(f32, (4, 4, 15))], f"repeats = {dense([2, 1, 3])}")
    (band,) = run_op(
        "MatrixBandPart",
        [x],
        [(f32, (2, 4, 5))],
        constants=["dense<1> : tensor<i64>", "dense<2> : tensor<i64>"],
    )
    (lower,) = run_op(
        "MatrixBandPart",
        [x],
        [(f32, (2, 4, 5))],
        constants=["dense<-1> : tensor<i64>", "dense<0> : tensor<i64>"],
    )

    assert torch.equal(repeated, x.repeat(2, 1, 3))
    assert torch.equal(band, x.triu(-1).tril(2))
    assert torch.equal(lower, x.tril())


def test_ranges_and_one_hot_rows():
    """OneHot has only its other value in rows whose index is out of range, and takes any axis."""
    (found,) = run_op(
        "Arange", [], [(i64, (4,))], "dim = 0 : i64", [f"dense<{v}> : tensor<i64>" for v in (3, 11, 2)]
    )
    classes = torch.tensor([[0, 2], [-100, 1]])
    (rows,) = run_op(
        "OneHot",
        [classes],
        [(f32, (2, 2, 3))],
        constants=[
            "dense<3> : tensor<i32>",
            "dense<2.0> : tensor<f32>",
            "dense<-1.0> : tensor<f32>",
            "dense<2> : tensor<i32>",
        ],
    )

    assert found.tolist() == [3, 5, 7, 9]
    wanted = torch.where(classes[..., None] == torch.arange(3), 2.0, -1.0)
    assert torch.equal(rows, wanted)


def test_a_conditional_range_counts_where_the_mask_holds():
    """The example of the client's documentation: start 2, step 7."""
    mask = torch.tensor([0, 1, 1, 1, 0, 0, 1], dtype=torch.bool)

    (found,) = run_op(
        "ConditionalArange",
        [mask],
        [(torch.int32, (7,))],
        constants=["dense<2> : tensor<i64>", "dense<7> : tensor<i64>"],
    )

    assert found[mask].tolist() == [2, 9, 16, 23]


# --- by index ---------------------------------------------------------------------------------------------


@few
@given(shape=some_shape, data=st.data())
def test_gather_takes_slices_or_elements(shape, data):
    """A list of indices takes slices; indices of the data's rank take elements along the axis."""
    axis = data.draw(st.integers(0, len(shape) - 1))
    x, count = drawn(shape), data.draw(st.integers(1, 5))
    picked = indices(shape[axis], (count,))
    along = indices(shape[axis], tuple(count if dim == axis else size for dim, size in enumerate(shape)))
    attributes = f"axis = {axis} : i64, batch_dims = 0 : i64, is_sparse = false"
    wanted = x.index_select(axis, picked)

    (slices,) = run_op("Gather", [x, picked], [(f32, tuple(wanted.shape))], attributes)
    (elements,) = run_op("Gather", [x, along], [(f32, tuple(along.shape))], attributes)

    assert torch.equal(slices, wanted)
    assert torch.equal(elements, x.gather(axis, along))


@few
@given(
    kind=st.sampled_from(["NONE", "ADD", "MUL"]),
    axis=st.integers(0, 1),
    dtype=st.sampled_from([i64, torch.int32]),
)
def test_scatter_puts_adds_or_multiplies(kind, axis, dtype):
    """Indices are distinct where elements are put, since torch does not say which of several wins."""
    x, updates = drawn((4, 5)), drawn((3, 5) if axis == 0 else (4, 3), 1)
    rows = [
        torch.randperm(4 if axis == 0 else 5, generator=torch.Generator().manual_seed(i))[:3]
        for i in range(5 - axis)
    ]
    at = torch.stack(rows, 1 - axis)
    wanted = {
        "NONE": lambda: x.scatter(axis, at, updates),
        "ADD": lambda: x.scatter_add(axis, at, updates),
        "MUL": lambda: x.scatter_reduce(axis, at, updates, "prod"),
    }[kind]()

    (found,) = run_op(
        "Scatter", [x, at.to(dtype), updates], [(f32, (4, 5))], f'axis = {axis} : i64, reduce_kind = "{kind}"'
    )

    assert torch.equal(found, wanted)


@few
@given(depth=st.integers(1, 3), count=st.integers(1, 6))
def test_gather_nd_and_scatter_nd_use_coordinates(depth, count):
    """ScatterNd adds, also where coordinates repeat: it is the gradient of an embedding."""
    shape = (2, 3, 4)
    x = drawn(shape)
    at = torch.stack([indices(size, (count,), dim) for dim, size in enumerate(shape[:depth])], -1)
    picked = x[tuple(at.T)]

    (taken,) = run_op("GatherNd", [x, at], [(f32, tuple(picked.shape))], "start_dim = 0 : i64")
    (added,) = run_op("ScatterNd", [x, at, picked], [(f32, shape)])

    assert torch.equal(taken, picked)
    assert torch.allclose(added, x.index_put(tuple(at.T), picked, accumulate=True))


@few
@given(k=st.integers(1, 5), largest=st.booleans(), dim=st.integers(0, 1))
def test_top_k_is_that_of_torch(k, largest, dim):
    """Values and indices, in order; NthOrderStatistic says where the k largest are."""
    x = torch.randperm(30, generator=torch.Generator().manual_seed(k)).reshape(5, 6).float()
    shape = (k, 6) if dim == 0 else (5, k)
    wanted = x.topk(k, dim, largest)
    flags = f"largest = {str(largest).lower()}, sorted = true"

    values, at = run_op(
        "TopK", [x], [(f32, shape), (i64, shape)], f"dimension = {dim} : i32, k = {k} : i32, {flags}"
    )
    (mask,) = run_op(
        "NthOrderStatistic", [x], [(torch.int16, (5, 6))], f"k = {k} : i64, dimension = {dim} : i64"
    )

    assert torch.equal(values, wanted.values)
    assert torch.equal(at, wanted.indices)
    assert torch.equal(mask, torch.zeros(5, 6, dtype=torch.int16).scatter(dim, x.topk(k, dim).indices, 1))


# --- by chance --------------------------------------------------------------------------------------------


def test_random_numbers_come_from_key_and_seed():
    """The same key draws the same numbers, so that a step can be repeated; another key, and another operation, others."""
    from cirh_ops import run

    text = """
    func @graph(%a: tensor<1xf32>) -> (tensor<4000xf32>, tensor<4000xf32>, tensor<4000xi64>, tensor<4000xf32>) {
      %low = cirh.Const dense<-1.0> : tensor<f32>
      %high = cirh.Const dense<3.0> : tensor<f32>
      %two = cirh.Const dense<2> : tensor<i64>
      %nine = cirh.Const dense<9> : tensor<i64>
      %shape = cirh.Const dense<4000> : tensor<1xi64>
      %mean = cirh.Const dense<5.0> : tensor<4000xf32>
      %deviation = cirh.Const dense<2.0> : tensor<4000xf32>
      %0 = "cirh.RandomUniform"(%low, %high, %shape) {global_seed = 1 : i64}
        : (tensor<f32>, tensor<f32>, tensor<1xi64>) -> tensor<4000xf32>
      %1 = "cirh.RandomUniform"(%low, %high, %shape) {global_seed = 1 : i64}
        : (tensor<f32>, tensor<f32>, tensor<1xi64>) -> tensor<4000xf32>
      %2 = "cirh.RandomUniform"(%two, %nine, %shape) {global_seed = 1 : i64}
        : (tensor<i64>, tensor<i64>, tensor<1xi64>) -> tensor<4000xi64>
      %3 = "cirh.RandomNormal"(%mean, %deviation) {seed = 1 : i64} : (tensor<4000xf32>, tensor<4000xf32>) -> tensor<4000xf32>
      return %0, %1, %2, %3 : tensor<4000xf32>, tensor<4000xf32>, tensor<4000xi64>, tensor<4000xf32>
    }"""
    none = torch.zeros(1)

    first, again, other = run(text, none, key=5), run(text, none, key=5), run(text, none, key=6)

    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[1])
    assert first[0].min() >= -1
    assert first[0].max() < 3
    assert first[0].mean() == pytest.approx(1, abs=0.1)
    assert set(first[2].tolist()) == set(range(2, 9))
    assert first[3].mean() == pytest.approx(5, abs=0.15)
    assert first[3].std() == pytest.approx(2, abs=0.15)


def test_classes_are_drawn_with_their_probabilities():
    """Rows are drawn one by one; a class of no probability never comes."""
    weights = torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 0.0]])

    (found,) = run_op(
        "RandomMultinomial",
        [weights],
        [(i64, (2, 1000))],
        "num_samples = 1000 : i64, replacement = true, seed = 3 : i64",
    )

    assert set(found[0].tolist()) == {1, 2}
    assert (found[0] == 2).float().mean() == pytest.approx(0.75, abs=0.06)
    assert set(found[1].tolist()) == {0}
