import triton
import triton.language as tl


@triton.jit(do_not_specialize=['s0'])
def concat_gelu(x_ptr, y_ptr, out_ptr, s0, s1, size_j, x_s0, y_s0, out_s0, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr):
    pid = tl.program_id(0)
    j0 = pid % tl.cdiv(size_j, BLOCK_J) * BLOCK_J
    pid = pid // tl.cdiv(size_j, BLOCK_J)
    j = j0 + tl.arange(0, BLOCK_J)
    i0 = pid * BLOCK_I
    i = i0 + tl.arange(0, BLOCK_I)
    full = j0 + BLOCK_J <= size_j
    for edge in tl.static_range(2):                                       # 0: every tile is full, 1: at the edge
        if full != edge:
            in_i = i < s0
            in_j = (j < size_j) | (edge == 0)
            less = j < s1
            x = tl.load(x_ptr + i[:, None] * x_s0 + j[None, :], mask=in_i[:, None] & in_j[None, :] & less[None, :], other=0).to(tl.float32)
            less_2 = s1 <= j
            y = tl.load(y_ptr + i[:, None] * y_s0 + j[None, :] - s1, mask=in_i[:, None] & in_j[None, :] & less_2[None, :], other=0).to(tl.float32)
            select = tl.where(less[None, :], x, y)                        # workloads.py:191  return F.gelu(torch.cat((x, y), dim=-1))
            mul = select * 0.5
            mul_2 = select * 0.7071067811865476
            erf = tl.erf(mul_2)
            add = 1.0 + erf
            mul_3 = mul * add
            tl.store(out_ptr + i[:, None] * out_s0 + j[None, :], mul_3, mask=in_i[:, None] & in_j[None, :])
