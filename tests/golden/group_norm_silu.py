import triton
import triton.language as tl


@triton.jit(do_not_specialize=['s0', 's2', 's3'])
def group_norm_silu(x_ptr, weight_ptr, bias_ptr, out_ptr, s0, s2, s3, size_v, x_s0, x_s1, out_s0, out_s1, BLOCK_I: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr):
    pid = tl.program_id(0)
    j = pid % 32
    pid = pid // 32
    i0 = pid * BLOCK_I
    i = i0 + tl.arange(0, BLOCK_I)
    k = tl.arange(0, BLOCK_K)
    in_i = i < s0
    less = k < s2 * s3
    x_2 = tl.load(x_ptr + i[:, None] * x_s0 + (j * 16) * x_s1 + k[None, :], mask=in_i[:, None] & less[None, :], other=0).to(tl.float32)
    select = tl.where(less[None, :], x_2, 0.0)
    sum = tl.sum(select, 1)
    select_2 = tl.where(less, tl.full([], 1.0, tl.float32), 0.0)
    sum_2 = tl.sum(select_2, 0)
    div = sum / sum_2
    sub = div - div
    eq = sub == 0.0
    where = tl.where(eq, div, 0.0)
    sum_acc = tl.full([BLOCK_I, BLOCK_V], 0.0, tl.float32)
    sum_acc_2 = tl.full([BLOCK_I, BLOCK_V], 0.0, tl.float32)
    for u in range(16):                                                   # pass 1
        v_full = size_v // BLOCK_V * BLOCK_V                              # pass 1 over v
        for tail in tl.static_range(2):                                   # 0: full tiles, 1: what is left
            for v0 in range(v_full if tail else 0, size_v if tail else v_full, BLOCK_V):
                v = v0 + tl.arange(0, BLOCK_V)
                in_v = (v < size_v) | (tail == 0)
                x = tl.load(x_ptr + i[:, None] * x_s0 + (j * 16 + u) * x_s1 + v[None, :], mask=in_i[:, None] & in_v[None, :], other=0).to(tl.float32)
                sub_2 = x - where[:, None]
                select_3 = tl.where(in_v[None, :], sub_2, 0.0)
                sum_acc = sum_acc + select_3                              # workloads.py:173  return F.silu(F.group_norm(x, 32, weight, bias))
                mul = sub_2 * sub_2
                select_4 = tl.where(in_v[None, :], mul, 0.0)
                sum_acc_2 = sum_acc_2 + select_4
    number = tl.full([], s2 * s3 * 16, tl.float32)
    number_2 = tl.full([], s2 * s3 * 16, tl.int64)
    cast = number_2.to(tl.float32)
    sum_3 = tl.sum(sum_acc, 1)
    sum_4 = tl.sum(sum_acc_2, 1)
    div_2 = sum_3 / number
    add = where + div_2
    neg = -div_2
    add_2 = neg + neg
    mul_2 = add_2 * sum_3
    add_3 = sum_4 + mul_2
    mul_3 = neg * neg
    mul_4 = mul_3 * number
    add_4 = add_3 + mul_4
    div_3 = add_4 / cast
    add_5 = div_3 + 1e-05
    rsqrt = tl.rsqrt(add_5)
    for u in range(16):                                                   # pass 2
        weight = tl.load(weight_ptr + j * 16 + u).to(tl.float32)
        bias = tl.load(bias_ptr + j * 16 + u).to(tl.float32)
        v_full = size_v // BLOCK_V * BLOCK_V                              # pass 2 over v
        for tail in tl.static_range(2):                                   # 0: full tiles, 1: what is left
            for v0 in range(v_full if tail else 0, size_v if tail else v_full, BLOCK_V):
                v = v0 + tl.arange(0, BLOCK_V)
                in_v = (v < size_v) | (tail == 0)
                x_3 = tl.load(x_ptr + i[:, None] * x_s0 + (j * 16 + u) * x_s1 + v[None, :], mask=in_i[:, None] & in_v[None, :], other=0).to(tl.float32)
                sub_3 = x_3 - add[:, None]                                # workloads.py:173  return F.silu(F.group_norm(x, 32, weight, bias))
                mul_5 = sub_3 * rsqrt[:, None]
                mul_6 = mul_5 * weight
                add_6 = mul_6 + bias
                neg_2 = -add_6
                exp = tl.exp(neg_2)
                add_7 = 1.0 + exp
                div_4 = add_6 / add_7
                tl.store(out_ptr + i[:, None] * out_s0 + (j * 16 + u) * out_s1 + v[None, :], div_4, mask=in_i[:, None] & in_v[None, :])
