"""GGUF's blocks as codes, scales and minima: which bits of a block are whose (ggml-common.h of llama.cpp).

A block of 32 or 256 values has its fields one after the other. Codes stand in planes: of a run of n bytes the lowest
bits are those of n values, the next ones those of the n values after them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Fields = Mapping[str, Tensor]  # by name, each [blocks, bytes]
Made = tuple[Tensor, Tensor, Tensor | None]  # codes [blocks, values]; scale and minimum [blocks, groups]

IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class BlockType:
    """fields: the bytes of each, in their order. format: what the codes of a tensor become, scales and minima as the
    block has them, or in f32 where they are products of two."""

    format: str
    values: int
    fields: Mapping[str, int]
    read: Callable[[Fields], Made]

    @property
    def bytes(self) -> int:
        return sum(self.fields.values())

    def parts(self, data: Tensor) -> Made:
        """The codes u8 [*rest, K] of u8 data [*rest, bytes], and scale and minimum [*rest, groups]."""
        rest = data.shape[:-1]
        blocks = data.reshape(-1, self.bytes)
        fields = dict(zip(self.fields, blocks.split(list(self.fields.values()), -1), strict=True))
        codes, scale, minimum = self.read(fields)
        return (
            codes.to(torch.uint8).reshape(*rest, -1),
            scale.reshape(*rest, -1),
            None if minimum is None else minimum.reshape(*rest, -1),
        )


def _planes(field: Tensor, bits: int, run: int) -> Tensor:
    """The numbers of so many bits, plane by plane of each run of bytes: [blocks, values]."""
    shifts = torch.arange(0, 8, bits, device=field.device).reshape(-1, 1)
    runs = field.reshape(len(field), -1, 1, run).int()
    return ((runs >> shifts) & ((1 << bits) - 1)).reshape(len(field), -1)


def _one_by_one(field: Tensor) -> Tensor:
    """Bits, least significant first."""
    return ((field.unsqueeze(-1).int() >> torch.arange(8, device=field.device)) & 1).flatten(1)


def _halves(field: Tensor) -> Tensor:
    return field.contiguous().view(torch.float16)


def _six_bits(field: Tensor) -> tuple[Tensor, Tensor]:
    """Eight scales and eight minima of 6 bits in the 12 bytes of Q4_K and Q5_K."""
    low, middle, high = field.int().split(4, -1)
    scale = torch.cat([low & 63, (high & 15) | ((low >> 2) & 48)], -1)
    return scale, torch.cat([middle & 63, (high >> 4) | ((middle >> 2) & 48)], -1)


def _with_minimum(f: Fields, codes: Tensor, scale: Tensor, minimum: Tensor) -> Made:
    """Scales and minima of a block are small integers times two halves."""
    return codes, _halves(f["d"]).float() * scale, -(_halves(f["dmin"]).float() * minimum)


def _q4(f: Fields) -> Tensor:
    return _planes(f["q"], 4, 16)


def _q5(f: Fields) -> Tensor:
    return _q4(f) | _one_by_one(f["high"]) << 4


def _q2_k(f: Fields) -> Made:
    return _with_minimum(f, _planes(f["q"], 2, 32), f["scales"].int() & 15, f["scales"].int() >> 4)


def _q3_k(f: Fields) -> Made:
    codes = _planes(f["q"], 2, 32) | _planes(f["high"], 1, 32) << 2
    low, high = f["scales"].split(8, -1)
    scale = (_planes(low, 4, 8) | _planes(high, 2, 4) << 4) - 32
    return codes, _halves(f["d"]).float() * scale, None


def _q4_k(f: Fields) -> Made:
    return _with_minimum(f, _planes(f["q"], 4, 32), *_six_bits(f["scales"]))


def _q5_k(f: Fields) -> Made:
    return _with_minimum(f, _planes(f["q"], 4, 32) | _planes(f["high"], 1, 32) << 4, *_six_bits(f["scales"]))


def _q6_k(f: Fields) -> Made:
    codes = _planes(f["q"], 4, 64) | _planes(f["high"], 2, 32) << 4
    return codes, _halves(f["d"]).float() * f["scales"].contiguous().view(torch.int8), None


_TABLE = f"table({','.join(map(str, IQ4_NL))})"
BLOCKS = {
    "Q4_0": BlockType("u4:g32:sym", 32, {"d": 2, "q": 16}, lambda f: (_q4(f), _halves(f["d"]), None)),
    "Q4_1": BlockType("u4:g32:min", 32, {"d": 2, "m": 2, "q": 16},
                      lambda f: (_q4(f), _halves(f["d"]), _halves(f["m"]))),
    "Q5_0": BlockType("u5:g32:sym", 32, {"d": 2, "high": 4, "q": 16}, lambda f: (_q5(f), _halves(f["d"]), None)),
    "Q5_1": BlockType("u5:g32:min", 32, {"d": 2, "m": 2, "high": 4, "q": 16},
                      lambda f: (_q5(f), _halves(f["d"]), _halves(f["m"]))),
    "Q8_0": BlockType("i8:g32", 32, {"d": 2, "q": 32}, lambda f: (f["q"] ^ 128, _halves(f["d"]), None)),
    "Q2_K": BlockType("u2:g16:min:f32", 256, {"scales": 16, "q": 64, "d": 2, "dmin": 2}, _q2_k),
    "Q3_K": BlockType("u3:g16:sym:f32", 256, {"high": 32, "q": 64, "scales": 12, "d": 2}, _q3_k),
    "Q4_K": BlockType("u4:g32:min:f32", 256, {"d": 2, "dmin": 2, "scales": 12, "q": 128}, _q4_k),
    "Q5_K": BlockType("u5:g32:min:f32", 256, {"d": 2, "dmin": 2, "scales": 12, "high": 32, "q": 128}, _q5_k),
    "Q6_K": BlockType("u6:g16:sym:f32", 256, {"q": 128, "high": 64, "scales": 16, "d": 2}, _q6_k),
    "IQ4_NL": BlockType(f"{_TABLE}:g32", 32, {"d": 2, "q": 16}, lambda f: (_q4(f), _halves(f["d"]), None)),
}  # fmt: skip
