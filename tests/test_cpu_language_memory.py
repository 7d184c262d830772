"""How Triton's language reads and writes on the CPU target, and what it does around that: masks, atomics, descriptors,
grids, loops, prints, against numpy."""

# What stands for a type in a kernel's parameters is none to its callers.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import itertools
import os
import re
import sys

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from fusedsl.codegen.cpu.errors import CannotCompile
from tests.language import (
    F8,
    FLOATS,
    INTEGERS,
    TORCH,
    array,
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

ALL = (*FLOATS, *INTEGERS, *F8, "int1")

# ---- loads and stores ------------------------------------------------------------------------------------------------


@triton.jit
def copy_kernel(x, out, n, SHAPE: tl.constexpr, OTHER: tl.constexpr, HOW: tl.constexpr):
    at = places(SHAPE)
    zero = tl.zeros((1,), tl.float32).to(x.dtype.element_ty) if OTHER else None
    if HOW == "volatile":
        v = tl.load(x + at, mask=at < n, other=zero, volatile=True)
    elif HOW == "modified":
        v = tl.load(x + at, mask=at < n, other=zero, cache_modifier=".cg", eviction_policy="evict_first")
    else:
        v = tl.load(x + at, mask=at < n, other=zero)
    if OTHER:
        tl.store(out + at, v, cache_modifier=".wt" if HOW == "modified" else "")
    else:
        tl.store(out + at, v, mask=at < n, eviction_policy="evict_last" if HOW == "modified" else "")


@pytest.mark.parametrize(("dtype", "other", "how", "shape", "n"), cases(
    ALL, (False, True), ("plain",), shapes=((64,), (4, 32)))
    + cases(("fp32", "bf16"), (False, True), ("modified", "volatile"), shapes=((64,),)))  # fmt: skip
def test_loads_and_stores(dtype, other, how, shape, n):
    x = numbers(dtype, shape, 1)
    found = output(dtype, x.size)
    copy_kernel[(1,)](tensor(x), found, n, SHAPE=shape, OTHER=other, HOW=how)
    if other:
        wanted = x.copy()
        wanted.reshape(-1)[n:] = 0
        assert_equal(array(found), wanted)
    else:
        assert_equal(*split(found, n, x))


@triton.jit
def strided_kernel(x, out, m, n, sx, tx, sy, ty, A: tl.constexpr, B: tl.constexpr, POINTERS: tl.constexpr):
    i, j = tl.program_id(0) * A + tl.arange(0, A), tl.program_id(1) * B + tl.arange(0, B)
    inside = (i[:, None] < m) & (j[None, :] < n)
    p, q = x + i[:, None] * sx + j[None, :] * tx, out + i[:, None] * sy + j[None, :] * ty
    if POINTERS:  # a pointer for each element that nothing is known of
        p = tl.where(inside, p, x)
    tl.store(q, tl.load(p, mask=inside), mask=inside)


@pytest.mark.parametrize(("dtype", "turn", "step", "pointers"), every(
    ("fp16", "bf16", "fp32", "fp64", "int8", "int16", "int64"), ("", "in", "out", "both"), (1, 3),
    (False, True)))  # fmt: skip
def test_strides(dtype, turn, step, pointers):
    m, n = 21, 45
    x = numbers(dtype, (m, n), 2)
    given = torch.zeros((m, n * step), dtype=TORCH[dtype])[:, ::step]
    given.copy_(tensor(x).view(m, n))
    if turn in ("in", "both"):
        given = given.t().contiguous().t()
    found = torch.zeros((n, m), dtype=TORCH[dtype]).t() if turn in ("out", "both") else torch.zeros_like(given)
    strided_kernel[(2, 3)](given, found, m, n, *given.stride(), *found.stride(), A=16, B=16, POINTERS=pointers)
    assert_equal(array(found.contiguous().view(-1)), x)


# ---- atomics ---------------------------------------------------------------------------------------------------------


@triton.jit
def change(p, v, mask, OP: tl.constexpr, SEM: tl.constexpr):
    if OP == "add":
        r = tl.atomic_add(p, v, mask=mask, sem=SEM)
    elif OP == "max":
        r = tl.atomic_max(p, v, mask=mask, sem=SEM)
    elif OP == "min":
        r = tl.atomic_min(p, v, mask=mask, sem=SEM)
    elif OP == "and":
        r = tl.atomic_and(p, v, mask=mask, sem=SEM)
    elif OP == "or":
        r = tl.atomic_or(p, v, mask=mask, sem=SEM)
    elif OP == "xor":
        r = tl.atomic_xor(p, v, mask=mask, sem=SEM)
    else:
        tl.static_assert(OP == "xchg")
        r = tl.atomic_xchg(p, v, mask=mask, sem=SEM)
    return r


@triton.jit
def atomic_kernel(x, y, old, n, N: tl.constexpr, OP: tl.constexpr, SEM: tl.constexpr, ONE: tl.constexpr):
    at = tl.arange(0, N)
    if ONE:
        for i in range(N):
            tl.store(old + i, change(y + i, tl.load(x + i), i < n, OP, SEM), mask=i < n)
    else:
        tl.store(old + at, change(y + at, tl.load(x + at), at < n, OP, SEM), mask=at < n)


def on_bits(function):
    def applied(x, y):
        bits = f"u{x.itemsize}"
        return function(x.view(bits), y.view(bits)).view(x.dtype)

    return applied


CHANGES = {
    "add": np.add, "max": np.maximum, "min": np.minimum, "xchg": lambda old, new: new,
    "and": on_bits(np.bitwise_and), "or": on_bits(np.bitwise_or), "xor": on_bits(np.bitwise_xor),
}  # fmt: skip
WIDE = ("int32", "int64", "uint32", "uint64")


def changes():
    for op, dtype in itertools.product(CHANGES, (*FLOATS, *WIDE)):
        if dtype in ("fp16", "bf16") and op != "add":
            continue
        for sem, single in itertools.product(("relaxed", "acquire", "release", "acq_rel"), (False, True)):
            yield from ((op, dtype, sem, single, n) for n in ((16, 11) if sem == "relaxed" else (11,)))


@pytest.mark.parametrize(("op", "dtype", "sem", "single", "n"), list(changes()))
def test_atomics(op, dtype, sem, single, n):
    x, y = (numbers(dtype, (16,), seed, special=dtype in INTEGERS) for seed in (3, 4))
    found, old = tensor(y), output(dtype, 16)
    atomic_kernel[(1,)](tensor(x), found, old, n, N=16, OP=op, SEM=sem, ONE=single)
    wanted = y.copy()
    wanted[:n] = CHANGES[op](y, x)[:n]
    assert_equal(array(found), wanted)
    assert_equal(*split(old, n, y))


@triton.jit
def tally_kernel(out, x, N: tl.constexpr, OP: tl.constexpr):
    at = tl.program_id(0) * N + tl.arange(0, N)
    change(out + at % 4, tl.load(x + at), at >= 0, OP, "acq_rel")


@pytest.mark.parametrize(("op", "dtype"), [
    *itertools.product(("add", "max", "min"), ("fp32", "fp64", *WIDE)), ("add", "fp16"), ("add", "bf16"),
    *itertools.product(("and", "or", "xor"), WIDE)])  # fmt: skip
def test_atomics_of_many_programs(op, dtype):
    """On the same few numbers, small enough that sums are exact in any order."""
    x = (np.arange(640) % 3 == 1).astype(np.float32 if dtype == "bf16" else array(output(dtype, 1)).dtype)
    x = x.astype(array(output(dtype, 1)).dtype)
    found = tensor(np.zeros(4, x.dtype))
    tally_kernel[(20,)](found, tensor(x), N=32, OP=op)
    wanted = np.zeros(4, x.dtype)
    for row in x.reshape(-1, 4):
        wanted = CHANGES[op](wanted, row)
    assert_equal(array(found), wanted)


@triton.jit
def exchange_kernel(y, expected, new, old, N: tl.constexpr, SEM: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(old + at, tl.atomic_cas(y + at, tl.load(expected + at), tl.load(new + at), sem=SEM))


@pytest.mark.parametrize(("dtype", "sem"), every(
    (*FLOATS, "int16", *WIDE), ("relaxed", "acquire", "release", "acq_rel")))  # fmt: skip
def test_compare_and_swap(dtype, sem):
    y, new = (numbers(dtype, (16,), seed, special=dtype in INTEGERS) for seed in (5, 6))
    expected = np.where(np.arange(16) % 2 == 0, y, new)
    found, old = tensor(y), output(dtype, 16)
    exchange_kernel[(1,)](found, tensor(expected), tensor(new), old, N=16, SEM=sem)
    assert_equal(array(old), y)
    assert_equal(array(found), np.where(y == expected, new, y))


@triton.jit
def atomic_copy_kernel(x, out, n, N: tl.constexpr, LOAD: tl.constexpr, STORE: tl.constexpr):
    at = tl.arange(0, N)
    tl.atomic_store(out + at, tl.atomic_load(x + at, mask=at < n, sem=LOAD), mask=at < n, sem=STORE)


@triton.jit
def relay_kernel(x, out, flag):
    """Each program waits for the one before it."""
    i = tl.program_id(0)
    tl.atomic_poll(flag, i)
    tl.store(out + i, tl.load(out + i - 1, mask=i > 0, other=0) + tl.load(x + i))
    tl.atomic_store(flag, i + 1)


@triton.jit
def spin_kernel(x, out, flag):
    """The same, with a loop of its own."""
    i = tl.program_id(0)
    while tl.load(flag, volatile=True) != i:
        pass
    tl.store(out + i, tl.load(out + i - 1, mask=i > 0, other=0) + tl.load(x + i))
    tl.atomic_xchg(flag, i + 1)


def test_programs_that_spin():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x, flag = numbers("int32", (300,), 8), torch.zeros(1, dtype=torch.int32)
        found = output("int32", 300)
        spin_kernel[(300,)](tensor(x), found, flag)
        assert_equal(array(found), np.cumsum(x, dtype=np.int32))
    finally:
        torch.set_num_threads(threads)


@triton.jit
def late_kernel(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, tl.atomic_poll(x + at, 1, timeout_ns=1000))


if hasattr(tl, "atomic_load"):

    @pytest.mark.parametrize(("dtype", "load", "store", "n"), every(
        (*FLOATS, *WIDE, "int16"), ("relaxed", "acquire"), ("relaxed", "release"), (16, 11)))  # fmt: skip
    def test_atomic_loads_and_stores(dtype, load, store, n):
        x = numbers(dtype, (16,), 7)
        found = output(dtype, 16)
        atomic_copy_kernel[(1,)](tensor(x), found, n, N=16, LOAD=load, STORE=store)
        assert_equal(*split(found, n, x))


if hasattr(tl, "atomic_poll"):

    @pytest.mark.parametrize("dtype", ("int16", "int32", "int64"))
    def test_programs_that_wait_for_each_other(dtype):
        x, flag = numbers("int32", (300,), 8), torch.zeros(1, dtype=TORCH[dtype])
        found = output("int32", 300)
        relay_kernel[(300,)](tensor(x), found, flag)
        assert flag.item() == 300
        assert_equal(array(found), np.cumsum(x, dtype=np.int32))

    @pytest.mark.parametrize("dtype", ("int16", "int32", "int64"))
    def test_waiting_in_vain(dtype):
        x = np.arange(4).astype(dtype)
        found = output("int8", 4)
        late_kernel[(1,)](tensor(x), found, N=4)
        assert_equal(array(found), (x == 1).astype(np.int8))


# ---- descriptors and block pointers ----------------------------------------------------------------------------------


@triton.jit
def descriptor_kernel(x, out, m, n, A: tl.constexpr, B: tl.constexpr):
    i, j = tl.program_id(0) * A, tl.program_id(1) * B
    source = tl.make_tensor_descriptor(x, [m, n], [n, 1], [A, B])
    target = tl.make_tensor_descriptor(out, [m, n], [n, 1], [A, B])
    target.store([i, j], source.load([i, j]) + 1)


@triton.jit
def block_pointer_kernel(x, out, m, n, A: tl.constexpr, B: tl.constexpr):
    p = tl.make_block_ptr(x, (m, n), (n, 1), (tl.program_id(0) * A, 0), (A, B), (1, 0))
    q = tl.make_block_ptr(out, (m, n), (n, 1), (tl.program_id(0) * A, 0), (A, B), (1, 0))
    for _ in range(0, n, B):
        v = tl.load(p, boundary_check=(0, 1), padding_option="zero") + 1
        tl.store(q, v, boundary_check=(0, 1))
        p, q = tl.advance(p, (0, B)), tl.advance(q, (0, B))


@pytest.mark.parametrize(("form", "dtype", "m", "n"), every(
    ("descriptor", "block pointer"), ("fp32", "fp16", "int32", "int8", "bf16"), (16, 21), (32, 48)))  # fmt: skip
def test_descriptors(form, dtype, m, n):
    x = numbers(dtype, (m, n), 9)
    found = output(dtype, m * n)
    kernel, grid = (descriptor_kernel, (2, 3)) if form == "descriptor" else (block_pointer_kernel, (2,))
    try:
        kernel[grid](tensor(x), found, m, n, A=16, B=16)
    except triton.CompilationError as error:
        if "have been removed" in str(error):  # from 3.9 on
            pytest.skip("this Triton has no block pointers")
        raise
    assert_equal(array(found), x + x.dtype.type(1))


# ---- programs and what they are given --------------------------------------------------------------------------------


@triton.jit
def grid_kernel(out):
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    at = (z * tl.num_programs(1) + y) * tl.num_programs(0) + x
    tl.store(out + at, (x * 100 + y) * 100 + z)


@pytest.mark.parametrize("grid", ((1,), (7,), (3, 5), (2, 3, 4), (1, 1, 6), (1, 40, 1)))
def test_grids(grid):
    x, y, z = (*grid, 1, 1)[:3]
    found = output("int32", x * y * z)
    grid_kernel[grid](found)
    k, j, i = np.mgrid[:z, :y, :x]
    assert_equal(array(found), ((i * 100 + j) * 100 + k).astype(np.int32))


@triton.jit
def typed_kernel(out, x, flag):
    tl.store(out, x)
    tl.store(out + 1, flag)


@pytest.mark.parametrize(("value", "dtype"), (
    (1, "int32"), (-5, "int64"), (2**31, "int64"), (2**63, "uint64"), (2**64 - 1, "uint64"), (0.1, "fp32"),
    (float("inf"), "fp64"), (True, "int8"), (-(2**31), "int32")))  # fmt: skip
def test_numbers_as_arguments(value, dtype):
    found = output(dtype, 2)
    typed_kernel[(1,)](found, value, True)
    given = np.float32(value) if isinstance(value, float) else value  # floats are passed as f32
    assert_equal(array(found), np.array([given, 1], dtype=array(found).dtype))


@triton.jit
def loop_kernel(out, start, stop, STEP: tl.constexpr, HOW: tl.constexpr):
    total = 0
    if HOW == "range":
        for i in range(start, stop, STEP):
            total = total * 3 + i
    elif HOW == "hints":
        for i in tl.range(start, stop, STEP, num_stages=3, loop_unroll_factor=2, flatten=True):  # pyright: ignore[reportGeneralTypeIssues]
            total = total * 3 + i
    elif HOW == "while":
        i = start
        while (i < stop) if STEP > 0 else (i > stop):
            total = total * 3 + i
            i += STEP
    else:
        for i in tl.static_range(7):  # pyright: ignore[reportGeneralTypeIssues]
            total = total * 3 + i
    tl.store(out, total)


@pytest.mark.parametrize(("how", "start", "stop", "step"), every(
    ("range", "hints", "while", "static"), (0, -4), (0, 9), (1, 3, -2)))  # fmt: skip
def test_loops(how, start, stop, step):
    total = 0
    for i in range(7) if how == "static" else range(start, stop, step):
        total = total * 3 + i
    found = output("int32", 1)
    loop_kernel[(1,)](found, start, stop, STEP=step, HOW=how)
    assert array(found)[0] == np.int64(total).astype(np.int32)


@triton.jit
def scale(pair, by):
    return (pair[0] * by, pair[1] * by)


@triton.jit
def larger(a, b):
    if a > b:
        return a, 1
    return b, 0


@triton.jit
def doubled(x):
    return x * 2


@triton.jit
def function_kernel(x, y, out, more, SHIFT: tl.constexpr, F: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, N)
    a, b = scale((tl.load(x + at), tl.load(y + at)), 2)
    c, first = tl.map_elementwise(larger, a, b)
    c = F(c)
    if more is not None:
        c += tl.load(more + at)
    tl.store(out + at, c + SHIFT[0])
    tl.store(out + N + at, first + SHIFT[1])


@pytest.mark.parametrize(("dtype", "more", "n"), every(
    ("fp32", "fp64", "int32", "int64"), (False, True), (8, 64)))  # fmt: skip
def test_tuples_and_functions_as_constants(dtype, more, n):
    x, y, z = (numbers(dtype, (n,), seed, special=False) for seed in (1, 2, 3))
    found = output(dtype, 2 * n)
    function_kernel[(1,)](tensor(x), tensor(y), found, tensor(z) if more else None, SHIFT=(3, 4), F=doubled, N=n)
    with np.errstate(over="ignore"):
        a, b = x * x.dtype.type(2), y * x.dtype.type(2)
        c = np.maximum(a, b) * x.dtype.type(2) + (z if more else x.dtype.type(0)) + x.dtype.type(3)
    assert_equal(array(found), np.concatenate([c, (a > b).astype(x.dtype) + x.dtype.type(4)]))


@triton.autotune([triton.Config({"N": n}, num_warps=w) for n in (16, 32) for w in (1, 4)], key=["n"])
@triton.heuristics({"EVEN": lambda args: args["n"] % args["N"] == 0})
@triton.jit
def tuned_kernel(x, out, n, N: tl.constexpr, EVEN: tl.constexpr):
    at = tl.program_id(0) * N + tl.arange(0, N)
    if EVEN:
        tl.store(out + at, tl.load(x + at) * 2)
    else:
        tl.store(out + at, tl.load(x + at, mask=at < n) * 2, mask=at < n)


@pytest.mark.parametrize("n", (64, 75))
def test_tuned_kernels(n):
    x = numbers("fp32", (n,), 1)
    found = output("fp32", n)
    tuned_kernel[lambda args: (triton.cdiv(n, args["N"]),)](tensor(x), found, n)
    assert_equal(array(found), x * 2)


# ---- what is said and what is refused --------------------------------------------------------------------------------


@triton.jit
def print_kernel(x, SHAPE: tl.constexpr, HEX: tl.constexpr):
    v = tl.load(x + places(SHAPE))
    if HEX:
        tl.device_print("x", v, hex=True)
    else:
        tl.device_print('50% of "x"\\', v, tl.program_id(0))
        tl.device_print("done")


def printed(capfd, launch):
    capfd.readouterr()
    launch()
    sys.stdout.flush()
    return capfd.readouterr().out.splitlines()


@pytest.mark.parametrize(("dtype", "shape"), every(
    ("fp16", "bf16", "fp32", "fp64", "fp8e5", *INTEGERS), ((4,), (2, 16))))  # fmt: skip
def test_prints(dtype, shape, capfd):
    """As a GPU prints: a line for each element."""
    x = numbers(dtype, shape, 1, special=False)
    lines = printed(capfd, lambda: print_kernel[(2,)](tensor(x), SHAPE=shape, HEX=False))
    for program in range(2):
        head = f"pid ({program}, 0, 0)"
        found = [line for line in lines if line.startswith(head)]
        widths = [len(str(n - 1)) for n in shape]
        for line, (at, value) in zip(found, np.ndenumerate(x), strict=False):
            place = ", ".join(f"{i:{w}}" for i, w in zip(at, widths, strict=True))
            number = str(value) if dtype in INTEGERS else f"{float(value):f}"
            assert line == f'{head} idx ({place}) 50% of "x"\\: (operand 0) {number}'
        assert found[x.size :] == [f'{head} idx () 50% of "x"\\: (operand 1) {program}', f"{head} done"]


@pytest.mark.parametrize("dtype", (*INTEGERS, "fp32", "fp16"))
def test_prints_in_hexadecimal(dtype, capfd):
    x = numbers(dtype, (4,), 1, special=False)
    lines = printed(capfd, lambda: print_kernel[(1,)](tensor(x), SHAPE=(4,), HEX=True))
    values = re.findall(r"^pid \(0, 0, 0\) idx \(\d\) x: (\S+)$", "\n".join(lines), re.MULTILINE)
    assert len(values) == len(lines) == 4
    if dtype in INTEGERS:
        assert values == [f"0x{int(value):0{2 * x.itemsize}x}" for value in x.view(f"u{x.itemsize}")]
    else:
        assert [float.fromhex(value) for value in values] == x.astype(np.float64).tolist()


@triton.jit
def assembly_kernel(x, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(x + at, tl.inline_asm_elementwise("add.s32 $0, $1, 1;", "=r,r", [tl.load(x + at)], tl.int32, True, 1))


def test_assembly_of_a_gpu_is_refused_by_line():
    with pytest.raises(CannotCompile) as error:
        assembly_kernel[(1,)](torch.zeros(8, dtype=torch.int32), N=8)
    line = assembly_kernel.starting_line_number + 3
    assert str(error.value).startswith(f"{os.path.abspath(__file__)}:{line}: tt.elementwise_inline_asm: ")
    assert "PTX" in str(error.value)
