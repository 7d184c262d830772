"""A cache of keys and values in few bits: keys quantised per channel, values per token, the latest tokens in full
precision (KIVI, arXiv 2402.02750).

    T tokens:   |<---------- packed ---------->|<-- full -->|
    keys        |  nK = R * floor((T - 1) / R) |            |   R tokens at once, groups of tokens of one channel
    values      |  nV = max(0, T - 1 - R)  |                |   one token at a time, groups of channels of one token

The cache is memory and a schedule. Attention over it is a chain like any other: `joined` says where keys and values
lie, and what reads them is one kernel, with whatever masks, sinks, or pages are written around it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .api import Fused, fuse
from .formats import Format, parse
from .ops import quantize
from .packed import Packed, stored_dims
from .parts import Parts, bad_argument, part_types

FIRST = 256  # tokens that memory is taken for at first; twice as many whenever it is full


def joined(keys: Tensor, recent_keys: Tensor, values: Tensor, recent_values: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values [batch, heads, tokens, head] of what `KIVICache.tensors` gives, fused or in eager."""
    return torch.cat([keys.flatten(2, 3), recent_keys], 2), torch.cat([values, recent_values], 2)


def _attend(q, keys, recent_keys, values, recent_values, mask, scale):
    k, v = joined(keys, recent_keys, values, recent_values)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)


@dataclass
class KIVICache:
    """The keys and values of one layer, [batch, heads, tokens, head] of a dtype.

    bits: of a code, 1 to 8. group: values that share a scale and a minimum, both f16: bits + 32 / group bits a value.
    residual: tokens R that stay in full precision, a multiple of the group. Raises BadArgument for other sizes."""

    batch: int
    heads: int
    head: int
    bits: int = 2
    group: int = 32
    residual: int = 128
    dtype: torch.dtype = torch.float16
    device: torch.device | str = "cpu"
    tokens: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        for name, size in (("residual", self.residual), ("head", self.head)):
            if not 0 < self.group <= size or size % self.group or self.group * self.bits % 8:
                rule, got = "a multiple of the group, and a group whole bytes", f"{size}, with groups of {self.group}"
                raise bad_argument("KIVICache", name, rule, got, "Take a group of 32 or 64.")
        self.format = parse(f"u{self.bits}:g{self.group}:min")
        rest = (self.batch, self.heads)
        self._keys = _Store(self.format, (*rest, 0, self.residual, self.head), self.residual, self.dtype, self.device)
        self._values = _Store(self.format, (*rest, 0, self.head), 1, self.dtype, self.device)
        self._recent_keys = _Window((*rest, self.residual, self.head), self.dtype, self.device)
        self._recent_values = _Window((*rest, 2 * self.residual + 2, self.head), self.dtype, self.device)

    # ---- what it holds

    @property
    def tensors(self) -> tuple[Packed, Tensor, Packed, Tensor]:
        """Packed keys [batch, heads, nK / R, R, head], recent keys [batch, heads, T - nK, head], packed values [batch,
        heads, nV, head], and recent values: views of the cache's memory."""
        return self._keys.tensor, self._recent_keys.tensor, self._values.tensor, self._recent_values.tensor

    @property
    def nbytes(self) -> int:
        """What the tokens take: packed ones bits + 32 / group bits a value, recent ones their dtype."""
        return sum(tensor.nbytes for tensor in self.tensors)

    # ---- what changes it

    def prefill(self, k: Tensor, v: Tensor) -> None:
        """Takes the tokens of a prompt, [batch, heads, tokens, head], into an empty cache. Attention among them is that
        of k and v themselves. Raises BadArgument for other shapes, and if there are tokens already."""
        if self.tokens:
            rule, hint = "empty", "Append the tokens one by one."
            raise bad_argument("prefill", "the cache", rule, f"one of {self.tokens} tokens", hint)
        self._check(k, v, None)
        size = k.shape[2]
        chunks, late = size // self.residual, max(0, size - self.residual)
        self._keys.append(k[:, :, : chunks * self.residual].unflatten(2, (chunks, self.residual)))
        self._values.append(v[:, :, :late])
        self._recent_keys.append(k[:, :, chunks * self.residual :])
        self._recent_values.append(v[:, :, late:])
        self.tokens = size

    def append(self, k: Tensor, v: Tensor) -> None:
        """Takes the next token, [batch, heads, 1, head], after packing what has left the window."""
        self._check(k, v, 1)
        if len(self._recent_keys) == self.residual:
            self._keys.append(self._recent_keys.tensor.unsqueeze(2))
            self._recent_keys.drop(self.residual)
        if len(self._recent_values) > self.residual:
            self._values.append(self._recent_values.tensor[:, :, :1])
            self._recent_values.drop(1)
        self._recent_keys.append(k)
        self._recent_values.append(v)
        self.tokens += 1

    def attend(self, q: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
        """Attention of queries [batch, query heads, n, head] over all tokens, in one kernel: as torch's
        scaled_dot_product_attention with enable_gqa, with a mask that broadcasts to [batch, query heads, n, tokens]."""
        return _attention()(q, *self.tensors, mask, scale)

    def _check(self, k: Tensor, v: Tensor, tokens: int | None) -> None:
        for name, tensor in (("k", k), ("v", v)):
            size = k.shape[2] if tokens is None and k.dim() == 4 else tokens
            wanted = [self.batch, self.heads, size, self.head]
            if list(tensor.shape) != wanted or tensor.dtype != self.dtype:
                got = f"{tensor.dtype} {list(tensor.shape)}"
                raise bad_argument("KIVICache", name, f"{self.dtype} {wanted}", got, "Keys and values are alike.")


@cache
def _attention() -> Fused:
    return fuse(_attend)


@cache
def _quantizer(format: str, axis: int) -> Fused:
    return fuse(lambda x: quantize(x, format, axis))


class _Store:
    """A packed tensor with groups along its dimension 3 that grows along its dimension 2, which counts so many tokens:
    parts with room for more, of which the first are in use."""

    axis = 3

    def __init__(
        self, format: Format, shape: Sequence[int], tokens: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.format, self.least, self.dtype, self.device = format, math.ceil(FIRST / tokens), dtype, device
        self.shape = list(shape)
        self.parts = self._made(0)

    def _made(self, room: int) -> Parts:
        rest = [room if d == 2 else n for d, n in enumerate(self.shape) if d != self.axis]
        types = part_types(self.format, rest, self.shape[self.axis])
        made = {name: torch.empty(shape, dtype=dtype, device=self.device) for name, (dtype, shape) in types.items()}
        return Parts(**made)

    @property
    def tensor(self) -> Packed:
        used = self.parts.map(lambda part: part[:, :, : self.shape[2]])
        return Packed(used, self.format, tuple(self.shape), stored_dims(len(self.shape), self.axis), self.dtype)

    def append(self, x: Tensor) -> None:
        """Packs numbers, and puts them behind what there is."""
        more = x.shape[2]
        if not more:
            return
        made = _quantizer(self.format.text, self.axis)(x)
        start, room = self.shape[2], self.parts.data.shape[2]
        if start + more > room:
            old = self.parts
            self.parts = self._made(max(2 * room, start + more, self.least))
            _copy(self.parts, old, 0, start)
        _copy(self.parts, made.parts, start, start + more)
        self.shape[2] += more


def _copy(to: Parts, source: Parts, start: int, stop: int) -> None:
    for name, part in source._asdict().items():
        if part is not None:
            getattr(to, name)[:, :, start:stop] = part[:, :, : stop - start]


class _Window:
    """The latest tokens along dimension 2, in memory that they move through and are moved back in when it ends."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> None:
        self.memory = torch.empty(shape, dtype=dtype, device=device)
        self.start = self.stop = 0

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def tensor(self) -> Tensor:
        return self.memory[:, :, self.start : self.stop]

    def drop(self, count: int) -> None:
        """Forgets the oldest."""
        self.start += count

    def append(self, x: Tensor) -> None:
        more = x.shape[2]
        if self.stop + more > self.memory.shape[2]:
            kept = self.tensor.clone()
            self.start, self.stop = 0, kept.shape[2]
            self.memory[:, :, : self.stop] = kept
        self.memory[:, :, self.stop : self.stop + more] = x
        self.stop += more
