import triton
import triton.language as tl


@triton.jit
def _maximum(a, b):
    """The greater, NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit(do_not_specialize=['s0'])
def softmax_first(x_ptr, out_ptr, s0, s1, x_s0, out_s0, BLOCK_K: tl.constexpr, BLOCK_I: tl.constexpr):
    pid = tl.program_id(0)
    i0 = pid * BLOCK_I
    i = i0 + tl.arange(0, BLOCK_I)
    full = i0 + BLOCK_I <= s1
    for edge in tl.static_range(2):                                       # 0: every tile is full, 1: at the edge
        if full != edge:
            in_i = (i < s1) | (edge == 0)
            max_acc = tl.full([BLOCK_K, BLOCK_I], float("-inf"), tl.float32)
            k_full = s0 // BLOCK_K * BLOCK_K                              # pass 1 over k
            for tail in tl.static_range(2):                               # 0: full tiles, 1: what is left
                for k0 in range(k_full if tail else 0, s0 if tail else k_full, BLOCK_K):
                    k = k0 + tl.arange(0, BLOCK_K)
                    in_k = (k < s0) | (tail == 0)
                    x = tl.load(x_ptr + k[:, None] * x_s0 + i[None, :], mask=in_k[:, None] & in_i[None, :], other=0).to(tl.float32)
                    select = tl.where(in_k[:, None], x, float("-inf"))
                    max_acc = _maximum(max_acc, select)                   # workloads.py:88  return torch.softmax(x, 0)
            max = tl.reduce(max_acc, 0, _maximum)
            sum_acc = tl.full([BLOCK_K, BLOCK_I], 0.0, tl.float32)
            k_full = s0 // BLOCK_K * BLOCK_K                              # pass 2 over k
            for tail in tl.static_range(2):                               # 0: full tiles, 1: what is left
                for k0 in range(k_full if tail else 0, s0 if tail else k_full, BLOCK_K):
                    k = k0 + tl.arange(0, BLOCK_K)
                    in_k = (k < s0) | (tail == 0)
                    x_2 = tl.load(x_ptr + k[:, None] * x_s0 + i[None, :], mask=in_k[:, None] & in_i[None, :], other=0).to(tl.float32)
                    sub = x_2 - max[None, :]                              # workloads.py:88  return torch.softmax(x, 0)
                    exp = tl.exp(sub)
                    select_2 = tl.where(in_k[:, None], exp, 0.0)
                    sum_acc = sum_acc + select_2
            sum = tl.sum(sum_acc, 0)
            k_full = s0 // BLOCK_K * BLOCK_K                              # pass 3 over k
            for tail in tl.static_range(2):                               # 0: full tiles, 1: what is left
                for k0 in range(k_full if tail else 0, s0 if tail else k_full, BLOCK_K):
                    k = k0 + tl.arange(0, BLOCK_K)
                    in_k = (k < s0) | (tail == 0)
                    x_3 = tl.load(x_ptr + k[:, None] * x_s0 + i[None, :], mask=in_k[:, None] & in_i[None, :], other=0).to(tl.float32)
                    sub_2 = x_3 - max[None, :]                            # workloads.py:88  return torch.softmax(x, 0)
                    exp_2 = tl.exp(sub_2)
                    div = exp_2 / sum[None, :]
                    tl.store(out_ptr + k[:, None] * out_s0 + i[None, :], div, mask=in_k[:, None] & in_i[None, :])
