"""Bit layouts of codes, in plain torch: rows of one bit stream, base-3 bytes for ternary, and slabs for contractions.

A stream is least significant bit first: value k of `bits` bits starts at bit k * bits. Codes are u8 tensors. ::

    3-bit values, 16-bit words:  |aaabbbcccdddeeef|ffggghhhiiijjjkk|klllmmmnnnoooppp|     f and k straddle
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

TRITS = 5  # ternary codes in a byte: 3**5 <= 256
TRIT_ZERO = 1  # the ternary code of 0, which pads a last byte
LANES = 16  # slabs in a tile: values in one stream of 16-bit words


def row_bytes(size: int, bits: int, ternary: bool = False) -> int:
    """The bytes of a row of that many codes."""
    return -(-size // TRITS) if ternary else -(-size * bits // 8)


def pack_rows(codes: Tensor, bits: int) -> Tensor:
    """u8 codes [*rest, K] below 2**bits as one stream a row: u8 [*rest, row_bytes(K, bits)]."""
    size = codes.shape[-1]
    if bits == 8:
        return codes.clone(memory_format=torch.contiguous_format)
    eights = _cut(codes, 8)
    words = torch.zeros(eights.shape[:-1], dtype=torch.int64, device=codes.device)
    for k in range(8):
        words |= eights[..., k].long() << (k * bits)
    octets = words.unsqueeze(-1).view(torch.uint8)[..., :bits]
    return octets.flatten(-2)[..., : row_bytes(size, bits)].contiguous()


def unpack_rows(data: Tensor, bits: int, size: int) -> Tensor:
    """The u8 codes [*rest, size] of rows that pack_rows made."""
    if bits == 8:
        return data.clone(memory_format=torch.contiguous_format)
    words = pad(_cut(data, bits), (0, 8 - bits)).contiguous().view(torch.int64).squeeze(-1)
    codes = torch.stack([(words >> (k * bits) & (1 << bits) - 1).to(torch.uint8) for k in range(8)], -1)
    return codes.flatten(-2)[..., :size].contiguous()


def pack_trits(codes: Tensor) -> Tensor:
    """u8 codes 0, 1, 2 [*rest, K], five a byte, code i times 3**i: u8 [*rest, ceil(K / 5)]; 1s fill the last."""
    fives = _cut(codes, TRITS, TRIT_ZERO)
    data = torch.zeros(fives.shape[:-1], dtype=torch.uint8, device=codes.device)
    for i in reversed(range(TRITS)):
        data = data * 3 + fives[..., i]
    return data


def unpack_trits(data: Tensor, size: int) -> Tensor:
    """The u8 codes [*rest, size] of rows that pack_trits made."""
    codes = torch.stack([data // 3**i % 3 for i in range(TRITS)], -1)
    return codes.flatten(-2)[..., :size].contiguous()


def slabs(codes: Tensor, bits: int, rows: int) -> Tensor:
    """u8 codes [*batch, K, N], K a multiple of 16 * rows, as u16 words [*batch, K // (16 * rows), bits, rows, N].

    A tile is 16 slabs of `rows` rows. The 16 codes at one (row, n) of a tile, one from each slab, are a stream that is
    cut into `bits` words of 16 bits; word w of it is stored at [tile, w, row, n]."""
    *batch, depth, n = codes.shape
    assert depth % (LANES * rows) == 0, (depth, rows)
    lanes = codes.reshape(*batch, depth // (LANES * rows), LANES, rows, n).unbind(-3)
    words = []
    for w in range(bits):
        word = torch.zeros_like(lanes[0], dtype=torch.int32)
        for j in _lanes_of(w, bits):
            word |= _shifted(lanes[j].int(), j * bits - 16 * w)
        words.append((word & 0xFFFF).to(torch.int16).view(torch.uint16))
    return torch.stack(words, -3)


def unslab(words: Tensor, bits: int) -> Tensor:
    """The u8 codes [*batch, K, N] of u16 words [*batch, tiles, bits, rows, N] that slabs made."""
    *batch, tiles, _, rows, n = words.shape
    parts = [word.int() & 0xFFFF for word in words.unbind(-3)]
    lanes = []
    for j in range(LANES):
        lane = torch.zeros_like(parts[0])
        for w in range(j * bits // 16, (j * bits + bits - 1) // 16 + 1):
            lane |= _shifted(parts[w], 16 * w - j * bits)
        lanes.append((lane & (1 << bits) - 1).to(torch.uint8))
    return torch.stack(lanes, -3).reshape(*batch, tiles * LANES * rows, n)


def _cut(rows: Tensor, size: int, padding: int = 0) -> Tensor:
    """Rows [*rest, K] in pieces [*rest, ceil(K / size), size], the last one padded."""
    count = -(-rows.shape[-1] // size)
    return pad(rows, (0, count * size - rows.shape[-1]), value=padding).reshape(*rows.shape[:-1], count, size)


def _lanes_of(word: int, bits: int) -> range:
    """The values of which a 16-bit word of a stream holds a bit."""
    return range(16 * word // bits, -(-16 * (word + 1) // bits))


def _shifted(value: Tensor, left: int) -> Tensor:
    return value << left if left >= 0 else value >> -left
