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


@triton.jit(do_not_specialize=['s0', 'splits_0'])
def softmax_0(x_ptr, max_parts_ptr, sum_parts_ptr, max_ptr, sum_ptr, arrivals_ptr, s0, s1, splits_0, x_s0, BLOCK_PART: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_K: tl.constexpr):
    pid = tl.program_id(0)
    split = pid % splits_0
    pid = pid // splits_0
    i0 = pid * BLOCK_I
    i = i0 + tl.arange(0, BLOCK_I)
    in_i = i < s0
    max_part_acc = tl.full([BLOCK_I], float("-inf"), tl.float32)
    sum_part_acc = tl.full([BLOCK_I, BLOCK_K], 0.0, tl.float32)
    k_stop = s1                                                           # pass 1 over k
    k_each = tl.cdiv(tl.cdiv(k_stop, BLOCK_K), splits_0) * BLOCK_K
    k_start = split * k_each
    k_stop = tl.minimum(k_stop, k_start + k_each)
    k_full = k_stop // BLOCK_K * BLOCK_K
    k_full = tl.maximum(k_full, k_start)
    for tail in tl.static_range(2):                                       # 0: full tiles, 1: what is left
        for k0 in range(k_start if tail == 0 else k_full, k_full if tail == 0 else k_stop, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)
            in_k = (k < s1) | (tail == 0)
            x = tl.load(x_ptr + i[:, None] * x_s0 + k[None, :], mask=in_i[:, None] & in_k[None, :], other=0).to(tl.float32)
            select = tl.where(in_k[None, :], x, float("-inf"))
            max = tl.reduce(select, 1, _maximum)
            max_2 = _maximum(max_part_acc, max)
            eq = max_2 == float("-inf")
            where = tl.where(eq, 0.0, max_2)
            sub = max_part_acc - where
            exp = tl.exp(sub)
            mul = sum_part_acc * exp[:, None]
            power = _power(select, 1.0, where[:, None])
            sum_part_acc = mul + power                                    # workloads.py:87  return torch.softmax(x, -1)
            max_part_acc = max_2
    sum_part = tl.sum(sum_part_acc, 1)
    tl.store(max_parts_ptr + split * s0 + i, max_part_acc, mask=in_i)
    tl.store(sum_parts_ptr + split * s0 + i, sum_part, mask=in_i)
    tl.debug_barrier()                                                    # splits_0 programs share a loop: the last to arrive goes on
    arrived = tl.atomic_add(arrivals_ptr + tl.program_id(0) // splits_0, 1, sem="acq_rel")
    if arrived == splits_0 - 1:
        tl.store(arrivals_ptr + tl.program_id(0) // splits_0, 0)          # for the next launch
        max_acc = tl.full([BLOCK_PART, BLOCK_I], float("-inf"), tl.float32)
        part_full = splits_0 // BLOCK_PART * BLOCK_PART                   # pass 1 over part
        for tail in tl.static_range(2):                                   # 0: full tiles, 1: what is left
            for part0 in range(part_full if tail else 0, splits_0 if tail else part_full, BLOCK_PART):
                part = part0 + tl.arange(0, BLOCK_PART)
                in_part = (part < splits_0) | (tail == 0)
                max_parts = tl.load(max_parts_ptr + part[:, None] * s0 + i[None, :], mask=in_part[:, None] & in_i[None, :], other=0)
                select_2 = tl.where(in_part[:, None], max_parts, float("-inf"))
                max_acc = _maximum(max_acc, select_2)                     # workloads.py:87  return torch.softmax(x, -1)
        max_3 = tl.reduce(max_acc, 0, _maximum)
        eq_2 = max_3 == float("-inf")
        where_2 = tl.where(eq_2, 0.0, max_3)
        sum_acc = tl.full([BLOCK_PART, BLOCK_I], 0.0, tl.float32)
        part_full = splits_0 // BLOCK_PART * BLOCK_PART                   # pass 2 over part
        for tail in tl.static_range(2):                                   # 0: full tiles, 1: what is left
            for part0 in range(part_full if tail else 0, splits_0 if tail else part_full, BLOCK_PART):
                part = part0 + tl.arange(0, BLOCK_PART)
                in_part = (part < splits_0) | (tail == 0)
                sum_parts = tl.load(sum_parts_ptr + part[:, None] * s0 + i[None, :], mask=in_part[:, None] & in_i[None, :], other=0)
                max_parts_2 = tl.load(max_parts_ptr + part[:, None] * s0 + i[None, :], mask=in_part[:, None] & in_i[None, :], other=0)
                sub_2 = max_parts_2 - where_2[None, :]
                exp_2 = tl.exp(sub_2)
                mul_2 = sum_parts * exp_2
                select_3 = tl.where(in_part[:, None], mul_2, 0.0)
                sum_acc = sum_acc + select_3                              # workloads.py:87  return torch.softmax(x, -1)
        sum = tl.sum(sum_acc, 0)
        tl.store(max_ptr + i, max_3, mask=in_i)
        where_3 = tl.where(eq_2, float("nan"), sum)
        tl.store(sum_ptr + i, where_3, mask=in_i)


import triton
import triton.language as tl


@triton.jit
def _power(x, scale, top):
    """e^(x scale - top)"""
    return tl.exp(x * scale - top)


@triton.jit(do_not_specialize=['s0'])
def softmax_1(x_ptr, max_ptr, sum_ptr, out_ptr, s0, s1, x_s0, out_s0, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr):
    pid = tl.program_id(0)
    j0 = pid % tl.cdiv(s1, BLOCK_J) * BLOCK_J
    pid = pid // tl.cdiv(s1, BLOCK_J)
    j = j0 + tl.arange(0, BLOCK_J)
    i0 = pid * BLOCK_I
    i = i0 + tl.arange(0, BLOCK_I)
    full = j0 + BLOCK_J <= s1
    for edge in tl.static_range(2):                                       # 0: every tile is full, 1: at the edge
        if full != edge:
            in_i = i < s0
            in_j = (j < s1) | (edge == 0)
            x = tl.load(x_ptr + i[:, None] * x_s0 + j[None, :], mask=in_i[:, None] & in_j[None, :], other=0).to(tl.float32)
            max = tl.load(max_ptr + i, mask=in_i, other=0)                # workloads.py:87  return torch.softmax(x, -1)
            power = _power(x, 1.0, max[:, None])
            sum = tl.load(sum_ptr + i, mask=in_i, other=0)
            div = power / sum[:, None]
            tl.store(out_ptr + i[:, None] * out_s0 + j[None, :], div, mask=in_i[:, None] & in_j[None, :])
