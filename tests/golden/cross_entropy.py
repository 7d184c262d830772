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
def cross_entropy(logits_ptr, target_ptr, out_ptr, s0, s1, logits_s0, BLOCK_I: tl.constexpr, BLOCK_K: tl.constexpr):
    pid = tl.program_id(0)
    i0 = pid * BLOCK_I
    i = i0 + tl.arange(0, BLOCK_I)
    in_i = i < s0
    max_acc = tl.full([BLOCK_I], float("-inf"), tl.float32)
    sum_acc = tl.full([BLOCK_I, BLOCK_K], 0.0, tl.float32)
    k_full = s1 // BLOCK_K * BLOCK_K                                      # pass 1 over k
    for tail in tl.static_range(2):                                       # 0: full tiles, 1: what is left
        for k0 in range(k_full if tail else 0, s1 if tail else k_full, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)
            in_k = (k < s1) | (tail == 0)
            logits = tl.load(logits_ptr + i[:, None] * logits_s0 + k[None, :], mask=in_i[:, None] & in_k[None, :], other=0).to(tl.float32)
            select = tl.where(in_k[None, :], logits, float("-inf"))
            max = tl.reduce(select, 1, _maximum)
            max_2 = _maximum(max_acc, max)
            eq = max_2 == float("-inf")
            where = tl.where(eq, 0.0, max_2)
            sub = max_acc - where
            exp = tl.exp(sub)
            mul = sum_acc * exp[:, None]
            power = _power(select, 1.0, where[:, None])
            sum_acc = mul + power                                         # workloads.py:95  return F.cross_entropy(logits, target, reduction="none")
            max_acc = max_2
    target = tl.load(target_ptr + i, mask=in_i, other=0)
    ne = target != -100
    where_2 = tl.where(ne, target, 0)
    tl.device_assert((where_2 >= 0) & (where_2 < s1), "index out of range", mask=in_i)
    logits_2 = tl.load(logits_ptr + i * logits_s0 + where_2, mask=in_i, other=0).to(tl.float32)
    sum = tl.sum(sum_acc, 1)
    sub_2 = logits_2 - max_acc
    eq_2 = max_acc == float("-inf")
    where_3 = tl.where(eq_2, float("nan"), sum)
    log = tl.log(where_3)
    sub_3 = sub_2 - log
    neg = -sub_3
    where_4 = tl.where(ne, neg, 0.0)
    tl.store(out_ptr + i, where_4, mask=in_i)
