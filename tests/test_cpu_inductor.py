"""The Triton kernels that Inductor generates for a GPU run natively on the CPU, and give what eager gives."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from fusedsl.cli import app
from fusedsl.comparison import beside_eager
from fusedsl.peers import cpu_table
from fusedsl.peers.on_cpu import OnCPU, programs
from fusedsl.peers.program import Program
from fusedsl.workloads import WORKLOADS, Workload

FEW = ("vector_exp", "swiglu", "softmax_first", "add_rms_norm_fp8")
HALF = ("swiglu", "softmax_512", "cross_entropy", "rms_norm", "add_rms_norm_fp8", "batch_norm_relu", "rotary", "cumsum")
Recorded = tuple[Workload, Program]


def recorded(names, dtype) -> Iterator[Recorded]:
    """The workloads of these names at their small shapes, each with what Inductor launches for it."""
    chosen = [each for each in WORKLOADS if each.name in names]
    yield from zip(chosen, programs(cpu_table.requests(chosen, [dtype], small=True)), strict=True)


@pytest.fixture(scope="module")
def few() -> dict[str, Recorded]:
    return {each[0].name: each for each in recorded((*FEW, *cpu_table.LEFT_OUT), torch.float32)}


def faults(workload: Workload, program: Program, dtype: torch.dtype) -> Iterator[str]:
    """What is wrong with the results, for each of the configurations that Inductor lists."""
    args = workload.args(dtype, "cpu", small=True)
    kept = [x.clone() for x in args]
    call = OnCPU(program, args)
    for at in range(max(len(launch.choices) for launch in call.launches)):
        for launch in call.launches:
            launch.chosen = min(at, len(launch.choices) - 1)
        for result in call.results:
            result.view(torch.uint8).fill_(0xFF)
        call()
        yield from (f"configuration {at}: {each.fault}" for each in beside_eager(workload.function, args, call.results)
                    if each.fault is not None)  # fmt: skip
    assert all(map(torch.equal, args, kept)), "arguments are read only"


def check(cases, dtype) -> None:
    wrong = []
    for workload, program in cases:
        assert program.steps and not program.ops, workload.name
        wrong += [f"{workload.name}: {fault}" for fault in faults(workload, program, dtype)]
    assert not wrong, "\n".join(wrong)


def test_a_few_chains_agree_with_eager(few):
    check([few[name] for name in FEW], torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "names"),
    [(torch.float32, cpu_table.CHAINS), (torch.bfloat16, cpu_table.CHAINS), (torch.float16, HALF)],
    ids=["f32", "bf16", "f16"],
)
def test_every_chain_agrees_with_eager(dtype, names):
    check(recorded(names, dtype), dtype)


def test_what_is_left_out_has_ops_of_torch(few):
    found = {name: few[name][1].ops for name in cpu_table.LEFT_OUT}
    assert found == {"dropout": ("aten::randint",), "sample_top_k": ("aten::kthvalue",)}


def test_the_fastest_configuration_is_chosen(few):
    def slow(values, grid):
        torch.randn(1 << 16).sort()

    workload, program = few["vector_exp"]
    (x,) = workload.args(torch.float32, "cpu", small=True)
    call = OnCPU(program, (x,))
    launch: Any = call.launches[0]
    launch.choices[0] = slow, launch.choices[0][1]
    call.tune(seconds=0.0)
    assert launch.chosen == 1
    call()
    torch.testing.assert_close(call.results[0], x.exp())


def test_the_command_prints_a_row():
    result = CliRunner().invoke(app, ["bench", "inductor", "rms_norm", "--dtype", "bf16", "--no-compile", "--small"])
    assert result.exit_code == 0, result.output
    head, row = result.output.splitlines()
    assert head == "  ".join(cpu_table.HEAD).rstrip()
    name, dtype, launches, ours, theirs, triton, ratio, spread = row.split()
    assert (name, dtype, launches, theirs) == ("rms_norm", "bf16", "1", "1")
    assert float(ours) > 0 and float(triton) > 0 and float(ratio) > 0 and spread.endswith("%")


def test_a_mistake_is_explained():
    run = CliRunner().invoke(app, ["bench", "inductor", "dropout"])
    assert run.exit_code == 2
    assert "no chain dropout" in run.output
