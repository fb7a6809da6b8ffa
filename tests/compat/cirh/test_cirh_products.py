"""Products, reductions, convolutions, pools and normalisations equal PyTorch's, their gradients autograd's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cirh_ops import dense, kind, run, run_op
from hypothesis import given, settings
from hypothesis import strategies as st

few = settings(max_examples=12, deadline=None)
sizes = st.integers(1, 5)
floats = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
f32, i64 = torch.float32, torch.int64


def drawn(shape, seed=0, dtype=f32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def grads(made, sources, gradient):
    return torch.autograd.grad(made, sources, gradient)


@few
@given(m=sizes, k=sizes, n=sizes, ta=st.booleans(), tb=st.booleans(), dtype=floats)
def test_matrix_products_are_those_of_torch(m, k, n, ta, tb, dtype):
    """Either side may be transposed, which costs no copy."""
    a, b = drawn((k, m) if ta else (m, k), 1, dtype), drawn((n, k) if tb else (k, n), 2, dtype)
    flags = f"transpose_a = {str(ta).lower()}, transpose_b = {str(tb).lower()}"

    (found,) = run_op("MatMul", [a, b], [(dtype, (m, n))], flags)

    assert torch.allclose(
        found, (a.mT if ta else a) @ (b.mT if tb else b), atol=1e-6 if dtype is f32 else 1e-2
    )


@few
@given(batch=sizes, m=sizes, k=sizes, n=sizes, flat=st.booleans())
def test_matrix_products_take_leading_dims(batch, m, k, n, flat):
    """A matrix on the right serves all of them; else each has its own."""
    a, b = drawn((batch, m, k), 1), drawn((k, n) if flat else (batch, k, n), 2)

    (found,) = run_op("MatMul", [a, b], [(f32, (batch, m, n))], "transpose_a = false, transpose_b = false")

    assert torch.allclose(found, a @ b, atol=1e-5)


@few
@given(data=st.data(), dtype=floats)
def test_general_products_take_any_dims(data, dtype):
    """Batching, contracted and free dims in any order, as einsum says them."""
    batch, inner = data.draw(st.integers(0, 2)), data.draw(st.integers(1, 2))
    letters = "abcdefgh"
    shared, summed = letters[:batch], letters[batch : batch + inner]
    left_free, right_free = "x" * data.draw(st.integers(0, 1)), "yz"[: data.draw(st.integers(0, 2))]
    size = {c: data.draw(sizes) for c in shared + summed + left_free + right_free}
    left = "".join(data.draw(st.permutations(shared + summed + left_free)))
    right = "".join(data.draw(st.permutations(shared + summed + right_free)))
    out = shared + "".join(c for c in left if c in left_free) + "".join(c for c in right if c in right_free)
    a, b = drawn([size[c] for c in left], 1, dtype), drawn([size[c] for c in right], 2, dtype)
    attributes = ", ".join(
        f"{key} = {dense([side.index(c) for c in chars])}"
        for key, side, chars in (
            ("lhs_batching_dimensions", left, shared),
            ("rhs_batching_dimensions", right, shared),
            ("lhs_contracting_dimensions", left, summed),
            ("rhs_contracting_dimensions", right, summed),
        )
    )

    (found,) = run_op("DotGeneral", [a, b], [(dtype, tuple(size[c] for c in out))], attributes)

    wanted = torch.einsum(f"{left},{right}->{out}", a.double(), b.double())
    assert torch.allclose(found.double(), wanted, atol=1e-5 if dtype is f32 else 0.2)


def test_products_for_weights():
    """DMatMul sums over the columns of both; masked, ranged and sparse products leave rows out."""
    gradient, source = drawn((4, 6), 1), drawn((3, 6), 2)
    (weight,) = run_op("DMatMul", [gradient, source, drawn((4, 3))], [(f32, (4, 3))])
    assert torch.allclose(weight, gradient @ source.T, atol=1e-6)

    x, mask, w, g = drawn((2, 5, 3), 1), drawn((2, 5), 2) > 0, drawn((4, 3), 3), drawn((2, 5, 4), 4)
    x.requires_grad_(), w.requires_grad_()
    made = (x @ w.T) * mask[..., None]
    (found,) = run_op("SparseActMatMul", [x.detach(), mask, w.detach()], [(f32, (2, 5, 4))])
    back = run_op("SparseActMatMulGrad", [g, x.detach(), mask, w.detach()], [(f32, (2, 5, 3)), (f32, (4, 3))])
    assert torch.allclose(found, made, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(back, grads(made, (x, w), g), strict=True))

    counts = torch.tensor([2, 5])
    rows = torch.arange(5) < counts[:, None]
    (ranged,) = run_op("RangedMatMul", [w.detach(), x.detach(), counts], [(f32, (2, 5, 4))])
    (ranged_weight,) = run_op("RangedDMatMul", [g, x.detach(), w.detach(), counts], [(f32, (4, 3))])
    assert torch.allclose(ranged[rows], (x @ w.T)[rows], atol=1e-6)
    assert torch.allclose(ranged_weight, torch.einsum("bsk,bsn->kn", g * rows[..., None], x), atol=1e-5)


def test_sparse_products_pick_a_part_of_the_weight_for_each_row():
    """As the client defines it: values [..., b, N] and their indices [..., b] into dim 1 of the weight [K, B, N]."""
    values, weight, gradient = drawn((3, 2, 4), 1), drawn((5, 6, 4), 2), drawn((3, 2, 5), 3)
    at = torch.stack([torch.randperm(6, generator=torch.Generator().manual_seed(i))[:2] for i in range(3)])
    values.requires_grad_(), weight.requires_grad_()
    made = torch.einsum("mbn,kmbn->mbk", values, weight[:, at])

    (found,) = run_op("SparseMatMul", [values.detach(), at, weight.detach()], [(f32, (3, 2, 5))])
    back = run_op(
        "SparseMatMulGrad",
        [gradient, values.detach(), at, weight.detach()],
        [(f32, (3, 2, 4)), (f32, (5, 6, 4))],
    )

    assert torch.allclose(found, made, atol=1e-5)
    assert all(
        torch.allclose(a, b, atol=1e-5)
        for a, b in zip(back, grads(made, (values, weight), gradient), strict=True)
    )


REDUCTIONS = {"ADD": torch.sum, "MAX": torch.amax, "MIN": torch.amin, "MEAN": torch.mean}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@few
@given(shape=st.lists(sizes, min_size=1, max_size=4).map(tuple), data=st.data(), dtype=floats)
def test_reductions_are_those_of_torch(reduction, shape, data, dtype):
    """Over any dims, which stay with size one or go, as the result's type says."""
    dims = sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    keep = data.draw(st.booleans())
    x = drawn(shape, 0, dtype)
    wanted = REDUCTIONS[reduction](x, dims, keepdim=keep)
    kept = dense(dims) if keep else "dense<> : tensor<0xi64>"
    attributes = f'dimensions = {dense(dims)}, keep_dims = {kept}, reduce_kind = "{reduction}"'

    (found,) = run_op("Reduce", [x], [(dtype, tuple(wanted.shape))], attributes)

    assert torch.equal(found, wanted)


def test_other_reductions():
    """Products, flags, places of the largest and smallest, the Euclidean norm, running sums and products."""
    x = drawn((3, 4), 1)

    def reduced(kind, value, dtype, shape=(3,)):
        attributes = f'dimensions = {dense([1])}, keep_dims = dense<> : tensor<0xi64>, reduce_kind = "{kind}"'
        return run_op("Reduce", [value], [(dtype, shape)], attributes)[0]

    assert torch.allclose(reduced("MUL", x, f32), x.prod(1))
    assert torch.equal(reduced("OR", x > 1, torch.bool), (x > 1).any(1))
    assert torch.equal(reduced("AND", x > -1, torch.bool), (x > -1).all(1))
    assert torch.equal(reduced("ARGMAX", x, i64), x.argmax(1))
    assert torch.equal(reduced("ARGMIN", x, torch.int32), x.argmin(1).int())
    (norm,) = run_op("L2Norm", [x], [(f32, (3, 1))], f"dims = {dense([1])}, keepdim = true")
    assert torch.allclose(norm, x.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("name", ["CumSum", "CumProd"])
def test_running_sums_and_products(name, exclusive, reverse):
    """Exclusive ones leave each element's own value out and begin with 0 or 1; reverse ones begin at the end."""
    x = drawn((3, 5), 2)
    source = x.flip(1) if reverse else x
    whole = source.cumsum(1) if name == "CumSum" else source.cumprod(1)
    if exclusive:
        first = torch.full((3, 1), 0.0 if name == "CumSum" else 1.0)
        whole = torch.cat([first, whole[:, :-1]], 1)
    flags = f"exclusive = {str(exclusive).lower()}, reverse = {str(reverse).lower()}"

    (found,) = run_op(name, [x], [(f32, (3, 5))], f"axis = 1 : i64, {flags}")

    assert torch.allclose(found, whole.flip(1) if reverse else whole)


# --- convolutions -----------------------------------------------------------------------------------------


@few
@given(
    dims=st.integers(1, 3), stride=st.integers(1, 2), padding=st.integers(0, 1), dilation=st.integers(1, 2)
)
def test_convolutions_and_their_gradients_are_those_of_torch(dims, stride, padding, dilation):
    """Three passes: forward, to the input, to the kernel; in one to three dims."""
    x, kernel = drawn((2, 3, *[7] * dims), 1).requires_grad_(), drawn((4, 3, *[3] * dims), 2).requires_grad_()
    convolve = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    made = convolve(x, kernel, None, stride, padding, dilation)
    gradient = drawn(tuple(made.shape), 3)
    every = [
        f"{key} = {dense([value] * dims)}"
        for key, value in (("stride", stride), ("padding", padding), ("dilation", dilation))
    ]
    every += [f'data_format = "{("NCL", "NCHW", "NCDHW")[dims - 1]}"', "groups = 1 : i64"]

    def passed(direction, inputs, shape, more=()):
        attributes = ", ".join([f'conv_pass_direction = "{direction}"', *every, *more])
        return run_op("Convolution", [value.detach() for value in inputs], [(f32, tuple(shape))], attributes)[
            0
        ]

    to_input, to_kernel = grads(made, (x, kernel), gradient)

    assert torch.allclose(passed("FWD", (x, kernel), made.shape), made, atol=1e-5)
    assert torch.allclose(
        passed("BWD_INPUT", (gradient, kernel), x.shape, ["transposed"]), to_input, atol=1e-4
    )
    assert torch.allclose(passed("BWD_KERNEL", (x, gradient), kernel.shape), to_kernel, atol=1e-4)


def test_transposed_convolutions_find_what_their_size_leaves_open():
    """A stride of two leaves two sizes possible; the type of the result says which."""
    x, kernel = drawn((2, 3, 4, 4), 1), drawn((3, 5, 3, 3), 2)
    for spare in (0, 1):
        wanted = F.conv_transpose2d(x, kernel, None, 2, 1, spare)
        attributes = (
            f'conv_pass_direction = "FWD", data_format = "NCHW", stride = {dense([2, 2])}, padding = {dense([1, 1])}, '
            f"dilation = {dense([1, 1])}, groups = 1 : i64, transposed"
        )
        (found,) = run_op("Convolution", [x, kernel], [(f32, tuple(wanted.shape))], attributes)
        assert torch.allclose(found, wanted, atol=1e-5)


def test_a_bias_is_added_along_its_dim():
    """BiasAddGrad and ReduceBias sum over all others."""
    x, bias = drawn((2, 3, 4), 1), drawn((3,), 2)

    (added,) = run_op("BiasAdd", [x, bias], [(f32, (2, 3, 4))], "dim = 1 : i64")
    (back,) = run_op("BiasAddGrad", [x], [(f32, (3,))], "dim = 1 : i64")
    (same,) = run_op("ReduceBias", [x, bias], [(f32, (3,))], "dim = 1 : i64")

    assert torch.equal(added, x + bias[:, None])
    assert torch.allclose(back, x.sum((0, 2)))
    assert torch.equal(same, back)


@pytest.mark.parametrize("kind", ["MAX", "AVERAGE"])
@few
@given(window=st.integers(2, 3), stride=st.integers(1, 2), padding=st.integers(0, 1), rounds_up=st.booleans())
def test_pools_and_their_gradients_are_those_of_torch(kind, window, stride, padding, rounds_up):
    """Five dims, of which two are pooled; averages do not count padding."""
    x = drawn((2, 3, 1, 7, 6), 1).requires_grad_()
    three = ([1, window, window], [1, stride, stride], [0, padding, padding])
    if kind == "MAX":
        made = F.max_pool3d(x, *three, ceil_mode=rounds_up)
    else:
        made = F.avg_pool3d(x, *three, ceil_mode=rounds_up, count_include_pad=False)
    gradient = drawn(tuple(made.shape), 2)
    attributes = (
        f'pool_type = "{kind}", data_format = "NCDHW", ksize = {dense([1, 1, *three[0]])}, '
        f"strides = {dense([1, 1, *three[1]])}, dilation = {dense([1] * 5)}, "
        f"padding = {dense([0, 0, 0, 0, *[p for p in three[2] for _ in range(2)]])}"
    )

    (found,) = run_op("Pool", [x.detach(), x.detach()], [(f32, tuple(made.shape))], attributes)
    (back,) = run_op("Pool", [x.detach(), gradient], [(f32, tuple(x.shape))], attributes + ", gradient")

    assert torch.allclose(found, made)
    assert torch.allclose(back, grads(made, x, gradient)[0], atol=1e-6)


# --- normalisations ---------------------------------------------------------------------------------------


@few
@given(rows=st.lists(sizes, min_size=1, max_size=3).map(tuple), width=st.integers(2, 6))
def test_layer_norm_and_its_gradient_are_those_of_torch(rows, width):
    """Operands: input, beta, gamma. The gradient takes mean and deviation from the forward, if that is there."""
    x, beta, gamma = (
        drawn(shape, i).requires_grad_() for i, shape in enumerate([(*rows, width), (width,), (width,)])
    )
    made = F.layer_norm(x, (width,), gamma, beta, 1e-5)
    gradient = drawn((*rows, width), 7)
    plain = [value.detach() for value in (x, beta, gamma)]

    (found,) = run_op("LayerNorm", plain, [(f32, (*rows, width))], "epsilon = 1.0e-5 : f32")
    back = run_op(
        "LayerNormGrad",
        [gradient, *plain],
        [(f32, (*rows, width)), (f32, (width,)), (f32, (width,))],
        "epsilon = 1.0e-5 : f32",
    )

    assert torch.equal(found, made)
    for got, wanted in zip(back, grads(made, (x, beta, gamma), gradient), strict=True):
        assert torch.allclose(got, wanted, atol=1e-4)


def test_group_norm_and_its_gradient_are_those_of_torch():
    """gamma and beta come as [groups, channels of a group]; the gradient takes epsilon from the forward."""
    x, gamma, beta = (drawn(shape, i).requires_grad_() for i, shape in enumerate([(2, 4, 3, 3), (4,), (4,)]))
    made = F.group_norm(x, 2, gamma, beta, 1e-3)
    gradient = drawn((2, 4, 3, 3), 7)
    big, small = "tensor<2x4x3x3xf32>", "tensor<2x2xf32>"
    text = f"""
    func @graph(%x: {big}, %g: {small}, %b: {small}, %d: {big}) -> ({big}, {big}, {small}, {small}) {{
      %0 = cirh.GroupNorm %x, %g, %b {{affine = true, data_format = "NCHW", epsilon = 1.0e-3 : f32, num_groups = 2 : i64}}
        : ({big}, {small}, {small}) -> {big}
      %1, %2, %3 = cirh.GroupNormGrad %d, %x, %g {{affine = true, data_format = "NCHW", num_groups = 2 : i64}}
        : ({big}, {big}, {small}) -> ({big}, {small}, {small})
      return %0, %1, %2, %3 : {big}, {big}, {small}, {small}
    }}"""

    found = run(text, x.detach(), gamma.detach().reshape(2, 2), beta.detach().reshape(2, 2), gradient)

    assert torch.allclose(found[0], made, atol=1e-5)
    for got, wanted in zip(found[1:], grads(made, (x, gamma, beta), gradient), strict=True):
        assert torch.allclose(got.reshape(wanted.shape), wanted, atol=1e-4)


def test_batch_norm_and_its_gradient_are_those_of_torch():
    """While training, results are the new running statistics; the gradient measures the batch itself."""
    x, gamma, beta = (drawn(shape, i).requires_grad_() for i, shape in enumerate([(4, 3, 2, 2), (3,), (3,)]))
    mean, variance = drawn((3,), 5), drawn((3,), 6).abs()
    running = mean.clone(), variance.clone()
    made = F.batch_norm(x, *running, gamma, beta, True, 0.1, 1e-5)
    gradient = drawn((4, 3, 2, 2), 7)
    big, small = "tensor<4x3x2x2xf32>", "tensor<3xf32>"
    text = f"""
    func @graph(%x: {big}, %g: {small}, %b: {small}, %m: {small}, %v: {small}, %d: {big})
        -> ({big}, {small}, {small}, {big}, {small}, {small}) {{
      %0, %1, %2 = cirh.FusedBatchNorm %x, %g, %b, %m, %v {{data_format = "NCHW", epsilon = 1.0e-5 : f32,
        exponential_avg_factor = 1.0e-1 : f32, is_training = true}}
        : ({big}, {small}, {small}, {small}, {small}) -> ({big}, {small}, {small})
      %3, %4, %5 = cirh.FusedBatchNormGrad %d, %x, %g {{data_format = "NCHW", epsilon = 1.0e-5 : f32, is_training = true}}
        : ({big}, {big}, {small}) -> ({big}, {small}, {small})
      return %0, %1, %2, %3, %4, %5 : {big}, {small}, {small}, {big}, {small}, {small}
    }}"""

    found = run(text, x.detach(), gamma.detach(), beta.detach(), mean, variance, gradient)

    wanted = [made, *running, *grads(made, (x, gamma, beta), gradient)]
    for got, expected in zip(found, wanted, strict=True):
        assert torch.allclose(got, expected, atol=1e-4)


@few
@given(shape=st.lists(sizes, min_size=1, max_size=4).map(tuple), data=st.data(), dtype=floats)
def test_softmax_is_that_of_torch(shape, data, dtype):
    """Along any dim."""
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = drawn(shape, 0, dtype)

    (found,) = run_op("Softmax", [x], [(dtype, shape)], f"axis = {axis} : i64")

    assert torch.equal(found, torch.softmax(x, axis))


@few
@given(rows=sizes, classes=st.integers(2, 6), dtype=st.sampled_from([i64, torch.int32]))
def test_cross_entropy_gives_losses_and_gradients(rows, classes, dtype):
    """One loss a row, and what autograd makes of their sum; a class of -100 counts for nothing."""
    logits = drawn((rows, classes), 1).requires_grad_()
    target = torch.randint(0, classes, (rows,), generator=torch.Generator().manual_seed(rows))
    target[0] = -100
    each = F.cross_entropy(logits, target, reduction="none")

    loss, gradient = run_op(
        "SparseSoftmaxCrossEntropyWithLogits",
        [logits.detach(), target.to(dtype)],
        [(f32, (rows,)), (f32, (rows, classes))],
        "axis = 1 : i64",
    )

    assert torch.equal(loss, each)
    assert torch.allclose(gradient, grads(each.sum(), logits, None)[0], atol=1e-6)


def test_cross_entropy_with_probabilities():
    """The same where each row has probabilities instead of a class."""
    logits, wanted = drawn((3, 4), 1).requires_grad_(), torch.softmax(drawn((3, 4), 2), 1)
    each = -(wanted * torch.log_softmax(logits, 1)).sum(1)

    loss, gradient = run_op(
        "SoftmaxCrossEntropyWithLogits",
        [logits.detach(), wanted],
        [(f32, (3,)), (f32, (3, 4))],
        "axis = 1 : i64",
    )

    assert torch.allclose(loss, each, atol=1e-6)
    assert torch.allclose(gradient, grads(each.sum(), logits, None)[0], atol=1e-6)


@pytest.mark.parametrize("dtype", [f32, torch.float16, torch.bfloat16], ids=str)
def test_the_gradient_of_a_softmax_is_put_together_again(dtype):
    """The client writes it as nine operations in float32; ATen's one rounds once as well, so they agree to that rounding."""
    from openwafer.compat.cirh import parse
    from openwafer.compat.cirh._fuse import SOFTMAX_GRAD, fuse

    ty, wide, sums = kind((dtype, (3, 4, 5))), kind((f32, (3, 4, 5))), kind((f32, (3, 4)))
    cast = "cirh.Cast %{0} {{Truncate = false}} : {1} -> {2}"
    narrow = dtype is not f32
    text = f"""
    func @graph(%x: {ty}, %g: {ty}) -> {ty} {{
      %y = cirh.Softmax %x {{axis = 2 : i64}} : {ty}
      %gw = {cast.format("g", ty, wide) if narrow else f"cirh.Abs %g : {ty}"}
      %yw = {cast.format("y", ty, wide) if narrow else f"cirh.Abs %y : {ty}"}
      %p = cirh.Mul %gw, %yw : {wide}
      %s = cirh.Reduce %p {{dimensions = {dense([2])}, keep_dims = dense<> : tensor<0xi64>, reduce_kind = "ADD"}}
        : ({wide}) -> {sums}
      %b = cirh.BroadcastInDim %s {{broadcast_dimensions = {dense([0, 1])}}} : ({sums}) -> {wide}
      %d = cirh.Sub %gw, %b : {wide}
      %r = cirh.Mul %yw, %d : {wide}
      %z = {cast.format("r", wide, ty) if narrow else f"cirh.Abs %r : {ty}"}
      return %z : {ty}
    }}"""
    if not narrow:
        text = text.replace("%yw = cirh.Abs %y", "%q = cirh.Abs %y").replace("%yw", "%y").replace("%q", "%yw")
    x, g = drawn((3, 4, 5), 1, dtype), drawn((3, 4, 5), 2, dtype)

    fused = fuse(parse(text))

    assert [op.name for op in fused.ops].count(SOFTMAX_GRAD) == 1
    assert "Reduce" not in [op.name for op in fused.ops]
    (plain,) = run(text, x, g)
    (whole,) = run(text, x, g, change=fuse)
    assert torch.allclose(whole.float(), plain.float(), atol=1e-6 if not narrow else 4e-3)


def test_a_softmax_gradient_whose_parts_are_needed_stays_in_parts():
    """What something else reads, or what is no such gradient, is left as it was written."""
    from openwafer.compat.cirh import parse
    from openwafer.compat.cirh._fuse import fuse

    ty, sums = "tensor<3x5xf32>", "tensor<3xf32>"
    text = f"""
    func @graph(%x: {ty}, %g: {ty}) -> ({ty}, {sums}) {{
      %y = cirh.Softmax %x {{axis = 1 : i64}} : {ty}
      %p = cirh.Mul %g, %y : {ty}
      %s = cirh.Reduce %p {{dimensions = {dense([1])}, keep_dims = dense<> : tensor<0xi64>, reduce_kind = "ADD"}}
        : ({ty}) -> {sums}
      %b = cirh.BroadcastInDim %s {{broadcast_dimensions = {dense([0])}}} : ({sums}) -> {ty}
      %d = cirh.Sub %g, %b : {ty}
      %r = cirh.Mul %y, %d : {ty}
      return %r, %s : {ty}, {sums}
    }}"""
    function = parse(text)

    assert fuse(function) is function
