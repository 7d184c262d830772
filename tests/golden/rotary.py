import triton
import triton.language as tl


@triton.jit(do_not_specialize=['s0', 's1'])
def rotary(x_ptr, cos_ptr, sin_ptr, out_ptr, s0, s1, x_s1, out_s1, BLOCK_I: tl.constexpr, BLOCK_L: tl.constexpr):
    pid = tl.program_id(0)
    l0 = pid % tl.cdiv(64, BLOCK_L) * BLOCK_L
    pid = pid // tl.cdiv(64, BLOCK_L)
    l = l0 + tl.arange(0, BLOCK_L)
    j = pid % s1
    pid = pid // s1
    i0 = pid * BLOCK_I
    i = i0 + tl.arange(0, BLOCK_I)
    full = l0 + BLOCK_L <= 64
    for edge in tl.static_range(2):                                       # 0: every tile is full, 1: at the edge
        if full != edge:
            in_i = i < s0
            in_l = (l < 64) | (edge == 0)
            x = tl.load(x_ptr + i[:, None] * x_s1 + j * 128 + l[None, :], mask=in_i[:, None] & in_l[None, :], other=0).to(tl.float32)
            cos = tl.load(cos_ptr + j * 128 + l, mask=in_l, other=0).to(tl.float32)
            mul = x * cos[None, :]                                        # workloads.py:187  return x * cos + torch.cat((-second, first), dim=-1) * sin
            x_2 = tl.load(x_ptr + i[:, None] * x_s1 + j * 128 + l[None, :] + 64, mask=in_i[:, None] & in_l[None, :], other=0).to(tl.float32)
            neg = -x_2
            sin = tl.load(sin_ptr + j * 128 + l, mask=in_l, other=0).to(tl.float32)
            mul_2 = neg * sin[None, :]
            add = mul + mul_2
            tl.store(out_ptr + i[:, None] * out_s1 + j * 128 + l[None, :], add, mask=in_i[:, None] & in_l[None, :])
            cos_2 = tl.load(cos_ptr + j * 128 + l + 64, mask=in_l, other=0).to(tl.float32)
            mul_3 = x_2 * cos_2[None, :]
            sin_2 = tl.load(sin_ptr + j * 128 + l + 64, mask=in_l, other=0).to(tl.float32)
            mul_4 = x * sin_2[None, :]
            add_2 = mul_3 + mul_4
            tl.store(out_ptr + i[:, None] * out_s1 + j * 128 + l[None, :] + 64, add_2, mask=in_i[:, None] & in_l[None, :])
