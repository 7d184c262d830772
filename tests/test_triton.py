"""What kernels are for a target: its text, its tiles, and the machine code of the common path."""

from __future__ import annotations

import re
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from fusedsl import fuse
from fusedsl.codegen import interpreter
from fusedsl.codegen.inspect import LAUNCH_OPTIONS, TARGETS
from fusedsl.codegen.tile import choose
from fusedsl.codegen.triton import for_target, is_indifferent
from fusedsl.ops.helpers import HELPERS, to_e4m3
from fusedsl.options import CPU_TARGETS
from fusedsl.peers import table
from fusedsl.peers.chains import CHAINS
from fusedsl.plan import Plan
from fusedsl.runtime import load
from fusedsl.testing import assert_matches, count_traffic
from fusedsl.workloads import WORKLOADS

CPU = torch.device("cpu")
F8 = (torch.float8_e4m3fn, torch.float8_e5m2)


@pytest.fixture(autouse=True)
def _without_grad():
    with torch.no_grad():
        yield


def source_of(function, *args) -> str:
    """The text of a function's one kernel."""
    (kernel,) = fuse(function).plan(*args).kernels
    return kernel.source


def chain_plan(name: str) -> Plan:
    chain = CHAINS[name]
    return fuse(chain.function).plan(*chain.args(table.DTYPE, "meta"))


def run_as(target: str, function, x: torch.Tensor) -> torch.Tensor:
    """What a target's text computes, interpreted."""
    _, planner, bound = fuse(function)._entry((x,), {})
    return planner.plan(bound.values, bound.sizes, CPU, target=target).run(bound.values, CPU)[0]


# ---- powers of e -----------------------------------------------------------------------------------------------------

EXPONENTIALS = {
    "exp": lambda x: x.exp(),
    "silu": lambda x: F.silu(x),
    "softmax": lambda x: x.softmax(-1),
    "logcumsumexp": lambda x: x.logcumsumexp(-1),
    "i0": lambda x: torch.special.i0(x),
}
exp = EXPONENTIALS["exp"]


@pytest.mark.parametrize("function", EXPONENTIALS.values(), ids=EXPONENTIALS)
def test_powers_of_e_are_powers_of_2_on_a_gpu(function):
    """ex2.approx.ftz is one instruction; without ftz it is three more."""
    plan = fuse(function).plan(torch.empty(64, 256, device="meta"))
    (nvidia,), (amd,) = plan.compile("sm_90"), plan.compile("gfx942")
    ptx = str(nvidia.asm["ptx"])
    assert "ex2.approx.ftz.f32" in ptx and "ex2.approx.f32" not in ptx
    assert "v_exp_f32" in amd.sass
    assert function is not exp or "v_ldexp_f32" not in amd.sass


def test_powers_of_e_in_f64_are_as_exact_on_a_gpu():
    (compiled,) = fuse(exp).plan(torch.empty(1000, dtype=torch.float64, device="meta")).compile("sm_90")
    ptx = str(compiled.asm["ptx"])
    assert "ex2.approx" not in ptx and "fma.rn.f64" in ptx
    x = torch.linspace(-700, 700, 1001, dtype=torch.float64)
    assert (run_as("sm_90", exp, x) / x.exp() - 1).abs().max() < 1e-15


def test_a_gpus_powers_of_e():
    """In the machine's own precision, whose exponent loses digits where the result is far from 1."""
    x = torch.linspace(-87, 88, 10001)
    exact = x.double().exp()
    error = (run_as("sm_90", exp, x) / exact - 1).abs()
    assert (error <= 2**-23 * (2 + x.abs())).all()
    assert torch.equal(run_as("sm_90", exp, torch.tensor([-torch.inf, torch.inf, 0])),
                       torch.tensor([0, torch.inf, 1]))  # fmt: skip


def test_the_cpus_powers_of_e_stay_exact():
    """Within 1.5 ulp, results below 1.2e-38 included."""
    text = source_of(exp, torch.empty(1000))
    assert {for_target(text, target) for target in CPU_TARGETS} == {text}
    x = torch.linspace(-103, 88, 20001)
    exact = x.double().exp()
    last_place = 2.0 ** (exact.log2().floor().clamp(min=-126) - 23)
    found = fuse(exp)(x)
    assert ((found.double() - exact).abs() <= 1.5 * last_place).all()
    assert 0 < found[0] < 1.2e-38


# ---- what a store rounds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", F8)
def test_a_cast_to_f8_is_converted_once(dtype):
    text = source_of(lambda x: (x * 8).to(dtype), torch.empty(1000))
    calls = text.split("@triton.jit(")[1]
    encode = {torch.float8_e4m3fn: "_to_e4m3(", torch.float8_e5m2: "_to_e5m2("}[dtype]
    assert calls.count(encode) == 1 and "_from_e" not in text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cast_to_a_half_is_rounded_once(dtype):
    text = source_of(lambda x: (x * 8).to(dtype), torch.empty(1000))
    assert ".to(tl." not in text


@pytest.mark.parametrize("dtype", [*F8, torch.float16])
@pytest.mark.parametrize("from_", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_stored_rounded_is_used_rounded(dtype, from_):
    def f(x):
        y = (-x).to(dtype)
        return y, y.float() * 3

    x = torch.tensor([0.001, 17, 447, 460, 465, 1e9, -torch.inf, torch.nan, 0, -0.0, 2**-9, 3e-3]).to(from_)
    for ours, theirs in zip(fuse(f)(x), f(x), strict=True):
        assert torch.equal(ours.float().nan_to_num(7), theirs.float().nan_to_num(7))


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize(("saturates", "beyond"), [(True, 448.0), (False, torch.nan)])
def test_an_e4m3_beyond_448_is_what_the_installed_torch_makes_of_it(target, saturates, beyond):
    (step,) = fuse(lambda x: x.to(torch.float8_e4m3fn)).plan(torch.empty(8)).program.steps
    text = for_target(step.source, target).replace(HELPERS["_to_e4m3"].strip(), to_e4m3(saturates).strip())
    x = torch.tensor([447.0, -448, 456, 464, 465, -1e9, torch.inf, torch.nan])
    out = torch.zeros(8, dtype=torch.uint8)
    interpreter.launch(load(text, step.kernel.name), (1, 1, 1), {"x_ptr": x, "out_ptr": out, "s0": 8, "BLOCK_I": 8})
    expected = torch.tensor([448, -448, 448, 448, beyond, -beyond, beyond, torch.nan])
    assert torch.equal(out.view(torch.float8_e4m3fn).float().nan_to_num(7), expected.nan_to_num(7))


# ---- runs cut into pieces --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", table.TARGETS)
def test_a_part_of_a_run_is_loaded_16_bytes_at_a_time(target):
    """All but what a thread loads of the parts that programs leave for the last."""
    (launch,) = table.our_work(CHAINS["kl_div"], target).launches
    counted = zip(launch.cost.code.instructions, launch.cost.counts, strict=True)
    loads = [(each.opcode, count) for each, count in counted if each.root == "LDG"]
    wide, every = sum(count for opcode, count in loads if ".128" in opcode), sum(count for _, count in loads)
    assert wide > 0.9 * every > 0, loads


@pytest.mark.parametrize("n", [32769, 40959, 40960, 40961, 49152, 65537])
def test_all_of_a_run_is_reduced_once(n):
    x = torch.randint(-1000, 1000, (n,))
    assert_matches(lambda x: (x.sum(), x.amax(), x.amin(), x.argmax()), (x,))
    assert_matches(lambda x: x.prod(), (torch.where(x % 2 == 0, -1.0, 1.0),))
    assert_matches(lambda x: (-x.abs() - 1).amax(), (x,))
    counted = count_traffic(lambda x: (x * 2).sum(), (x,))
    (kernel,) = fuse(lambda x: (x * 2).sum()).plan(x).kernels
    shared = kernel.splits * (8 + 4) if kernel.splits > 1 else 0  # a part of each, and a count that it adds to
    assert counted.total_load_bytes == x.nbytes + shared


@pytest.mark.parametrize("rows", [40960, 40967])
@pytest.mark.parametrize("columns", [1, 3, 16])
def test_all_of_a_few_columns_is_reduced_once(rows, columns):
    x = torch.randint(-1000, 1000, (rows, columns))
    assert_matches(lambda x: x.sum(0), (x,))
    assert_matches(lambda x: x.amax(0), (-x.abs() - 1,))
    assert_matches(lambda x: x.sum((0, 2)), (x.view(rows, 1, columns).expand(rows, 2, columns),))


# ---- how wide accesses are -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [4096, 4090])
def test_what_is_left_of_a_row_is_accessed_as_widely_as_its_size_allows(width):
    """Where two tensors meet, and in a row's last tile."""
    joined = fuse(lambda x, y: torch.exp(torch.cat((x, y), -1)))
    summed = fuse(lambda x: torch.logsumexp(x, -1))
    halves = {"dtype": torch.float16, "device": "meta"}
    for f, args in [
        (joined, [torch.empty(300, width, **halves)] * 2),
        (summed, [torch.empty(300, 10 * width, **halves)]),
    ]:
        (compiled,) = f.plan(*args).compile("sm_90")
        loads = compiled.access_widths("load")
        assert (loads[16] == 0) == (width % 16 == 0), loads


def open_sizes(source: str) -> set[str]:
    """What Triton is told not to look at."""
    declared = re.search(r"do_not_specialize=\[(.*)\]", source)
    return set(re.findall(r"'(\w+)'", declared[1])) if declared else set()


@pytest.mark.parametrize("f", [
    lambda x: torch.softmax(x, -1), lambda x: x.flip(0) * 2, lambda x: x.sum(0),
    lambda x: torch.nn.functional.mse_loss(x, x.flip(0)),
])  # fmt: skip
def test_a_batch_is_no_size_that_a_kernel_knows(f):
    for step in fuse(f).plan(torch.empty(300, 513, device="meta")).program.steps:
        assert any(p.name == "s0" for p in step.parameters)
        assert "s0" in open_sizes(step.source), step.source


@pytest.mark.parametrize("name", sorted(LAUNCH_OPTIONS))
def test_no_parameter_is_called_as_an_option_of_a_launch(name):
    f = eval(f"lambda x, {name}: x * {name}")
    (step,) = fuse(f).plan(torch.empty(3, device="meta"), 2.5).program.steps
    assert LAUNCH_OPTIONS.isdisjoint(p.name for p in step.parameters)


def test_a_compiled_kernel_knows_what_a_launch_would():
    for workload in WORKLOADS:
        plan = fuse(workload.function).plan(*workload.args(torch.float16))
        for step in plan.program.steps:
            told = {p.name for p in step.parameters if p.kind == "number" or is_indifferent(step.kernel, p)}
            assert open_sizes(step.source) == told
            with mock.patch("fusedsl.plan.compile_kernel") as compiled:
                compiled.return_value.spills = 0
                plan.compile("sm_90")
            assert not open_sizes(step.source) & compiled.call_args.kwargs["divisible"]


# ---- warps of resident rows ------------------------------------------------------------------------------------------

RESIDENT = ["rms_norm", "layer_norm", "add_rms_norm", "softmax", "group_norm", "quantize_fp8", "embedding_norm"]
REGISTERS = 65536  # of a processor, for 2048 threads


@pytest.mark.parametrize("target", [target for target in TARGETS if target.startswith("sm")])
@pytest.mark.parametrize("name", RESIDENT)
def test_resident_rows_leave_a_processor_full(name, target):
    """At least three quarters of the threads that it holds find registers, and none spills."""
    plan = chain_plan(name)
    (compiled,), threads = plan.compile(target), 32 * plan.on(target).configs[0].num_warps
    registers = -(-compiled.registers // 8) * 8  # as they are given out
    assert compiled.spills == 0
    assert REGISTERS // (registers * threads) * threads >= 1536


@pytest.mark.parametrize(
    ("name", "rows", "warps"),
    [("softmax", 1, 8), ("rms_norm", 1, 16), ("add_rms_norm", 1, 8), ("layer_norm", 2, 16), ("embedding_norm", 1, 8)],
)
def test_what_rows_share_is_not_most_of_what_a_program_loads(name, rows, warps):
    plan = chain_plan(name)
    config = choose(plan.program.steps[0].kernel, plan.sizes, "sm_90")
    assert (config["BLOCK_I"], config.num_warps) == (rows, warps)
