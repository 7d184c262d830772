import triton
import triton.language as tl


@triton.jit(do_not_specialize=['s0'])
def vector_exp(x_ptr, out_ptr, s0, BLOCK_I: tl.constexpr):
    pid = tl.program_id(0)
    i0 = pid * BLOCK_I
    i = i0 + tl.arange(0, BLOCK_I)
    full = i0 + BLOCK_I <= s0
    for edge in tl.static_range(2):                                       # 0: every tile is full, 1: at the edge
        if full != edge:
            in_i = (i < s0) | (edge == 0)
            x = tl.load(x_ptr + i, mask=in_i, other=0).to(tl.float32)
            exp = tl.exp(x)                                               # workloads.py:60  return torch.exp(x)
            tl.store(out_ptr + i, exp, mask=in_i)
