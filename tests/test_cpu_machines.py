"""Kernels of every kind for CPUs that are not this one: for older ones they run here, for AVX-512 they compile."""

import numpy as np
import pytest
import torch

from fusedsl.codegen.binding import bind, signature_of
from fusedsl.codegen.cpu import toolchain
from fusedsl.codegen.cpu.compiler import module
from fusedsl.codegen.cpu.kernel import Kernel
from fusedsl.codegen.cpu.machine import AVX512, LEVELS, Machine, host
from fusedsl.codegen.ttir import ttir_of
from tests import test_cpu_language_blocks as blocks
from tests import test_cpu_language_elementwise as elementwise
from tests import test_cpu_language_folds as folds
from tests import test_cpu_language_memory as memory
from tests.language import array, numbers, output, tensor

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

# AVX2 without FMA and the conversions of halves, as the oldest such machines had it, comes from its own features.
OLDER = [Machine("x86-64"), Machine("x86-64-v2"), Machine("x86-64-v2", "+avx,+avx2"), Machine("x86-64-v3")]
SHAPE = (4, 32)


def _on(kernel, *tensors, **others):
    return kernel, tensors, others


def _numbers(*dtypes, shape=SHAPE):
    return [tensor(numbers(dtype, shape, at, special=False)) for at, dtype in enumerate(dtypes)]


def _dot(dtype, target):
    a, b, c = (*_numbers(dtype, dtype, shape=(32, 32)), *_numbers(target, shape=(32, 32)))
    return _on(blocks.dot_kernel, a, b, c, output(target, 1024), 29, 31, M=32, N=32, K=32, ACC=True, MODE="ieee")


def _scaled():
    (a, _), (b, _) = blocks.operand("e2m1", (32, 64), 1, 1), blocks.operand("e4m3", (64, 16), 0, 2)
    scales = [tensor(np.full((n, 2), 126 + n % 3, np.uint8)) for n in (32, 16)]
    return _on(blocks.scaled_kernel, tensor(a), tensor(b), *scales, output("fp32", 512), FA="e2m1", FB="e4m3", M=32,
               N=16, K=64, AM=32, AK=32, BK=64, BN=16, HA=True, HB=True)  # fmt: skip


def _atomic(dtype, op):
    return _on(memory.atomic_kernel, *_numbers(dtype, dtype, shape=(16,)), output(dtype, 16), 11, N=16, OP=op,
               SEM="acq_rel", ONE=False)  # fmt: skip


LAUNCHES = {
    **{f"{op} {dtype}": (lambda op=op, dtype=dtype: _on(
        elementwise.binary_kernel, *_numbers(dtype, dtype), output(dtype, 128), 100, SHAPE=SHAPE, OP=op))
       for op, dtype in (("+", "fp16"), ("*", "bf16"), ("-", "fp64"), ("*", "int64"), ("maximum", "fp32"))},
    **{op: (lambda op=op: _on(
        elementwise.unary_kernel, *_numbers("fp32"), output("fp32", 128), 100, SHAPE=SHAPE, OP=op))
       for op in ("exp", "log2", "sin", "erf", "fma", "rsqrt")},
    **{f"{source} to {target}": (lambda source=source, target=target: _on(
        elementwise.cast_kernel, *_numbers(source), output(target, 128), 100, SHAPE=SHAPE, BITS=False))
       for source, target in (("fp32", "fp16"), ("fp16", "fp64"), ("fp32", "fp8e4nv"), ("fp8e5", "fp32"),
                              ("uint64", "fp32"), ("fp64", "int64"), ("bf16", "fp16"))},
    "sum": lambda: _on(folds.fold_kernel, *_numbers("fp16"), output("fp16", 4), 100, 0, SHAPE=SHAPE, OP="sum", AXIS=1),
    "argmax": lambda: _on(folds.fold_kernel, *_numbers("fp32"), output("int32", 32), 100, 0, SHAPE=SHAPE, OP="argmax",
                          AXIS=0),
    "cumsum": lambda: _on(folds.scan_kernel, *_numbers("fp32"), output("fp32", 128), 100, SHAPE=SHAPE, OP="cumsum",
                          AXIS=1, BACK=True),
    "sort": lambda: _on(blocks.sort_kernel, *_numbers("fp32"), output("fp32", 128), A=4, B=32, DOWN=True),
    "histogram": lambda: _on(blocks.histogram_kernel, tensor(np.arange(64, dtype=np.int32) % 9), output("int32", 8), 50,
                             N=64, BINS=8, MASKED=True),
    "strides": lambda: _on(memory.strided_kernel, *_numbers("int8", shape=(21, 45)), output("int8", 945), 21, 45, 45, 1,
                           1, 21, A=32, B=64, POINTERS=False),
    **{f"dot {dtype}": (lambda dtype=dtype, target=target: _dot(dtype, target))
       for dtype, target in (("fp32", "fp32"), ("fp64", "fp64"), ("fp16", "fp32"), ("bf16", "fp32"), ("int8", "int32"),
                             ("fp8e5", "fp32"))},
    "scaled dot": _scaled,
    **{f"atomic {op} {dtype}": (lambda op=op, dtype=dtype: _atomic(dtype, op))
       for op, dtype in (("add", "fp16"), ("add", "bf16"), ("max", "fp32"), ("xchg", "int64"))},
    "random": lambda: _on(blocks.random_kernel, output("fp32", 64), 7, N=64, OP="randn"),
}  # fmt: skip


def prepared(name, machine):
    """A kernel for a machine, and what it is launched with."""
    fn, tensors, others = LAUNCHES[name]()
    given = dict(zip(fn.arg_names, tensors, strict=False)) | others
    bound = bind(fn, given)
    signature = signature_of(fn, bound, None)
    constants = {key: value for key, value in bound.items() if key not in signature}
    kernel = Kernel(fn.__name__, f"{name} {fn.cache_key} {signature} {constants}",
                    lambda lines: ttir_of(fn, signature, constants, lines=lines), machine)  # fmt: skip
    return kernel, [bound[key] for key in signature]


def launched(name, machine):
    kernel, values = prepared(name, machine)
    kernel(values, (1, 1, 1))
    return [array(value.view(-1)) for value in values if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("machine", OLDER, ids=lambda each: f"{each.cpu}{each.features}")
@pytest.mark.parametrize("name", LAUNCHES)
def test_older_machines(name, machine):
    """What they leave is what this one leaves, within the roundings that a fused operation spares."""
    if not _runs(machine):
        pytest.skip("not on this CPU")
    for found, wanted in zip(launched(name, machine), launched(name, host()), strict=True):
        if found.dtype.kind in "iub":
            np.testing.assert_array_equal(found, wanted)
        else:
            loose = 2.0 ** {2: -7, 1: -2}.get(found.itemsize, -14)
            np.testing.assert_allclose(found.astype(float), wanted.astype(float), rtol=loose, atol=loose)


def _runs(machine):
    here, levels = host(), list(LEVELS)
    known = all(here.has(each.removeprefix("+")) for each in machine.features.split(",") if each)
    return levels.index(here.cpu) >= levels.index(machine.cpu) and known


@pytest.mark.parametrize("name", LAUNCHES)
def test_code_for_avx512(name):
    kernel, _ = prepared(name, AVX512)
    mlir, _ = module(kernel.ttir, AVX512, True)
    code = toolchain.assembly(mlir, AVX512, forked=True)
    assert ("zmm" in code) == (name != "histogram"), "which counts one number after another"
