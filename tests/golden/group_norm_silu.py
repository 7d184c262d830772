import triton
import triton.language as tl


@triton.jit(do_not_specialize=['s0', 's2', 's3'])
def group_norm_silu(x_ptr, weight_ptr, bias_ptr, out_ptr, s0, s2, s3, size_u, x_s0, x_s1, out_s0, out_s1, BLOCK_I: tl.constexpr, BLOCK_U: tl.constexpr):
    pid = tl.program_id(0)
    j = pid % 32
    pid = pid // 32
    i0 = pid * BLOCK_I
    i = i0 + tl.arange(0, BLOCK_I)
    in_i = i < s0
    sum_acc = tl.full([BLOCK_I, BLOCK_U], 0.0, tl.float32)
    for k in range(16):                                                   # pass 1
        u_full = size_u // BLOCK_U * BLOCK_U                              # pass 1 over u
        for tail in tl.static_range(2):                                   # 0: full tiles, 1: what is left
            for u0 in range(u_full if tail else 0, size_u if tail else u_full, BLOCK_U):
                u = u0 + tl.arange(0, BLOCK_U)
                in_u = (u < size_u) | (tail == 0)
                x = tl.load(x_ptr + i[:, None] * x_s0 + (j * 16 + k) * x_s1 + u[None, :], mask=in_i[:, None] & in_u[None, :], other=0).to(tl.float32)
                sum_acc = sum_acc + x                                     # workloads.py:170  return F.silu(F.group_norm(x, 32, weight, bias))
    number = tl.full([], s2 * s3 * 16, tl.int64)
    cast = number.to(tl.float32)
    sum = tl.sum(sum_acc, 1)
    div = sum / cast
    sum_acc_2 = tl.full([BLOCK_I, BLOCK_U], 0.0, tl.float32)
    for k in range(16):                                                   # pass 2
        u_full = size_u // BLOCK_U * BLOCK_U                              # pass 2 over u
        for tail in tl.static_range(2):                                   # 0: full tiles, 1: what is left
            for u0 in range(u_full if tail else 0, size_u if tail else u_full, BLOCK_U):
                u = u0 + tl.arange(0, BLOCK_U)
                in_u = (u < size_u) | (tail == 0)
                x_2 = tl.load(x_ptr + i[:, None] * x_s0 + (j * 16 + k) * x_s1 + u[None, :], mask=in_i[:, None] & in_u[None, :], other=0).to(tl.float32)
                sub = x_2 - div[:, None]                                  # workloads.py:170  return F.silu(F.group_norm(x, 32, weight, bias))
                mul = sub * sub
                select = tl.where(in_u[None, :], mul, 0.0)
                sum_acc_2 = sum_acc_2 + select
    sum_2 = tl.sum(sum_acc_2, 1)
    div_2 = sum_2 / cast
    add = div_2 + 1e-05
    rsqrt = tl.rsqrt(add)
    for k in range(16):                                                   # pass 3
        weight = tl.load(weight_ptr + j * 16 + k).to(tl.float32)
        bias = tl.load(bias_ptr + j * 16 + k).to(tl.float32)
        u_full = size_u // BLOCK_U * BLOCK_U                              # pass 3 over u
        for tail in tl.static_range(2):                                   # 0: full tiles, 1: what is left
            for u0 in range(u_full if tail else 0, size_u if tail else u_full, BLOCK_U):
                u = u0 + tl.arange(0, BLOCK_U)
                in_u = (u < size_u) | (tail == 0)
                x_3 = tl.load(x_ptr + i[:, None] * x_s0 + (j * 16 + k) * x_s1 + u[None, :], mask=in_i[:, None] & in_u[None, :], other=0).to(tl.float32)
                sub_2 = x_3 - div[:, None]                                # workloads.py:170  return F.silu(F.group_norm(x, 32, weight, bias))
                mul_2 = sub_2 * rsqrt[:, None]
                mul_3 = mul_2 * weight
                add_2 = mul_3 + bias
                neg = -add_2
                exp = tl.exp(neg)
                add_3 = 1.0 + exp
                div_3 = add_2 / add_3
                tl.store(out_ptr + i[:, None] * out_s0 + (j * 16 + k) * out_s1 + u[None, :], div_3, mask=in_i[:, None] & in_u[None, :])
