import triton
import triton.language as tl


@triton.jit(do_not_specialize=['s0', 's1', 'splits'])
def scalar_loss(x_ptr, y_ptr, sum_parts_ptr, out_ptr, arrivals_ptr, s0, s1, splits, size_k, BLOCK_PART: tl.constexpr, BLOCK_K: tl.constexpr):
    pid = tl.program_id(0)
    split = pid
    sum_part_acc = tl.full([BLOCK_K], 0.0, tl.float32)
    k_stop = size_k                                                       # pass 1 over k
    k_each = tl.cdiv(tl.cdiv(k_stop, BLOCK_K), splits) * BLOCK_K
    k_start = split * k_each
    k_stop = tl.minimum(k_stop, k_start + k_each)
    k_full = k_stop // BLOCK_K * BLOCK_K
    k_full = tl.maximum(k_full, k_start)
    for tail in tl.static_range(2):                                       # 0: full tiles, 1: what is left
        for k0 in range(k_start if tail == 0 else k_full, k_full if tail == 0 else k_stop, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)
            in_k = (k < size_k) | (tail == 0)
            x = tl.load(x_ptr + k, mask=in_k, other=0)
            y = tl.load(y_ptr + k, mask=in_k, other=0)
            sub = x - y                                                   # test_golden.py:28  return F.mse_loss(x, y)
            mul = sub * sub
            sum_part_acc = sum_part_acc + mul
    sum_part = tl.sum(sum_part_acc, 0)
    tl.store(sum_parts_ptr + split, sum_part)
    tl.debug_barrier()                                                    # splits programs share a loop: the last to arrive goes on
    arrived = tl.atomic_add(arrivals_ptr + tl.program_id(0) // splits, 1, sem="acq_rel")
    if arrived == splits - 1:
        tl.store(arrivals_ptr + tl.program_id(0) // splits, 0)            # for the next launch
        number = tl.full([], s0 * s1, tl.int64)                           # test_golden.py:28  return F.mse_loss(x, y)
        cast = number.to(tl.float32)
        sum_acc = tl.full([BLOCK_PART], 0.0, tl.float32)
        part_full = splits // BLOCK_PART * BLOCK_PART                     # pass 1 over part
        for tail in tl.static_range(2):                                   # 0: full tiles, 1: what is left
            for part0 in range(part_full if tail else 0, splits if tail else part_full, BLOCK_PART):
                part = part0 + tl.arange(0, BLOCK_PART)
                in_part = (part < splits) | (tail == 0)
                sum_parts = tl.load(sum_parts_ptr + part, mask=in_part, other=0)
                sum_acc = sum_acc + sum_parts                             # test_golden.py:28  return F.mse_loss(x, y)
        sum = tl.sum(sum_acc, 0)
        div = sum / cast
        tl.store(out_ptr, div)
