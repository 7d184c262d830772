"""Compiling for the CPU: what there is not is named with the user's line, and it takes no longer than it should."""

# What Triton's annotations say of its loops is not what its kernels do.
# pyright: reportGeneralTypeIssues=false

import pytest
import torch
import triton
import triton.language as tl

from fusedsl.codegen.cpu import launch as cpu
from fusedsl.codegen.cpu.errors import CannotCompile
from tests.cpu_compared import N, numbers


@triton.jit
def assembly_kernel(x, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(x + i)
    tl.store(x + i, tl.inline_asm_elementwise("mov $0, $1;", "=r,r", [a], dtype=tl.int32, is_pure=True, pack=1))


def test_what_is_lacking_is_named_with_the_line():
    line = assembly_kernel.starting_line_number + 4
    with pytest.raises(CannotCompile, match=rf"test_cpu_compiling\.py:{line}: tt\.elementwise_inline_asm"):
        cpu.launch(assembly_kernel, (1, 1, 1), {"x": numbers(torch.int32), "BLOCK": N})


def test_values_with_many_users_compile_quickly():
    """Forty times x = x * x + x: a walk that followed every user would take 2 ** 40 steps."""

    @triton.jit
    def kernel(x_ptr, at_ptr, out_ptr, n, BLOCK: tl.constexpr):
        offs = tl.arange(0, BLOCK)
        x = tl.load(x_ptr + offs)
        at = tl.load(at_ptr + offs)
        for _ in tl.static_range(40):
            x = x * x + x
            at = at * at + at
        carried = tl.zeros([BLOCK], tl.float32)
        for _ in range(n):
            y = carried + x
            for _ in tl.static_range(40):
                y = y * y + y
            carried = y
        tl.store(out_ptr + (at & (BLOCK - 1)), carried)

    x, at, out = torch.zeros(64), torch.zeros(64, dtype=torch.int32), torch.ones(64)
    cpu.launch(kernel, (1, 1, 1), {"x_ptr": x, "at_ptr": at, "out_ptr": out, "n": 2, "BLOCK": 64})
    assert out[0] == 0


def up():
    @triton.jit
    def step(x):
        return x + 1

    return step


def down():
    @triton.jit
    def step(x):
        return x - 1

    return step


@triton.jit
def step_kernel(out, STEP: tl.constexpr):
    tl.store(out, STEP(tl.load(out)))


def test_functions_as_constants_are_told_apart():
    """By what they do, also on disk, whatever their names."""
    out = torch.zeros(1, dtype=torch.int32)
    for make, expected in ((up, 1), (up, 2), (down, 1)):
        step = make()
        step.fn.__qualname__ = "step"
        cpu.launch(step_kernel, (1,), {"out": out, "STEP": step})
        assert out.item() == expected


def test_mistakes_at_a_launch():
    out = torch.zeros(1, dtype=torch.int32)
    with pytest.raises(TypeError, match=r"a grid is one to three numbers, not \(\)"):
        cpu.launch(step_kernel, (), {"out": out, "STEP": up()})
    with pytest.raises(TypeError, match=r"kernel\[grid\]"):
        tuned = triton.autotune([triton.Config({})], key=[])(step_kernel)
        cpu.launch(tuned, (1,), {"out": out, "STEP": up()})  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"out: a kernel cannot take a ndarray.*torch\.from_numpy"):
        cpu.launch(step_kernel, (1,), {"out": out.numpy(), "STEP": up()})
