"""Attention as it is usually written by hand in Triton, to measure ours against: the one-pass loop of FlashAttention-2
(Dao 2023, algorithm 1), powers of 2 with the scale folded into them, full tiles first and then what is left.
"""

import re

import triton
import triton.language as tl


@triton.jit
def flash_attention(
    q_ptr, k_ptr, v_ptr, out_ptr, queries, keys, scale, ROWS: tl.constexpr, KEYS: tl.constexpr, HEAD: tl.constexpr
):
    head, row = tl.program_id(1), tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, HEAD)
    q = tl.load(q_ptr + (head * queries + row[:, None]) * HEAD + d, mask=row[:, None] < queries, other=0)
    most = tl.full([ROWS], float("-inf"), tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, HEAD], tl.float32)
    scale = scale * 1.44269504
    whole = keys // KEYS * KEYS
    for tail in tl.static_range(2):  # type: ignore[reportGeneralTypeIssues]
        for start in range(whole if tail else 0, keys if tail else whole, KEYS):
            key = start + tl.arange(0, KEYS)
            inside = (key < keys) | (tail == 0)
            k = tl.load(k_ptr + (head * keys + key[:, None]) * HEAD + d, mask=inside[:, None], other=0)
            scores = tl.dot(q, k.T)
            scores = tl.where(inside, scores, float("-inf"))
            greater = tl.maximum(most, tl.max(scores, 1) * scale)
            shares = tl.exp2(scores * scale - greater[:, None])
            shrink = tl.exp2(most - greater)
            weight = weight * shrink + tl.sum(shares, 1)
            v = tl.load(v_ptr + (head * keys + key[:, None]) * HEAD + d, mask=inside[:, None], other=0)
            mixed = tl.dot(shares.to(q.dtype), v, mixed * shrink[:, None])
            most = greater
    out = mixed / weight[:, None]
    tl.store(out_ptr + (head * queries + row[:, None]) * HEAD + d, out.to(q.dtype), mask=row[:, None] < queries)


def loops(sass: str) -> list[list[str]]:
    """The opcodes of each loop in a kernel's SASS that has none inside, as they stand."""
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    spans: list[tuple[int, int]] = []
    for line in sass.splitlines():
        if label := re.match(r"(\.L_\w+):", line):
            labels[label[1]] = len(opcodes)
        elif code := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);", line):
            opcodes.append(code[1])
            target = re.search(r"\.L_\w+", code[2]) if code[1].startswith("BRA") else None
            if target is not None and target[0] in labels and labels[target[0]] < len(opcodes) - 1:
                spans.append((labels[target[0]], len(opcodes)))
    inner = [s for s in spans if not any(s != o and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    return [opcodes[first:last] for first, last in inner]
