import triton
import triton.language as tl


@triton.jit
def _maximum(a, b):
    """The greater, NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _power(x, scale, top):
    """e^(x scale - top)"""
    return tl.exp(x * scale - top)


@triton.jit(do_not_specialize=['s0'])
def softmax_first(x_ptr, out_ptr, s0, s1, x_s0, out_s0, BLOCK_K: tl.constexpr, BLOCK_I: tl.constexpr):
    pid = tl.program_id(0)
    i0 = pid * BLOCK_I
    i = i0 + tl.arange(0, BLOCK_I)
    full = i0 + BLOCK_I <= s1
    for edge in tl.static_range(2):                                       # 0: every tile is full, 1: at the edge
        if full != edge:
            in_i = (i < s1) | (edge == 0)
            max_acc = tl.full([BLOCK_I], float("-inf"), tl.float32)
            sum_acc = tl.full([BLOCK_K, BLOCK_I], 0.0, tl.float32)
            k_full = s0 // BLOCK_K * BLOCK_K                              # pass 1 over k
            for tail in tl.static_range(2):                               # 0: full tiles, 1: what is left
                for k0 in range(k_full if tail else 0, s0 if tail else k_full, BLOCK_K):
                    k = k0 + tl.arange(0, BLOCK_K)
                    in_k = (k < s0) | (tail == 0)
                    x = tl.load(x_ptr + k[:, None] * x_s0 + i[None, :], mask=in_k[:, None] & in_i[None, :], other=0).to(tl.float32)
                    select = tl.where(in_k[:, None], x, float("-inf"))
                    max = tl.reduce(select, 0, _maximum)
                    max_2 = _maximum(max_acc, max)
                    eq = max_2 == float("-inf")
                    where = tl.where(eq, 0.0, max_2)
                    sub = max_acc - where
                    exp = tl.exp(sub)
                    mul = sum_acc * exp[None, :]
                    power = _power(select, 1.0, where[None, :])
                    sum_acc = mul + power                                 # workloads.py:91  return torch.softmax(x, 0)
                    max_acc = max_2
            sum = tl.sum(sum_acc, 0)
            eq_2 = max_acc == float("-inf")
            where_2 = tl.where(eq_2, float("nan"), sum)
            k_full = s0 // BLOCK_K * BLOCK_K                              # pass 2 over k
            for tail in tl.static_range(2):                               # 0: full tiles, 1: what is left
                for k0 in range(k_full if tail else 0, s0 if tail else k_full, BLOCK_K):
                    k = k0 + tl.arange(0, BLOCK_K)
                    in_k = (k < s0) | (tail == 0)
                    x_2 = tl.load(x_ptr + k[:, None] * x_s0 + i[None, :], mask=in_k[:, None] & in_i[None, :], other=0).to(tl.float32)
                    select_2 = tl.where(in_k[:, None], x_2, float("-inf"))
                    power_2 = _power(select_2, 1.0, max_acc[None, :])     # workloads.py:91  return torch.softmax(x, 0)
                    div = power_2 / where_2[None, :]
                    tl.store(out_ptr + k[:, None] * out_s0 + i[None, :], div, mask=in_k[:, None] & in_i[None, :])
