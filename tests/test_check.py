"""The checker of kernels: mistakes planted in them are found at their lines, and correct kernels have none."""

# What Triton's annotations say of arguments is not what its kernels take.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOptionalMemberAccess=false

import re
import sys

import pytest
import torch
import triton
import triton.language as tl
from typer.testing import CliRunner

from fusedsl import fuse
from fusedsl.cli import app
from fusedsl.codegen import interpreter
from fusedsl.codegen.check import Finding, check
from fusedsl.cpu_kernels import attention_kernel, matmul_kernel
from fusedsl.testing import count_traffic
from fusedsl.workloads import WORKLOADS

N = 1000


def found(kernel, programs, *tensors, empty=(), views=False, **arguments) -> list[Finding]:
    """The findings with the tensors as the first arguments; each must be at a line that says it is wrong."""
    grid = (programs, 1, 1) if isinstance(programs, int) else programs
    arguments |= dict(zip(kernel.arg_names, tensors, strict=False))
    findings = check(kernel, grid, arguments, empty=empty, views=views)
    for finding in findings:
        assert finding.line is not None and "# wrong" in finding.line.text, finding
    return findings


def kinds(findings: list[Finding]) -> list[str]:
    return [finding.kind for finding in findings]


# ---- out of bounds ---------------------------------------------------------------------------------------------------


@triton.jit
def shift_kernel(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < n, other=0)
    tl.store(out + at, v, mask=at <= n)  # wrong: one lane too many


def test_one_lane_is_outside():
    (finding,) = found(shift_kernel, 4, torch.randn(N), torch.empty(N), n=N, BLOCK=256)
    assert finding.kind == "out of bounds" and finding.program == (3, 0, 0)
    assert (finding.argument, finding.lanes, finding.times) == ("out", 1, 1)
    assert finding.message == "stores 1 of 233 lanes up to 4 bytes past the end of out"


@triton.jit
def copy_kernel(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at)  # wrong: no mask
    tl.store(out + at, v)  # wrong: no mask


def test_a_grid_that_does_not_divide_the_size_needs_a_mask():
    load, store = found(copy_kernel, 4, torch.randn(N), torch.empty(N), n=N, BLOCK=256)
    assert load.message == "loads 24 of 256 lanes up to 96 bytes past the end of x"
    assert store.message == "stores 24 of 256 lanes up to 96 bytes past the end of out"
    assert "out of bounds: program (3, 0, 0) stores" in str(store)
    assert not found(copy_kernel, 4, torch.randn(1024), torch.empty(1024), n=1024, BLOCK=256)


def test_a_neighbour_in_memory_is_outside_too():
    whole = torch.randn(2048)
    assert not found(copy_kernel, 1, whole[:N], torch.empty(N), n=N, BLOCK=512)
    (load, *_) = found(copy_kernel, 4, whole[:N], torch.empty(1024), n=N, BLOCK=256, views=True)
    assert load.argument == "x" and "up to 96 bytes past the end of x" in load.message
    assert not found(copy_kernel, 4, whole[:N], torch.empty(1024), n=N, BLOCK=256)  # it is memory of x's storage


@triton.jit
def rows_kernel(x, out, step, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    v = tl.load(x + tl.program_id(0) * step + at)  # wrong: rows are shorter than a block
    tl.store(out + tl.program_id(0) * BLOCK + at, v)


def test_views_are_their_elements_and_not_what_lies_between():
    whole, out = torch.randn(3, 64), torch.empty(3, 64)
    (finding,) = found(rows_kernel, 2, whole[:, :60], out, step=64, BLOCK=64, views=True)
    assert finding.message == "loads 4 of 64 lanes between the elements of x" and finding.times == 2
    assert not found(rows_kernel, 3, whole, out, step=64, BLOCK=64, views=True)
    assert not found(rows_kernel, 3, whole[:, :60], out, step=64, BLOCK=64)


@triton.jit
def window_kernel(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for step in range(-1, 2):
        total += tl.load(x + at + step, mask=at < n, other=0)  # wrong: at both ends
    tl.store(out + at, total, mask=at < n)


def test_both_ends_in_a_loop():
    (finding,) = found(window_kernel, 4, torch.randn(N), torch.empty(N), n=N, BLOCK=256)
    assert finding.message == "loads 1 of 256 lanes up to 4 bytes before the start of x"
    assert (finding.program, finding.times) == ((0, 0, 0), 2)


@triton.jit
def read(pointer, at):
    return tl.load(pointer + at)  # wrong: for whoever calls it with such a block


@triton.jit(noinline=True)
def write(pointer, value):
    tl.store(pointer, value)  # wrong: the same


@triton.jit
def calling_kernel(x, out, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = read(x, at)
    write(out + BLOCK, tl.sum(value))


def test_in_another_function():
    load, store = found(calling_kernel, 1, torch.randn(5), torch.empty(8), BLOCK=8)
    assert load.line.text.startswith("return tl.load(") and load.message.endswith("value = read(x, at)")
    assert "called at test_check.py:" in load.message
    assert store.line.text.startswith("tl.store(pointer") and store.message.startswith("stores a lane up to 4 bytes")


@triton.jit
def described_kernel(x, out, n, m, BLOCK: tl.constexpr):
    tile = tl.make_tensor_descriptor(x, [n, m], [m, 1], [BLOCK, BLOCK])
    value = tile.load([0, 0])  # wrong: if sizes are
    tile = tl.make_tensor_descriptor(out, [n, m], [m, 1], [BLOCK, BLOCK])
    tile.store([0, 0], value)  # wrong: if sizes are


def test_descriptors():
    x, out = torch.randn(5, 12), torch.empty(5, 12)
    assert not found(described_kernel, 1, x, out, n=5, m=12, BLOCK=16, empty=["out"])
    assert [f.argument for f in found(described_kernel, 1, x, out, n=6, m=12, BLOCK=16)] == ["x", "out"]


@triton.jit
def table_kernel(table, out, BLOCK: tl.constexpr):
    x = tl.load(table + tl.program_id(0)).to(tl.pointer_type(tl.float32))
    at = tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at), mask=at < BLOCK - tl.program_id(0))  # wrong: of two programs


def test_addresses_made_of_integers_are_trusted():
    parts, out = [torch.randn(8), torch.randn(8)], torch.zeros(8)
    table = torch.tensor([part.data_ptr() for part in parts])
    assert not found(table_kernel, 1, table, out, BLOCK=8)
    assert torch.equal(out, parts[0])  # such a kernel has no copies
    assert kinds(found(table_kernel, 2, table, out, BLOCK=8)) == ["race"]


@triton.jit
def atomics_outside_kernel(x, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    old = tl.atomic_add(x + at, 1)  # wrong
    again = tl.atomic_cas(x + at, tl.zeros_like(at), at)  # wrong
    tl.store(out + at, old + again)


def test_atomics_outside_give_zero():
    findings = found(atomics_outside_kernel, 1, torch.zeros(5, dtype=torch.int32), torch.zeros(8, dtype=torch.int32),
                     BLOCK=8)  # fmt: skip
    assert [f.message for f in findings] == ["accesses atomically 3 of 8 lanes up to 12 bytes past the end of x"] * 2


def test_nothing_is_changed():
    x, out = torch.randn(N), torch.zeros(N)
    before = x.clone()
    found(shift_kernel, 4, x, out, n=N, BLOCK=256)
    assert torch.equal(x, before) and not out.any()


def test_an_empty_tensor():
    (finding,) = found(shift_kernel, 1, torch.empty(0), torch.empty(0), n=0, BLOCK=16)
    assert finding.message == "stores a lane up to 4 bytes past the end of out"
    assert not found(shift_kernel, 0, torch.empty(0), torch.empty(0), n=0, BLOCK=16)


# ---- races -----------------------------------------------------------------------------------------------------------


@triton.jit
def overlap_kernel(x, out, n, STEP: tl.constexpr, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    at = tl.program_id(0) * STEP + lane
    v = tl.load(x + at, mask=at < n, other=0) + tl.program_id(0)
    tl.store(out + at, v, mask=at < n)  # wrong: without lane < STEP


def test_programs_overlap():
    (finding,) = found(overlap_kernel, 2, torch.randn(96), torch.empty(96), n=96, STEP=48, BLOCK=64)
    assert finding.kind == "race" and finding.lanes == 16
    assert finding.message == "stores 16 lanes of out that program (0, 0, 0) stores at this line, too"
    assert not found(overlap_kernel, 2, torch.randn(128), torch.empty(128), n=128, STEP=64, BLOCK=64)


@triton.jit
def same_kernel(out):
    tl.store(out, tl.num_programs(0))  # wrong, or not: every program stores this


def test_the_same_value_is_said_to_be_the_same():
    (finding,) = found(same_kernel, (2, 2, 1), torch.empty(1, dtype=torch.int32))
    assert finding.program == (1, 0, 0) and finding.times == 3
    assert finding.message.endswith("; both store the same values")
    assert str(finding).endswith("(3 accesses of this kind)")


@triton.jit
def sum_kernel(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    part = tl.sum(tl.load(x + at, mask=at < n, other=0))
    old = tl.load(out)  # wrong
    tl.store(out, old + part)  # wrong


def test_an_accumulation_without_atomics():
    findings = found(sum_kernel, 3, torch.randn(N), torch.zeros(1), n=N, BLOCK=512)
    assert set(kinds(findings)) == {"race"}
    messages = [finding.message for finding in findings]
    assert messages[0].startswith("loads a lane of out that program (0, 0, 0) stores at test_check.py:")
    assert any(message.startswith("stores a lane of out that program (0, 0, 0) loads at") for message in messages)


@triton.jit
def atomic_sum_kernel(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(out, tl.sum(tl.load(x + at, mask=at < n, other=0)))


@triton.jit
def atomic_rows_kernel(x, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.atomic_add(out + at, tl.load(x + tl.program_id(0) * BLOCK + at), sem="relaxed")


@triton.jit
def half_atomic_kernel(x, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    if tl.program_id(0) == 0:
        tl.store(out + at, 0.0)
    tl.atomic_add(out + at, tl.load(x + at))  # wrong: another program clears


def test_atomics():
    assert not found(atomic_sum_kernel, 2, torch.randn(N), torch.zeros(1), n=N, BLOCK=512)
    assert not found(atomic_rows_kernel, 3, torch.randn(3, 64), torch.zeros(64), BLOCK=64)
    (finding,) = found(half_atomic_kernel, 3, torch.randn(64), torch.zeros(64), BLOCK=64)
    assert finding.message.startswith("accesses atomically 64 lanes of out that program (0, 0, 0) stores at")


@triton.jit
def last_kernel(x, parts, count, out, BLOCK: tl.constexpr, PROGRAMS: tl.constexpr, SEM: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(parts + tl.program_id(0), tl.sum(tl.load(x + at)))
    if tl.atomic_add(count, 1, sem=SEM) == PROGRAMS - 1:
        all = tl.load(parts + tl.arange(0, PROGRAMS))  # wrong: if the counter is relaxed
        tl.store(out, tl.sum(all))


@pytest.mark.parametrize(("sem", "mistakes"), [("acq_rel", []), ("relaxed", ["race"]), ("release", ["race"])])
def test_the_last_program_may_read_what_the_others_released(sem, mistakes):
    count = torch.zeros(1, dtype=torch.int32)
    tensors = torch.randn(4 * 64), torch.empty(4), count, torch.empty(1)
    findings = found(last_kernel, 4, *tensors, BLOCK=64, PROGRAMS=4, SEM=sem, empty=["parts", "out"])
    assert kinds(findings) == mistakes


@triton.jit
def locked_kernel(x, lock, out, count, BLOCK: tl.constexpr, LATE: tl.constexpr):
    at = tl.arange(0, BLOCK)
    v = tl.load(x + tl.program_id(0) * BLOCK + at)
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    tl.store(out + at, tl.load(out + at) + v)
    if not LATE:
        tl.store(count, tl.load(count) + 1)
    tl.atomic_xchg(lock, 0)
    if LATE:
        tl.store(count, tl.load(count) + 1)  # wrong: after the lock is given back


def test_locks():
    def tensors():
        return torch.randn(4, 64), torch.zeros(1, dtype=torch.int32), torch.zeros(64), torch.zeros(1)

    assert not found(locked_kernel, 4, *tensors(), BLOCK=64, LATE=False)
    findings = found(locked_kernel, 4, *tensors(), BLOCK=64, LATE=True)
    assert set(kinds(findings)) == {"race"} and findings[0].argument == "count"


@triton.jit
def unordered_kernel(x, total, out):
    tl.atomic_add(total, tl.load(x + tl.program_id(0)))
    tl.store(out, tl.program_id(0))  # wrong: a sum that nobody looks at orders nothing


def test_an_atomic_sum_orders_nothing():
    (finding,) = found(unordered_kernel, 2, torch.randn(2), torch.zeros(1), torch.zeros(1, dtype=torch.int32))
    assert finding.kind == "race" and not finding.message.endswith("values")


@triton.jit
def scatter_kernel(index, x, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out + tl.load(index + at), tl.load(x + at))  # wrong: if indices repeat


def test_lanes_of_one_store():
    index, x, out = torch.tensor([3, 1, 3, 0]), torch.randn(4), torch.empty(4)
    (finding,) = found(scatter_kernel, 1, index, x, out, BLOCK=4)
    assert finding.message == "stores different values of 2 lanes to the same elements of out"
    assert not found(scatter_kernel, 1, index, torch.ones(4), out, BLOCK=4)
    assert not found(scatter_kernel, 1, torch.tensor([3, 1, 2, 0]), x, out, BLOCK=4)


def test_arguments_that_overlap():
    whole = torch.randn(513)
    load, *rest = found(copy_kernel, 2, whole[:512], whole[1:], n=512, BLOCK=256)
    assert load.kind == "race" and not rest
    assert load.message.startswith("loads a lane of") and "that program (0, 0, 0) stores at" in load.message
    assert not found(copy_kernel, 2, whole[:512], whole[:512], n=512, BLOCK=256)  # in place


@triton.jit
def words_kernel(x, out):
    pid = tl.program_id(0)
    if pid == 0:
        tl.store(out, tl.load(x))
    else:
        tl.store(out.to(tl.pointer_type(tl.int8)) + 3 + pid, tl.load(x).to(tl.int8))  # wrong: of program 1 no more


def test_bytes_of_an_element():
    x = torch.zeros(2, dtype=torch.int32)
    assert not found(words_kernel, 3, x, torch.zeros(2, dtype=torch.int32), empty=["out"])
    wide = torch.zeros(1, dtype=torch.int64)
    assert [f.program for f in found(words_kernel, 2, x.to(torch.int64), wide)] == [(1, 0, 0)]


# ---- what holds nothing ----------------------------------------------------------------------------------------------


@triton.jit
def accumulate_kernel(x, acc, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    old = tl.load(acc + at, mask=mask, other=0)  # wrong: if acc holds nothing
    tl.store(acc + at, old + tl.load(x + at, mask=mask, other=0), mask=mask)
    tl.store(acc + at, tl.load(acc + at, mask=mask, other=0) * 2, mask=mask)


def test_uninitialised():
    (finding,) = found(accumulate_kernel, 4, torch.randn(N), torch.empty(N), n=N, BLOCK=256, empty=["acc"])
    assert (finding.kind, finding.argument, finding.times) == ("uninitialised", "acc", 4)
    assert finding.message == "loads 256 lanes of acc that nothing has stored to"
    assert not found(accumulate_kernel, 4, torch.randn(N), torch.zeros(N), n=N, BLOCK=256)


def test_only_the_elements_of_the_view_are_empty():
    whole = torch.zeros(4, 2, 64)
    (finding,) = found(rows_kernel_pair, 2, whole, whole[:, 1], torch.zeros(4, 64), BLOCK=64, empty=["odd"])
    assert finding.times == 1 and finding.program == (1, 0, 0)


@triton.jit
def rows_kernel_pair(x, odd, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    v = tl.load(x + tl.program_id(0) * BLOCK + at)  # wrong: of the second row
    tl.store(out + tl.program_id(0) * BLOCK + at, v)


@triton.jit
def atomic_acc_kernel(x, acc):
    tl.atomic_add(acc, tl.load(x))  # wrong: acc holds nothing
    tl.atomic_xchg(acc, 0.0)


def test_atomics_read():
    assert kinds(found(atomic_acc_kernel, 1, torch.ones(1), torch.empty(1), empty=["acc"])) == ["uninitialised"]


def test_empty_names_a_tensor():
    with pytest.raises(TypeError, match=r"acc is no tensor of sum_kernel; those are x, out"):
        found(sum_kernel, 1, torch.ones(1), torch.ones(1), n=1, BLOCK=16, empty=["acc"])


# ---- what is undefined -----------------------------------------------------------------------------------------------


@triton.jit
def masked_sum_kernel(x, out, n, BLOCK: tl.constexpr, SAFE: tl.constexpr):
    at = tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < n)
    if SAFE:
        v = tl.where(at < n, v, 0)
    tl.store(out, tl.sum(v))  # wrong: the sum is of all lanes


@triton.jit
def masked_index_kernel(index, out, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    i = tl.load(index + at, mask=at < n)
    tl.atomic_add(out + tl.where(i > 0, 1, 0), 1)  # wrong: of all lanes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.uint8])
def test_masked_lanes_reach_a_store(dtype):
    x, out = torch.ones(50).to(dtype), torch.empty(1, dtype=torch.float32)
    (finding,) = found(masked_sum_kernel, 1, x, out, n=50, BLOCK=64, SAFE=False)
    assert finding.kind == "undefined" and "v = tl.load(x + at, mask=at < n)" in finding.message
    assert not found(masked_sum_kernel, 1, x, out, n=50, BLOCK=64, SAFE=True)
    assert not found(masked_sum_kernel, 1, torch.ones(64).to(dtype), out, n=64, BLOCK=64, SAFE=False)


@triton.jit
def masked_pair_kernel(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    a = tl.load(x + at, mask=at < n)
    b = tl.load(y + at, mask=at < n)
    tl.store(out, tl.sum(a * b))  # wrong: the sum is of all lanes


def test_lines_of_masked_loads():
    (finding,) = found(masked_pair_kernel, 1, torch.ones(5), torch.ones(5), torch.ones(1), n=5, BLOCK=8)
    first = masked_pair_kernel.def_file_line_number + 2
    assert finding.message.endswith(f", at one of test_check.py:{first}, test_check.py:{first + 1}")


def test_masked_lanes_reach_an_atomic():
    out = torch.zeros(2, dtype=torch.int32)
    assert kinds(found(masked_index_kernel, 1, torch.ones(5), out, n=5, BLOCK=8)) == ["undefined"]


# ---- assertions ------------------------------------------------------------------------------------------------------


@triton.jit
def assert_kernel(x):
    tl.device_assert(tl.load(x + tl.program_id(0)) > 0, "not positive")  # wrong: of program 1
    tl.store(x + tl.program_id(0), 2)


def test_assertions():
    (finding,) = found(assert_kernel, 3, torch.tensor([1, 0, 1]))
    assert (finding.kind, finding.program) == ("assertion", (1, 0, 0))
    assert "not positive" in finding.message


# ---- kernels without a mistake ---------------------------------------------------------------------------------------


@triton.jit
def softmax_kernel(x, out, n, step, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    row = tl.load(x + tl.program_id(0) * step + at, mask=at < n, other=-float("inf"))
    e = tl.exp(row - tl.max(row, 0))
    tl.store(out + tl.program_id(0) * n + at, e / tl.sum(e, 0), mask=at < n)


@triton.jit
def layer_norm_kernel(x, weight, bias, out, n, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0) * n
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(x + row + at, mask=at < n, other=0)
    mean = tl.sum(total, 0) / n
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        v = tl.where(at < n, tl.load(x + row + at, mask=at < n) - mean, 0)
        total += v * v
    scale = 1 / tl.sqrt(tl.sum(total, 0) / n + eps)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        v = (tl.load(x + row + at, mask=at < n) - mean) * scale
        v = v * tl.load(weight + at, mask=at < n) + tl.load(bias + at, mask=at < n)
        tl.store(out + row + at, v, mask=at < n)


def test_softmax_and_layer_norm():
    x = torch.randn(6, 100)
    wide = torch.randn(6, 120)[:, :100]
    out = torch.empty(6, 100)
    assert not found(softmax_kernel, 6, wide, out, n=100, step=120, BLOCK=128, empty=["out"], views=True)
    tensors = x, torch.randn(100), torch.randn(100), out
    assert not found(layer_norm_kernel, 6, *tensors, n=100, eps=1e-5, BLOCK=32, empty=["out"], views=True)


def test_matmul_and_attention():
    a, b, c = torch.randn(60, 70), torch.randn(70, 50), torch.empty(60, 50)
    blocks = {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32, "BAND": 2, "EVEN": False}
    sizes = {"m": 60, "n": 50, "k": 70, "stride_a": 70, "stride_b": 50, "stride_c": 50}
    assert not found(matmul_kernel, 4, a, b, c, **sizes, **blocks, empty=["c_ptr"], views=True)
    q, out = torch.randn(2, 64, 16), torch.empty(2, 64, 16)
    blocks = {"DIM": 16, "BLOCK_M": 32, "BLOCK_N": 32}
    assert not found(attention_kernel, (2, 2, 1), q, q, q, out, length=64, scale=0.25, **blocks, empty=["out_ptr"])


SOME = ["add_rms_norm_fp8", "concat_gelu", "cross_entropy", "embedding_norm", "group_norm_silu", "rotary"]


@pytest.mark.parametrize("workload", [w for w in WORKLOADS if w.name in SOME], ids=lambda w: w.name)
def test_fused_kernels(workload, monkeypatch):
    """No kernel of ours reads what another program stores, but for parts of a loop once they have arrived."""
    launch, launches = interpreter.launch, []

    def checked(fn, grid, args, hooks=None):
        stored = [name for name in fn.arg_names if f"tl.store({name} " in fn.src or f"tl.store({name}," in fn.src]
        launches.append(fn)
        stored = [name for name in stored if name != "arrivals_ptr"]  # which holds 0
        assert stored and not check(fn, grid, args, empty=stored, views=True)
        launch(fn, grid, args, hooks)

    monkeypatch.setattr(interpreter, "launch", checked)
    count_traffic(fuse(workload.function), workload.args(torch.float32, "cpu", small=True))
    assert launches


# ---- the command -----------------------------------------------------------------------------------------------------

FILE = """
import triton
import triton.language as tl


@triton.autotune([triton.Config({}, num_warps=4)], key=["n"])
@triton.heuristics({"EVEN": lambda args: False})
@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr, EVEN: tl.constexpr = False):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < n) + tl.load(y + at, mask=at < n)
    tl.store(out + at, v, mask=EVEN | (at < n))
    tl.store(out + at, tl.load(out + at, mask=at < n) + 1, mask=at < n)


plain = print
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs `fusedsl check-kernel` on the kernel of a file, and gives how it ends and what it prints."""
    (tmp_path / "kernels.py").write_text(FILE)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(name, *arguments):
        result = CliRunner().invoke(app, ["check-kernel", f"{tmp_path / 'kernels.py'}:{name}", *arguments])
        return result.exit_code, result.output

    return run


ARGS = "f32[N=100], f32[N], f32[N], n=N, BLOCK=32"


def test_the_command_finds_nothing(command):
    assert command("add", "--grid", "4", "--args", ARGS, "--empty", "out", "--views") == (
        0, "add: no mistake found in 4 programs\n"
    )  # fmt: skip


def test_the_command_names_lines(command):
    code, text = command("add", "--grid", "4,1", "--args", ARGS + ", EVEN=True", "--empty", "x", "--empty", "out")
    assert code == 1
    assert "kernels.py:11  v = tl.load(x + at, mask=at < n) + tl.load(y + at, mask=at < n)\nuninitialised: " in text
    assert "kernels.py:12  tl.store(out + at, v, mask=EVEN | (at < n))\nout of bounds: program (3, 0, 0) stores" in text
    assert text.endswith("\nadd: 2 mistakes found in 4 programs\n")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("add", ["--grid", "x"], "a grid is one to three numbers such as 4,2,1, got x"),
        ("add", ["--args", "f32[4]"], "add needs an argument for y"),
        ("add", ["--args", "1, 2, 3, 4, 5, 6, 7"], "takes x, y, out, n, BLOCK, EVEN; got 7"),
        ("add", ["--args", "f32[4], x=f32[4]"], "--args gives x twice"),
        ("add", ["--args", ARGS, "--empty", "n"], "n is no tensor of add"),
        ("add", ["--args", ARGS.replace("=32", "=33")], "arange's range must be a power of 2"),
        ("plain", [], "plain is no @triton.jit kernel, but builtin_function_or_method"),
    ],
)
def test_the_command_explains_what_it_cannot_do(command, name, arguments, message):
    code, text = command(name, *arguments)
    assert code == 2 and message in " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())
