import triton
import triton.language as tl


@triton.jit(do_not_specialize=['s0', 's1', 's2'])
def embedding_norm(ids_ptr, table_ptr, position_ptr, weight_ptr, bias_ptr, out_ptr, s0, s1, s2, ids_s0, out_s0, BLOCK_I: tl.constexpr, BLOCK_K: tl.constexpr):
    pid = tl.program_id(0)
    j = pid % s1
    pid = pid // s1
    i0 = pid * BLOCK_I
    i = i0 + tl.arange(0, BLOCK_I)
    k = tl.arange(0, BLOCK_K)
    in_k = k < 768
    in_i = i < s0
    ids = tl.load(ids_ptr + i * ids_s0 + j, mask=in_i, other=0)
    tl.device_assert((ids >= 0) & (ids < s2), "index out of range", mask=in_i)
    table = tl.load(table_ptr + ids[:, None] * 768 + k[None, :], mask=in_i[:, None] & in_k[None, :], other=0).to(tl.float32)
    position = tl.load(position_ptr + j * 768 + k, mask=in_k, other=0).to(tl.float32)
    add = table + position[None, :]                                       # workloads.py:182  return F.layer_norm(F.embedding(ids, table) + position, (table.shape[-1],), weight, bias)
    sum = tl.sum(add, 1)
    div = sum / 768.0
    sub = add - div[:, None]
    mul = sub * sub
    select = tl.where(in_k[None, :], mul, 0.0)
    sum_2 = tl.sum(select, 1)
    div_2 = sum_2 / 768.0
    add_2 = div_2 + 1e-05
    rsqrt = tl.rsqrt(add_2)
    mul_2 = sub * rsqrt[:, None]
    weight = tl.load(weight_ptr + k, mask=in_k, other=0).to(tl.float32)
    mul_3 = mul_2 * weight[None, :]
    bias = tl.load(bias_ptr + k, mask=in_k, other=0).to(tl.float32)
    add_3 = mul_3 + bias[None, :]
    tl.store(out_ptr + i[:, None] * out_s0 + j * 768 + k[None, :], add_3, mask=in_i[:, None] & in_k[None, :])
