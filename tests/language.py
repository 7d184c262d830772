"""What the tests of Triton's language share: numbers of every type as numpy has them, and what a launch leaves."""

# What stands for a type in a kernel's parameters is none to its callers.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import itertools
import math

import ml_dtypes
import numpy as np
import torch
import triton
import triton.language as tl

FLOATS = ("fp16", "bf16", "fp32", "fp64")
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
INTEGERS = (*SIGNED, *UNSIGNED)
F8 = ("fp8e4nv", "fp8e5", "fp8e4b8", "fp8e5b16")
TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64,
         "fp8e4nv": torch.float8_e4m3fn, "fp8e5": torch.float8_e5m2, "fp8e4b8": torch.float8_e4m3fnuz,
         "fp8e5b16": torch.float8_e5m2fnuz, "int1": torch.bool, **{n: getattr(torch, n) for n in INTEGERS}}  # fmt: skip
NUMPY = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16, "fp32": np.float32, "fp64": np.float64, "int1": np.bool_,
         "fp8e4nv": ml_dtypes.float8_e4m3fn, "fp8e5": ml_dtypes.float8_e5m2, "fp8e4b8": ml_dtypes.float8_e4m3fnuz,
         "fp8e5b16": ml_dtypes.float8_e5m2fnuz, **{n: getattr(np, n) for n in INTEGERS}}  # fmt: skip
EPSILON = {"fp16": 2.0**-11, "bf16": 2.0**-8, "fp32": 2.0**-24, "fp64": 2.0**-53}
SHAPES = ((64,), (4, 32), (2, 4, 8))
SENTINEL = 0x5A  # every byte of an output before a launch


def numbers(dtype, shape, seed=0, special=True):
    """An array of the dtype: ordinary numbers, and special ones among them."""
    rng, count = np.random.default_rng([seed, *map(ord, dtype), *shape]), math.prod(shape)
    kind = NUMPY[dtype]
    if dtype == "int1":
        return rng.random(shape) < 0.5
    if dtype in INTEGERS:
        info = np.iinfo(kind)
        wide = rng.integers(info.min, info.max, count, dtype=kind, endpoint=True)
        edges = np.array([info.min, info.max, 0, 1, 7]).astype(kind)
    else:
        wide = (rng.standard_normal(count) * 4).astype(kind)
        edges = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0]).astype(np.float32).astype(kind)
    if special:
        at = rng.random(count) < 0.2
        wide[at] = rng.choice(edges, at.sum())
    return wide.reshape(shape)


def tensor(array):
    """A tensor of its own with these numbers."""
    dtype = next(name for name, kind in NUMPY.items() if array.dtype == kind)
    raw = np.ascontiguousarray(array).view(f"u{array.itemsize}").view(f"i{array.itemsize}").copy()
    return torch.from_numpy(raw.reshape(-1)).view(TORCH[dtype]) if array.size else torch.empty(0, dtype=TORCH[dtype])


def output(dtype, count):
    return torch.full((count * torch.empty(0, dtype=TORCH[dtype]).element_size(),), SENTINEL, dtype=torch.uint8).view(
        TORCH[dtype])  # fmt: skip


def array(tensor):
    """What a tensor holds."""
    dtype = next(name for name, kind in TORCH.items() if tensor.dtype == kind)
    return tensor.view(torch.uint8).numpy().view(NUMPY[dtype])


def assert_equal(found, wanted, zeros_differ=False):
    """Equal, NaNs too; within nothing."""
    found, wanted = np.asarray(found).reshape(-1), np.asarray(wanted).reshape(-1)
    assert found.dtype == wanted.dtype and found.shape == wanted.shape, f"{found.dtype} {found.shape} {wanted.dtype}"
    same = found == wanted
    if found.dtype.kind not in "iub":
        same |= (found != found) & (wanted != wanted)
        if zeros_differ:
            same &= np.signbit(found) == np.signbit(wanted)
    assert same.all(), f"{found[~same][:8]} is not {wanted[~same][:8]}, in {np.nonzero(~same)[0][:8]}"


def assert_close(found, wanted, eps, scale=None):
    """Within `eps` of `scale`, which is each number's own size unless given."""
    found, wanted = np.asarray(found).reshape(-1).astype(np.float64), np.asarray(wanted).reshape(-1).astype(np.float64)
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    near = np.abs(found - wanted) <= eps * (np.abs(wanted) if scale is None else scale)
    assert (same | near).all(), f"{found[~(same | near)][:8]} is not {wanted[~(same | near)][:8]}"


def split(found, n, wanted):
    """The first n numbers are the wanted ones, those after them as they were."""
    assert (found[n:].view(torch.uint8) == SENTINEL).all(), "written outside of the mask"
    return array(found)[:n], np.asarray(wanted).reshape(-1)[:n]


def masks(count):
    """How many numbers a mask leaves: all, or some."""
    return (count, count * 5 // 8)


def every(*lists):
    """Each of the first with each of the second, and so on."""
    return list(itertools.product(*lists))


def cases(*lists, shapes=SHAPES):
    """The same, with each shape, whole and masked."""
    return [(*each, shape, n) for *each, shape in itertools.product(*lists, shapes) for n in masks(math.prod(shape))]


@triton.jit
def places(SHAPE: tl.constexpr):
    """The index of each element of a dense tensor."""
    if len(SHAPE) == 1:
        at = tl.arange(0, SHAPE[0])
    elif len(SHAPE) == 2:
        at = tl.arange(0, SHAPE[0])[:, None] * SHAPE[1] + tl.arange(0, SHAPE[1])[None, :]
    else:
        at = (tl.arange(0, SHAPE[0])[:, None, None] * SHAPE[1] + tl.arange(0, SHAPE[1])[None, :, None]) * SHAPE[
            2
        ] + tl.arange(0, SHAPE[2])[None, None, :]
    return at
