"""What the tests of kernels compiled for the CPU share: a launch that has to leave what the interpreter leaves, on any
number of threads, and numbers of every kind to launch it on."""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

from fusedsl.codegen import interpreter
from fusedsl.codegen.cpu import launch as cpu

N = 64  # lanes of the kernels that say BLOCK
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
F8 = [torch.float8_e4m3fn, torch.float8_e5m2]
INTS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint32]
THREADS = (1, 2, 5)

seeds = st.integers(0, 2**31).map(torch.manual_seed)
few = settings(max_examples=8)


def copied(arguments):
    """The arguments with storages of their own, which overlap where the given ones do."""
    storages = {}

    def copy(x):
        if not isinstance(x, torch.Tensor):
            return x
        old = x.untyped_storage()
        new = storages.setdefault(old.data_ptr(), old.clone())
        return torch.empty(0, dtype=x.dtype).set_(new, x.storage_offset(), x.shape, x.stride())

    return {name: copy(x) for name, x in arguments.items()}


def run(kernel, *tensors, grid=(1, 1, 1), check=None, **arguments):
    """Launches, and checks each tensor against the interpreter's: bit for bit, or by `check(actual, expected)`."""
    arguments |= dict(zip(kernel.arg_names, tensors, strict=False))
    if "BLOCK" in kernel.arg_names:
        arguments.setdefault("BLOCK", N)
    wanted = copied(arguments)
    interpreter.launch(kernel, grid, wanted)
    first = {}
    for threads in THREADS:
        given = copied(arguments)
        cpu.launch(kernel, grid, given, threads=threads)
        first = first or given
        for name, x in given.items():
            if isinstance(x, torch.Tensor):
                assert_same_bits(x, first[name], f"{name}, {threads} threads")
                if threads == 1:
                    (check or assert_same_bits)(x, wanted[name])
    for name, x in arguments.items():  # as a launch would leave them
        if isinstance(x, torch.Tensor):
            raw(x).copy_(raw(first[name]))


def raw(x):
    return x.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def assert_same_bits(actual, expected, what=""):
    """Equal bit for bit, but for the payload of a NaN."""
    same = raw(actual) == raw(expected)
    if actual.is_floating_point():
        same |= actual.double().isnan() & expected.double().isnan()
    assert same.all(), f"{what}: {actual[~same]} is not {expected[~same]}"


def assert_close(relative):
    def check(actual, expected):
        torch.testing.assert_close(actual.double(), expected.double(), rtol=relative, atol=relative, equal_nan=True)

    return check


def numbers(dtype, count=N):
    """Numbers of any bits, small ones, and the special ones."""
    size = torch.empty(0, dtype=dtype).element_size()
    if dtype == torch.bool:
        return torch.rand(count) < 0.5
    any_bits = torch.randint(0, 256, (count * size,), dtype=torch.uint8).view(dtype)
    if dtype.is_floating_point:
        special = torch.tensor([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1e-40], dtype=torch.float32).to(dtype)
        small = (torch.randn(count) * 4).to(dtype)
    else:
        low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
        special = torch.tensor([low, high, max(low, -1), 0, 1, 2, 3, 7]).to(dtype)
        small = torch.randint(max(low, -5), 6, (count,)).to(dtype)
    parts = torch.stack([raw(any_bits), raw(small), raw(special[torch.randint(0, 8, (count,))])])
    return parts.gather(0, torch.randint(0, 3, (1, count)))[0].view(dtype)
