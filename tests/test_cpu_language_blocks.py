"""What Triton's language does with whole blocks on the CPU target, against numpy: views, sorting, gathers, products."""

# What stands for a type in a kernel's parameters is none to its callers.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import itertools

import numpy as np
import pytest
import triton
import triton.language as tl

from tests.language import (
    EPSILON,
    F8,
    FLOATS,
    INTEGERS,
    array,
    assert_close,
    assert_equal,
    cases,
    every,
    numbers,
    output,
    places,
    split,
    tensor,
)

pytestmark = [
    pytest.mark.usefixtures("cpu_driver"),
    pytest.mark.sample,
    pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning", "ignore::DeprecationWarning"),
]

ALL = (*FLOATS, *INTEGERS, *F8[:2], "int1")

# ---- views and moves -------------------------------------------------------------------------------------------------


@triton.jit
def moved(x, y, OP: tl.constexpr):
    """Of two [A, B] a block with all elements of the result in rows."""
    if OP == "trans":
        r = tl.trans(x)
    elif OP == "permute":
        r = tl.permute(tl.reshape(x, (2, x.shape[0] // 2, x.shape[1])), (2, 0, 1))
    elif OP == "reshape":
        r = tl.reshape(x, (x.shape[1], x.shape[0]))
    elif OP == "ravel":
        r = tl.ravel(x)
    elif OP == "expand_dims":
        r = tl.expand_dims(x, 1)
    elif OP == "broadcast_to":
        r = tl.broadcast_to(tl.reshape(x, (1, x.shape[0], x.shape[1])), (2, x.shape[0], x.shape[1]))
    elif OP == "join":
        r = tl.join(x, y)
    elif OP == "interleave":
        r = tl.interleave(x, y)
    elif OP == "split":
        r, _ = tl.split(tl.reshape(x, (x.shape[0], x.shape[1] // 2, 2)))
    elif OP == "flip":
        r = tl.flip(x, 0)
    elif OP == "flip 1":
        r = tl.flip(x, 1)
    else:
        tl.static_assert(OP == "where")
        r = tl.where(tl.arange(0, x.shape[0])[:, None] % 2 == 0, x, y)
    return r


@triton.jit
def move_kernel(x, y, out, n, A: tl.constexpr, B: tl.constexpr, OP: tl.constexpr):
    at = places((A, B))
    r = moved(tl.load(x + at, mask=at < n, other=0), tl.load(y + at), OP)
    tl.store(out + places(r.shape), r)


def _interleaved(x, y):
    return np.stack([x, y], -1).reshape(len(x), -1)


MOVES = {
    "trans": lambda x, y: x.T, "permute": lambda x, y: x.reshape(2, len(x) // 2, -1).transpose(2, 0, 1),
    "reshape": lambda x, y: x, "ravel": lambda x, y: x, "expand_dims": lambda x, y: x,
    "broadcast_to": lambda x, y: np.stack([x, x]), "join": lambda x, y: np.stack([x, y], -1),
    "interleave": _interleaved, "split": lambda x, y: x[:, ::2], "flip": lambda x, y: x[::-1],
    "flip 1": lambda x, y: x[:, ::-1], "where": lambda x, y: np.where(np.arange(len(x))[:, None] % 2 == 0, x, y),
}  # fmt: skip


@pytest.mark.parametrize(("op", "dtype", "shape", "n"), [
    (op, dtype, shape, n) for op, dtype, shape, n in cases(
        MOVES, ("fp16", "fp32", "fp64", "int8", "int64", "bf16"), shapes=((4, 32), (16, 4)))
])  # fmt: skip
def test_moves(op, dtype, shape, n):
    x, y = numbers(dtype, shape, 1), numbers(dtype, shape, 2)
    seen = x.copy()
    seen.reshape(-1)[n:] = 0
    wanted = np.ascontiguousarray(MOVES[op](seen, y))
    found = output(dtype, wanted.size)
    move_kernel[(1,)](tensor(x), tensor(y), found, n, A=shape[0], B=shape[1], OP=op)
    assert_equal(array(found), wanted)


@triton.jit
def cat_kernel(x, y, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + tl.arange(0, 2 * N), tl.cat(tl.load(x + at), tl.load(y + at), can_reorder=True))


@pytest.mark.parametrize(("dtype", "n"), every(ALL, (8, 64)))
def test_cat(dtype, n):
    """In any order."""
    x, y = numbers(dtype, (n,), 1, special=False), numbers(dtype, (n,), 2, special=False)
    found = output(dtype, 2 * n)
    cat_kernel[(1,)](tensor(x), tensor(y), found, N=n)
    bits = f"u{x.itemsize}"
    assert_equal(np.sort(array(found).view(bits)), np.sort(np.concatenate([x, y]).view(bits)))


@triton.jit
def gather_kernel(x, index, out, FROM: tl.constexpr, TO: tl.constexpr, AXIS: tl.constexpr):
    r = tl.gather(tl.load(x + places(FROM)), tl.load(index + places(TO)), AXIS)
    tl.store(out + places(TO), r)


@pytest.mark.parametrize(("dtype", "axis", "wide"), every(
    ("fp16", "bf16", "fp32", "fp64", "int8", "int16", "int32", "int64"), (0, 1), ("int32", "int64")))  # fmt: skip
def test_gather(dtype, axis, wide):
    x, shape = numbers(dtype, (8, 16)), ((32, 16), (8, 4))[axis]
    index = np.random.default_rng(1).integers(0, x.shape[axis], shape).astype(wide)
    found = output(dtype, index.size)
    gather_kernel[(1,)](tensor(x), tensor(index), found, FROM=x.shape, TO=shape, AXIS=axis)
    assert_equal(array(found), np.take_along_axis(x, index, axis))


@triton.jit
def histogram_kernel(x, out, n, N: tl.constexpr, BINS: tl.constexpr, MASKED: tl.constexpr):
    at = tl.arange(0, N)
    v = tl.load(x + at)
    r = tl.histogram(v, BINS, mask=at < n) if MASKED else tl.histogram(v, BINS)
    tl.store(out + tl.arange(0, BINS), r)


@pytest.mark.parametrize(("dtype", "bins", "size", "masked"), every(
    ("int32", "uint32"), (2, 16, 64), (16, 256), (False, True)))  # fmt: skip
def test_histogram(dtype, bins, size, masked):
    """Numbers outside of the bins are not counted."""
    x, n = np.random.default_rng(bins).integers(0, bins + 3, size).astype(dtype), size * 5 // 8
    found = output("int32", bins)
    histogram_kernel[(1,)](tensor(x), found, n, N=size, BINS=bins, MASKED=masked)
    seen = x[:n] if masked else x
    assert_equal(array(found), np.bincount(seen, minlength=bins)[:bins].astype(np.int32))


# ---- sorting ---------------------------------------------------------------------------------------------------------


@triton.jit
def sort_kernel(x, out, A: tl.constexpr, B: tl.constexpr, DOWN: tl.constexpr):
    at = places((A, B))
    tl.store(out + at, tl.sort(tl.load(x + at), descending=DOWN))


@pytest.mark.parametrize(("dtype", "down", "shape"), every(
    (*FLOATS, *INTEGERS), (False, True), ((1, 64), (8, 16), (32, 2))))  # fmt: skip
def test_sort(dtype, down, shape):
    x = numbers(dtype, shape, 3, special=dtype in INTEGERS)
    found = output(dtype, x.size)
    sort_kernel[(1,)](tensor(x), found, A=shape[0], B=shape[1], DOWN=down)
    wanted = np.sort(x, -1)
    assert_equal(array(found), wanted[:, ::-1] if down else wanted)


@triton.jit
def topk_kernel(x, out, A: tl.constexpr, B: tl.constexpr, K: tl.constexpr):
    tl.store(out + places((A, K)), tl.topk(tl.load(x + places((A, B))), K))


@pytest.mark.skipif(not hasattr(tl, "topk"), reason="this Triton has no topk")
@pytest.mark.parametrize(("dtype", "k", "shape"), every(
    ("fp32", "fp16", "int32", "uint16"), (2, 4), ((1, 64), (8, 16))))  # fmt: skip
def test_topk(dtype, k, shape):
    x = numbers(dtype, shape, 4, special=dtype in INTEGERS)
    found = output(dtype, shape[0] * k)
    topk_kernel[(1,)](tensor(x), found, A=shape[0], B=shape[1], K=k)
    assert_equal(array(found), np.sort(x, -1)[:, ::-1][:, :k])


# ---- products --------------------------------------------------------------------------------------------------------


@triton.jit
def dot_kernel(
    a, b, c, out, m, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, ACC: tl.constexpr, MODE: tl.constexpr
):
    i, j, depth = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    zero = tl.zeros((1, 1), tl.float32).to(a.dtype.element_ty)
    x = tl.load(a + i[:, None] * K + depth, mask=(i[:, None] < m) & (depth < k), other=zero)
    y = tl.load(b + depth[:, None] * N + j, mask=depth[:, None] < k, other=zero)
    to = i[:, None] * N + j
    if ACC:
        r = tl.dot(x, y, tl.load(c + to), input_precision=MODE, out_dtype=c.dtype.element_ty)
    else:
        r = tl.dot(x, y, input_precision=MODE, out_dtype=c.dtype.element_ty)
    tl.store(out + to, r, mask=i[:, None] < m)


TILES = ((16, 16, 32), (32, 64, 32), (16, 32, 128), (128, 16, 16))
PAIRS = [("fp32", "fp32", "ieee"), ("fp32", "fp32", "tf32"), ("fp32", "fp32", "tf32x3"), ("fp64", "fp64", "ieee"),
         ("fp16", "fp32", "ieee"), ("fp16", "fp16", "ieee"), ("bf16", "fp32", "ieee"), ("int8", "int32", "ieee"),
         ("fp8e4nv", "fp32", "ieee"), ("fp8e5", "fp32", "ieee")]  # fmt: skip


@pytest.mark.parametrize("masked", (False, True))
@pytest.mark.parametrize("acc", (False, True))
@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize("pair", PAIRS, ids=" ".join)
def test_dot(pair, tile, acc, masked):
    """Sums are exact for integers; else within their roundings. No mode is less exact than ieee."""
    (dtype, target, mode), (rows, columns, depth) = pair, tile
    m, k = (rows - 3, depth - 5) if masked else (rows, depth)
    a = numbers(dtype, (rows, depth), 5, special=dtype in INTEGERS)
    b = numbers(dtype, (depth, columns), 6, special=dtype in INTEGERS)
    c = numbers(target, (rows, columns), 7, special=False)
    found = output(target, c.size)
    dot_kernel[(1,)](tensor(a), tensor(b), tensor(c), found, m, k, M=rows, N=columns, K=depth, ACC=acc, MODE=mode)
    exact = np.int64 if dtype in INTEGERS else np.longdouble if dtype == "fp64" else np.float64
    x, y = a[:m, :k].astype(exact), b[:k].astype(exact)
    wanted = x @ y + (c[:m].astype(exact) if acc else 0)
    found, _ = split(found, m * columns, wanted)
    if target in INTEGERS:
        assert_equal(found, wanted.astype(np.int32))
    else:
        size = np.abs(x) @ np.abs(y) + (np.abs(c[:m].astype(exact)) if acc else 0)
        assert_close(found, wanted, 16 * EPSILON[target], size.astype(np.float64).reshape(-1))


@triton.jit
def batch_kernel(a, b, out, B: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    x, y = tl.load(a + places((B, M, K))), tl.load(b + places((B, K, N)))
    tl.store(out + places((B, M, N)), tl.dot(x, y, out_dtype=out.dtype.element_ty))


@pytest.mark.parametrize(("dtype", "batch"), every(("fp32", "fp16", "bf16", "int8"), (1, 2, 4)))
def test_dot_of_batches(dtype, batch):
    target = "int32" if dtype == "int8" else "fp32"
    a, b = numbers(dtype, (batch, 16, 32), 5, special=False), numbers(dtype, (batch, 32, 16), 6, special=False)
    found = output(target, batch * 256)
    batch_kernel[(1,)](tensor(a), tensor(b), found, B=batch, M=16, N=16, K=32)
    wanted = a.astype(np.float64) @ b.astype(np.float64)
    assert_close(array(found), wanted, 4 * 2.0**-24, (np.abs(a.astype(float)) @ np.abs(b.astype(float))).reshape(-1))


@triton.jit
def scaled_kernel(
    a, b, sa, sb, out, FA: tl.constexpr, FB: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    AM: tl.constexpr, AK: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr, HA: tl.constexpr, HB: tl.constexpr,
):  # fmt: skip
    x, y = tl.load(a + places((AM, AK))), tl.load(b + places((BK, BN)))
    s = tl.load(sa + places((M, K // 32))) if HA else None
    t = tl.load(sb + places((N, K // 32))) if HB else None
    r = tl.dot_scaled(x, s, FA, y, t, FB, lhs_k_pack=AM == M, rhs_k_pack=BN == N)
    tl.store(out + places((M, N)), r)


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
FORMATS = {"e4m3": "fp8e4nv", "e5m2": "fp8e5", "bf16": "bf16", "fp16": "fp16"}


def operand(form, shape, axis, seed):
    """In a format, e2m1 with two along the axis in a byte; and its numbers."""
    if form != "e2m1":
        x = numbers(FORMATS[form], shape, seed, special=False)
        return x, x.astype(np.float64)
    packed = np.random.default_rng(seed).integers(0, 256, [n // 2 if d == axis else n for d, n in enumerate(shape)])
    halves = E2M1[packed & 15], E2M1[packed >> 4]
    return packed.astype(np.uint8), np.stack(halves, axis + 1).reshape(shape).astype(np.float64)


@pytest.mark.parametrize(("left", "right", "along_k", "scaled"), [
    each for each in itertools.product(("e2m1", *FORMATS), ("e2m1", *FORMATS), (True, False), ("lr", "l", "r"))
    if each[2] or each[0] == each[1] == "e2m1"
])  # fmt: skip
def test_scaled_dot(left, right, along_k, scaled):
    m, n, k = 32, 16, 128
    a, x = operand(left, (m, k), 1 if along_k else 0, 1)
    b, y = operand(right, (k, n), 0 if along_k else 1, 2)
    scales = np.random.default_rng(3).integers(118, 134, (m + n, k // 32)).astype(np.uint8)
    scales[3, 1], scales[m + 1, 2] = 0, 255  # the least, and NaN
    numbers = np.where(scales == 255, np.nan, 2.0 ** (scales.astype(np.float64) - 127)).repeat(32, 1)
    found = output("fp32", m * n)
    scaled_kernel[(1,)](
        tensor(a), tensor(b), tensor(scales[:m]), tensor(scales[m:]), found, FA=left, FB=right, M=m, N=n, K=k,
        AM=a.shape[0], AK=a.shape[1], BK=b.shape[0], BN=b.shape[1], HA="l" in scaled, HB="r" in scaled,
    )  # fmt: skip
    x = x * numbers[:m] if "l" in scaled else x
    y = y * numbers[m:].T if "r" in scaled else y
    assert_close(array(found), x @ y, 16 * 2.0**-24, (np.abs(x) @ np.abs(y)).reshape(-1))


# ---- random numbers --------------------------------------------------------------------------------------------------


@triton.jit
def random_kernel(out, seed, N: tl.constexpr, OP: tl.constexpr):
    at = tl.arange(0, N)
    if OP == "randint":
        tl.store(out + at, tl.randint(seed, at))
    elif OP == "randint4x":
        a, b, c, d = tl.randint4x(seed, at)
        tl.store(out + at, a)
        tl.store(out + N + at, b)
        tl.store(out + 2 * N + at, c)
        tl.store(out + 3 * N + at, d)
    elif OP == "rand":
        tl.store(out + at, tl.rand(seed, at))
    else:
        tl.static_assert(OP == "randn")
        tl.store(out + at, tl.randn(seed, at))


def philox(seed, count, rounds=10):
    """Philox4x32 (Salmon et al., 2011): the four words of each counter."""
    c = [np.arange(count, dtype=np.uint64), *(np.zeros(count, np.uint64) for _ in range(3))]
    k, mask = [seed & 0xFFFFFFFF, seed >> 32], np.uint64(0xFFFFFFFF)
    for _ in range(rounds):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        low, high = (a & mask, b & mask), (a >> np.uint64(32), b >> np.uint64(32))
        c = [high[1] ^ c[1] ^ np.uint64(k[0]), low[1], high[0] ^ c[3] ^ np.uint64(k[1]), low[0]]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return [word.astype(np.uint32) for word in c]


@pytest.mark.parametrize(("seed", "op"), every((0, 7, 2**31, 2**40 + 5), ("randint", "randint4x")))
def test_philox(seed, op):
    words = philox(seed, 64)
    wanted = np.stack(words if op == "randint4x" else words[:1]).reshape(-1)
    found = output("uint32", wanted.size)
    random_kernel[(1,)](found, seed, N=64, OP=op)
    assert_equal(array(found), wanted)


@pytest.mark.parametrize("seed", (0, 7, 2**40 + 5))
def test_uniform_and_normal_numbers(seed):
    n = 4096
    found = output("fp32", n)
    random_kernel[(1,)](found, seed, N=n, OP="rand")
    word = philox(seed, n)[0].view(np.int32)
    size = np.where(word < 0, -word - 1, word).astype(np.float32)
    assert_equal(array(found), size * np.float32(4.6566127342e-10))
    random_kernel[(1,)](found, seed, N=n, OP="randn")
    normal = array(found).astype(np.float64)
    assert abs(normal.mean()) < 5 / np.sqrt(n) and abs(normal.std() - 1) < 5 / np.sqrt(2 * n)
