"""Triton kernels written by hand, run on CPU tensors: a matrix product, attention, a product with 4-bit weights.

Run it with `python -m examples.cpu_kernels`. The kernels are in `fusedsl/cpu_kernels.py`, and
`fusedsl bench cpu matmul attention gemv` measures them.
"""

import torch
import torch.nn.functional as F

from fusedsl.cpu_kernels import attention, dequantize, gemv, matmul, quantize

from .measure import error


def main(size: int = 256, length: int = 256) -> float:
    """Runs each kernel and returns the greatest error against float64, relative to the greatest value."""
    errors = {"matmul": _matmul_error(size), "attention": _attention_error(length), "gemv": _gemv_error(size)}
    for name, each in errors.items():
        print(f"{name}: error against float64 {each:.1e}")
    return max(errors.values())


def _matmul_error(size: int) -> float:
    a, b = torch.randn(size + 3, size - 1), torch.randn(size - 1, size + 5)
    out = torch.empty(size + 3, size + 5)
    matmul(a, b, out, (64, 64, 64))
    return error(out, a.double() @ b.double())


def _attention_error(length: int) -> float:
    q, k, v = torch.randn(3, 1, 2, length, 64)
    out = torch.empty_like(q)
    attention(q, k, v, out, 64)
    return error(out, F.scaled_dot_product_attention(q.double(), k.double(), v.double()))


def _gemv_error(size: int) -> float:
    words, scale = quantize(torch.randn(size, size))
    x, out = torch.randn(size), torch.empty(size)
    gemv(words, scale, x, out)
    return error(out, dequantize(words, scale).double() @ x.double())


if __name__ == "__main__":
    main()
