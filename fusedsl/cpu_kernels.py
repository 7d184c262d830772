"""Triton kernels written by hand as a CPU likes them: a matrix product, attention, a product with 4-bit weights.

They are ordinary Triton. What suits a CPU is in their sizes: a tile fills a core's cache instead of its registers, so
that an operand of a dot is laid out once for many multiplications, and a program does a millisecond's work.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import torch
import triton
import triton.language as tl
from triton.runtime.jit import JITFunction

from .codegen.binding import pointer_to
from .codegen.cpu.launch import Kernel, kernel_of

LANES, NIBBLES = 16, 8  # of a group of 4-bit weights: int32 words side by side, weights in each
GROUP = LANES * NIBBLES


@triton.jit
def matmul_kernel(
    a_ptr, b_ptr, c_ptr, m, n, k, stride_a, stride_b, stride_c,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BAND: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """c = a @ b, of the type that products are added up in: i32 or f32. Programs go down a band of so many tiles before
    they step to the right, so that a's stay in cache. EVEN: the blocks divide the sizes, and nothing is masked."""
    pid = tl.program_id(0)
    tiles = tl.cdiv(m, BLOCK_M)
    band = pid // (BAND * tl.cdiv(n, BLOCK_N))
    height = min(tiles - band * BAND, BAND)
    inside = pid - band * BAND * tl.cdiv(n, BLOCK_N)
    i = (band * BAND + inside % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    j = inside // height * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_N), c_ptr.dtype.element_ty)
    for start in range(0, k, BLOCK_K):
        at = start + tl.arange(0, BLOCK_K)
        a_ptrs = a_ptr + i[:, None] * stride_a + at[None, :]
        b_ptrs = b_ptr + at[:, None] * stride_b + j[None, :]
        if EVEN:
            a, b = tl.load(a_ptrs), tl.load(b_ptrs)
        else:
            a = tl.load(a_ptrs, mask=(i < m)[:, None] & (at < k)[None, :], other=0)
            b = tl.load(b_ptrs, mask=(at < k)[:, None] & (j < n)[None, :], other=0)
        acc = tl.dot(a, b, acc)
    c_ptrs = c_ptr + i[:, None] * stride_c + j[None, :]
    if EVEN:
        tl.store(c_ptrs, acc)
    else:
        tl.store(c_ptrs, acc, mask=(i < m)[:, None] & (j < n)[None, :])


@triton.jit
def attention_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, length, scale, DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Flash attention of a head and a block of queries; the length is a multiple of both blocks."""
    head = tl.program_id(1) * length
    i = head + tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, DIM)
    q = tl.load(q_ptr + i[:, None] * DIM + d[None, :]) * (scale * 1.4426950408889634)
    most = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, DIM), tl.float32)
    for start in range(0, length, BLOCK_N):
        j = head + start + tl.arange(0, BLOCK_N)
        k = tl.load(k_ptr + j[None, :] * DIM + d[:, None])
        s = tl.dot(q, k)
        new = tl.maximum(most, tl.max(s, 1))
        p = tl.exp2(s - new[:, None])
        shrink = tl.exp2(most - new)
        total = total * shrink + tl.sum(p, 1)
        v = tl.load(v_ptr + j[:, None] * DIM + d[None, :])
        acc = tl.dot(p, v, acc * shrink[:, None])
        most = new
    tl.store(out_ptr + i[:, None] * DIM + d[None, :], acc / total[:, None])


@triton.jit
def gemv_kernel(
    words_ptr, scale_ptr, x_ptr, y_ptr,
    ROWS: tl.constexpr, GROUPS: tl.constexpr, LANES: tl.constexpr, NIBBLES: tl.constexpr,
):  # fmt: skip
    """y = (w * scale) @ x, of weights from -8 to 7, row by row. Nibble p of word l in a group is its weight
    p * LANES + l, plus 8: so each shift of a row of words meets neighbours of x. What the eights come to is the same
    for every row, and the sum over lanes is taken once, at the end of one."""
    group, lane = tl.arange(0, GROUPS)[:, None], tl.arange(0, LANES)[None, :]
    eights = tl.zeros((GROUPS, LANES), tl.float32)
    for p in tl.static_range(NIBBLES):  # pyright: ignore[reportGeneralTypeIssues]
        eights += 8 * tl.load(x_ptr + (group * NIBBLES + p) * LANES + lane)
    for row in range(ROWS):
        i = tl.program_id(0) * ROWS + row
        words = tl.load(words_ptr + (i * GROUPS + group) * LANES + lane)
        part = -eights
        for p in tl.static_range(NIBBLES):  # pyright: ignore[reportGeneralTypeIssues]
            x = tl.load(x_ptr + (group * NIBBLES + p) * LANES + lane)
            part = tl.fma(((words >> (4 * p)) & 15).to(tl.float32), x, part)
        scale = tl.load(scale_ptr + i * GROUPS + group)
        tl.store(y_ptr + i, tl.sum(tl.sum(part * scale, 0), 0))


def matmul(
    a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, tile: tuple[int, int, int] | None = None
) -> None:
    """out = a @ b, of matrices whose rows are dense: f32 of floats, i32 of int8. The larger a tile, the less often the
    operands are laid out, as long as every thread has several."""
    (m, k), n = a.shape, b.shape[1]
    tile = tile or ((256, 512, 256) if n >= 1024 else (256, 256, 256))
    even = m % tile[0] == n % tile[1] == k % tile[2] == 0
    kernel = _matmul((a.dtype, b.dtype, out.dtype), tile, even)
    kernel((a, b, out, m, n, k, a.stride(0), b.stride(0), out.stride(0)), (-(-m // tile[0]) * -(-n // tile[1]), 1, 1))


@functools.cache
def _matmul(dtypes: tuple[torch.dtype, ...], tile: tuple[int, int, int], even: bool) -> Kernel:
    constants = dict(zip(("BLOCK_M", "BLOCK_N", "BLOCK_K"), tile, strict=True)) | {"BAND": 4, "EVEN": even}
    return _kernel(matmul_kernel, dtypes, ["i32"] * 6, constants)


def _kernel(
    fn: JITFunction, dtypes: Sequence[torch.dtype], numbers: Sequence[str], constants: Mapping[str, int]
) -> Kernel:
    """For pointers to these types, then numbers of those."""
    names = [name for name in fn.arg_names if name not in constants]
    return kernel_of(fn, dict(zip(names, [*map(pointer_to, dtypes), *numbers], strict=True)), constants)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, block: int = 256) -> None:
    """out = softmax(q k^T / sqrt(dim)) v, of dense [batch, heads, length, dim], by blocks of as many queries and keys,
    or of fewer that divide the length."""
    batch, heads, length, dim = q.shape
    block = math.gcd(block, length)
    kernel = _attention((q.dtype, k.dtype, v.dtype, out.dtype), dim, block)
    kernel((q, k, v, out, length, dim**-0.5), (length // block, batch * heads, 1))


@functools.cache
def _attention(dtypes: tuple[torch.dtype, ...], dim: int, block: int) -> Kernel:
    return _kernel(attention_kernel, dtypes, ["i32", "fp32"], {"DIM": dim, "BLOCK_M": block, "BLOCK_N": block})


def quantize(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights as int32 words of eight 4-bit numbers, and a scale for each group of a row."""
    rows, columns = weights.shape
    parts = weights.view(rows, columns // GROUP, NIBBLES, LANES)
    scale = (parts.abs().amax((2, 3)) / 7).clamp(min=1e-12)
    nibbles = (parts / scale[:, :, None, None]).round().to(torch.int32) + 8
    words = torch.zeros(rows, columns // GROUP, LANES, dtype=torch.int32)
    for p in range(NIBBLES):
        words |= nibbles[:, :, p] << (4 * p)
    return words, scale


def dequantize(words: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The weights that the words stand for."""
    nibbles = torch.stack([(words >> (4 * p)) & 15 for p in range(NIBBLES)], 2)
    return ((nibbles - 8) * scale[:, :, None, None]).flatten(1)


def gemv(words: torch.Tensor, scale: torch.Tensor, x: torch.Tensor, out: torch.Tensor, rows: int = 16) -> None:
    """out = dequantize(words, scale) @ x, for a multiple of `rows` and a power of two of groups."""
    kernel = _gemv((words.dtype, scale.dtype, x.dtype, out.dtype), rows, scale.shape[1])
    kernel((words, scale, x, out), (words.shape[0] // rows, 1, 1))


@functools.cache
def _gemv(dtypes: tuple[torch.dtype, ...], rows: int, groups: int) -> Kernel:
    constants = {"ROWS": rows, "GROUPS": groups, "LANES": LANES, "NIBBLES": NIBBLES}
    return _kernel(gemv_kernel, dtypes, [], constants)
