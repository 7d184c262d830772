"""Quantised checkpoints as packed tensors, their codes unchanged: GPTQ, AWQ, HQQ, GGUF, MXFP4, NVFP4 and
compressed-tensors.

A linear layer's weight is [N, K], outputs by inputs, with groups along K, whatever order the file has it in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import FuseError, MissingPackage, user_line
from .gguf_blocks import BLOCKS
from .packed import Packed, pack_codes
from .packfile import BadFile, Summary, load_file, save_file
from .packing import unpack_rows
from .parts import bad_argument

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # which of eight neighbouring columns each nibble of a word is
HQQ_SLABS = {"8bit_u8": (8, 1), "4bit_u8": (4, 2), "2bit_u8": (2, 4), "1bit_u8": (1, 8), "3bit_32": (3, 10)}


# ---- files -----------------------------------------------------------------------------------------------------------


def load_checkpoint(path: str | os.PathLike, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The tensors of a quantised checkpoint by name: of a GGUF file, of a safetensors file, or of all safetensors files
    of a folder, with the `quantization_config` of the config.json beside them.

    A packed weight is `<layer>.weight`. Where groups of GPTQ follow its act-order, the weight has its inputs in that
    order, and `<layer>.permutation` i64 [K] says which they are: `x[..., permutation] @ weight.mT`. dtype: what packed
    tensors unpack to, else that of their scales, and f32 for GGUF.

    Raises BadFile for what is broken or of a layout that is not known, MissingPackage without a reader of it."""
    path = Path(path)
    if path.suffix == ".gguf":
        return _load_gguf(path, dtype or torch.float32)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise _bad(path, "there must be a .gguf or .safetensors file", "none", "Give the file itself, or its folder.")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= load_file(file)
    folder = path if path.is_dir() else path.parent
    with _understood(path):
        return _converted(tensors, _config(folder), dtype)


def convert(source: Path, target: Path) -> Summary:
    """Writes a quantised checkpoint as a file that `load_file` reads, which appears when it is whole.

    Raises BadArgument where nothing in it is packed, and what load_checkpoint does."""
    tensors = load_checkpoint(source)
    packed = {name: each for name, each in tensors.items() if isinstance(each, Packed)}
    if not packed:
        rule, got = "of a layout that is known", f"{len(tensors)} plain tensors"
        raise bad_argument("pack", "the checkpoint", rule, got, "Say into which --format they are to be packed.")
    save_file(tensors, target)
    sizes = [each.nbytes for name, each in tensors.items() if name not in packed]
    size, values = (sum(n) for n in zip(*((each.nbytes, each.numel()) for each in packed.values()), strict=True))
    files = source.glob("*.safetensors") if source.is_dir() else [source]
    before = sum(file.stat().st_size for file in files) - sum(sizes)
    return Summary(len(packed), len(sizes), sum(sizes), before, size, values)


def _bad(path: Path, rule: str, got: str, hint: str) -> FuseError:
    return BadFile(path=str(path), rule=rule, got=got, hint=hint, line=user_line())


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    """Says which file it is of which something is wrong."""
    try:
        yield
    except BadFile:
        raise
    except (FuseError, KeyError, RuntimeError, ValueError, IndexError, TypeError) as error:
        hint = "Is it whole, and of the layout that its config.json says?"
        raise _bad(path, "its tensors must fit together", f"{type(error).__name__}: {error}", hint) from None


def _config(folder: Path) -> Mapping[str, Any]:
    """What the files beside a checkpoint say about its quantisation, {} where they say nothing."""
    for name in ("quantize_config.json", "config.json"):
        file = folder / name
        if file.is_file():
            try:
                found = json.loads(file.read_text())
            except (OSError, ValueError) as error:
                raise _bad(file, "it must be JSON", str(error), "Is it whole?") from None
            found = found.get("quantization_config", found if name != "config.json" else {})
            return found if isinstance(found, Mapping) else {}
    return {}


def _load_gguf(path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise MissingPackage(name="gguf", what="a GGUF file", hint="fusedsl[files]") from None
    try:
        found = GGUFReader(path).tensors
    except OSError as error:
        raise _bad(path, "it must be a file that can be read", str(error), "") from None
    except Exception as error:  # the reader meets what is no GGUF with whatever numpy or struct raise
        raise _bad(path, "it must be a GGUF file", f"{type(error).__name__}: {error}", "Is it whole?") from None
    tensors = {}
    for tensor in found:
        shape = [int(n) for n in reversed(tensor.shape)]
        kind = tensor.tensor_type.name
        with _understood(path):
            data = torch.from_numpy(tensor.data.copy())
            tensors[tensor.name] = from_gguf(data, kind, dtype=dtype) if kind in BLOCKS else _plain(data, kind, shape)
    return tensors


def _plain(data: Tensor, kind: str, shape: list[int]) -> Tensor:
    if kind == "BF16":
        return data.view(torch.bfloat16).reshape(shape)
    if data.dtype is torch.uint8:
        known = " ".join(BLOCKS)
        raise bad_argument("load_checkpoint", "the type of a tensor", f"F32, F16, BF16 or one of {known}", kind, "")
    return data.reshape(shape)


# ---- layers by the names of their parts ------------------------------------------------------------------------------


def _converted(tensors: dict[str, Tensor], config: Mapping[str, Any], dtype: torch.dtype | None) -> dict[str, Tensor]:
    done: dict[str, Tensor] = {}
    left = dict(tensors)
    for name in tensors:
        for part, convert in _LAYERS.items():
            if name in left and name.endswith(part):
                layer = _Layer(name.removesuffix(part), left, config, dtype)
                done |= {layer.name + kind: each for kind, each in convert(layer).items()}
    return done | left


@dataclass(frozen=True)
class _Layer:
    """The parts of a layer, which are taken out of what is left of a file."""

    name: str
    left: dict[str, Tensor]
    config: Mapping[str, Any]
    dtype: torch.dtype | None

    def take(self, part: str) -> Tensor:
        return self.left.pop(self.name + part)

    def may_take(self, part: str) -> Tensor | None:
        return self.left.pop(self.name + part, None)


def _packed_words(layer: _Layer) -> dict[str, Tensor]:
    """GPTQ or AWQ, which have the same names."""
    words, zeros, scales = layer.take(".qweight"), layer.take(".qzeros"), layer.take(".scales")
    order, method = layer.may_take(".g_idx"), layer.config.get("quant_method")
    if method == "awq" or (method is None and words.shape[-1] != scales.shape[-1]):
        return {".weight": from_awq(words, zeros, scales, dtype=layer.dtype)}
    bits = layer.config.get("bits")
    if bits is None and order is None:
        raise bad_argument("load_checkpoint", "the bits of GPTQ", "told", "neither a config.json nor g_idx",
                           "Put the checkpoint's config.json or quantize_config.json beside the file.")  # fmt: skip
    bits = int(bits if bits is not None else words.shape[0] * 32 // len(order))  # type: ignore[arg-type]
    is_v2 = layer.config.get("checkpoint_format") == "gptq_v2"
    weight, permutation = from_gptq(words, zeros, scales, order, bits=bits, v2=is_v2, dtype=layer.dtype)
    return {".weight": weight} if permutation is None else {".weight": weight, ".permutation": permutation}


def _compressed(layer: _Layer) -> dict[str, Tensor]:
    data, scale = layer.take(".weight_packed"), layer.take(".weight_scale")
    second = layer.may_take(".weight_global_scale")
    if second is not None:
        layer.may_take(".input_global_scale")
        return {".weight": from_nvfp4(data, scale, 1 / second.float(), dtype=layer.dtype)}
    shape, zero = layer.take(".weight_shape"), layer.may_take(".weight_zero_point")
    size = [int(n) for n in shape]
    return {".weight": from_compressed_tensors(data, scale, zero, shape=size, dtype=layer.dtype)}


def _scaled(layer: _Layer) -> dict[str, Tensor]:
    """A weight of 8 bits, or NVFP4, with a scale of its own name."""
    if f"{layer.name}.weight_packed" in layer.left:
        return _compressed(layer)
    weight, scale, second = layer.take(".weight"), layer.take(".weight_scale"), layer.may_take(".weight_scale_2")
    if second is not None:
        layer.may_take(".input_scale")
        return {".weight": from_nvfp4(weight, scale, second, dtype=layer.dtype)}
    return {".weight": _of_eight_bits(weight, scale, layer.dtype)}


def _mx(layer: _Layer) -> dict[str, Tensor]:
    return {"": from_mxfp4(layer.take("_blocks"), layer.take("_scales"), dtype=layer.dtype)}


_LAYERS = {".qweight": _packed_words, ".weight_packed": _compressed, ".weight_scale": _scaled, "_blocks": _mx}


# ---- layouts ---------------------------------------------------------------------------------------------------------


def from_gguf(data: Tensor, kind: str, dtype: torch.dtype = torch.float32) -> Packed:
    """u8 blocks [*rest, bytes] of a GGUF tensor of a type such as "Q4_1", as [*rest, K]. Scales of K-quants are f32:
    products of two numbers of a block."""
    if kind not in BLOCKS:
        raise bad_argument("from_gguf", "kind", f"one of {' '.join(BLOCKS)}", repr(kind), "")
    block = BLOCKS[kind]
    if data.dtype != torch.uint8 or not data.dim() or data.shape[-1] % block.bytes:
        got = f"{data.dtype} {list(data.shape)}"
        raise bad_argument("from_gguf", "data", f"u8 with a multiple of {block.bytes} bytes a row", got, "")
    codes, scale, minimum = block.parts(data)
    return pack_codes(codes, block.format, scale=scale, zero=minimum, dtype=dtype)


def from_gptq(
    qweight: Tensor, qzeros: Tensor, scales: Tensor, g_idx: Tensor | None = None, *, bits: int, v2: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[Packed, Tensor | None]:  # fmt: skip
    """The weight [N, K] of GPTQ's i32 [K * bits / 32, N], with zero points i32 [groups, N * bits / 32] and scales
    [groups, N]; and the order of its inputs, i64 [K], where the groups g_idx [K] do not follow each other (act-order).

    v2: zero points are what they say; else, as AutoGPTQ writes them, one less."""
    if bits not in (2, 3, 4, 8):
        raise bad_argument("from_gptq", "bits", "2, 3, 4 or 8", str(bits), "")
    groups, outputs = scales.shape
    size = qweight.shape[0] * 32 // bits
    codes = _stream(qweight.mT, bits, size)
    zero = _stream(qzeros, bits, outputs)
    zero = (zero if v2 else zero + 1) & ((1 << bits) - 1)
    group, order = -(-size // groups), None
    if g_idx is not None and not torch.equal(g_idx.long(), torch.arange(size, device=g_idx.device) // group):
        if not (g_idx.bincount(minlength=groups) == group).all():
            raise bad_argument("from_gptq", "g_idx", f"{groups} groups of {group}", "groups of other sizes", "")
        order = g_idx.long().argsort(stable=True)
        codes = codes[:, order]
    text = f"u{bits}:g{group}:{_scale_name(scales)}"
    weight = pack_codes(codes, text, scale=scales.mT, zero=zero.mT.contiguous(), dtype=dtype or scales.dtype)
    return weight, order


def from_awq(qweight: Tensor, qzeros: Tensor, scales: Tensor, *, dtype: torch.dtype | None = None) -> Packed:
    """The weight [N, K] of AWQ's i32 [K, N / 8], with zero points i32 [groups, N / 8] and scales [groups, N]."""
    group = qweight.shape[0] // max(scales.shape[0], 1)
    text = f"u4:g{group}:{_scale_name(scales)}"
    codes, zero = _awq(qweight).mT, _awq(qzeros).mT.contiguous()
    return pack_codes(codes, text, scale=scales.mT, zero=zero, dtype=dtype or scales.dtype)


def from_hqq(
    data: Tensor, scale: Tensor, zero: Tensor, *, shape: tuple[int, int], packing: str, group_size: int, axis: int = 1,
    dtype: torch.dtype | None = None,
) -> Packed:  # fmt: skip
    """The weight [N, K] of HQQ's W_q, with a fractional zero point a group. packing: as its meta data say, "4bit_u8".

    Raises BadArgument for axis=0, whose groups go across rows."""
    if packing not in HQQ_SLABS or axis != 1:
        rule = f"axis=1, and packing one of {' '.join(HQQ_SLABS)}"
        raise bad_argument("from_hqq", "the layout", rule, f"axis={axis}, {packing}", "Quantise with axis=1.")
    bits, slabs = HQQ_SLABS[packing]
    shifts = [bits * at for at in reversed(range(slabs))]
    parts = [(data.int() >> shift) & ((1 << bits) - 1) for shift in shifts]
    outputs, size = shape
    codes = torch.cat(parts)[: outputs * size // group_size].to(torch.uint8).reshape(outputs, size)
    text = f"u{bits}:g{group_size}:fzero:{_scale_name(scale)}"
    shared = [part.reshape(outputs, -1) for part in (scale, zero.to(scale.dtype))]
    return pack_codes(codes, text, scale=shared[0], zero=shared[1], dtype=dtype or scale.dtype)


def from_mxfp4(blocks: Tensor, scales: Tensor, *, dtype: torch.dtype | None = None) -> Packed:
    """OCP's MXFP4 as u8 blocks [*rest, groups, 16], two values a byte, the first in the low bits, and the codes of e8m0
    scales u8 [*rest, groups]: [*rest, 32 * groups]."""
    codes = _stream(blocks.flatten(-2), 4, 2 * blocks.shape[-1] * blocks.shape[-2])
    return pack_codes(codes, "mxfp4", scale=scales.view(torch.uint8), dtype=dtype or torch.bfloat16)


def from_nvfp4(data: Tensor, scale: Tensor, second: Tensor, *, dtype: torch.dtype | None = None) -> Packed:
    """NVFP4 as u8 [*rest, K / 2], two values a byte, scales e4m3 [*rest, K / 16], and the scale of these, f32."""
    codes = _stream(data, 4, 2 * data.shape[-1])
    scale = scale.view(torch.float8_e4m3fn)
    return pack_codes(codes, "nvfp4", scale=scale, second=second.reshape(()).float(), dtype=dtype or torch.bfloat16)


def from_compressed_tensors(
    data: Tensor, scale: Tensor, zero: Tensor | None = None, *, shape: list[int], dtype: torch.dtype | None = None
) -> Packed:
    """The weight [N, K] of compressed-tensors' "pack-quantized": i32 [N, words], least significant bits first, of
    values plus 2^(bits - 1); scales [N, groups]; zero points packed likewise along N, i32 [words, groups]."""
    outputs, size = shape
    bits = next((b for b in (4, 8) if data.shape[-1] == -(-size // (32 // b))), None)
    if bits is None:
        got = f"{list(data.shape)} for {shape}"
        raise bad_argument("from_compressed_tensors", "data", "words of 4 or 8 bits a value", got, "")
    codes = _stream(data, bits, size)
    points = None if zero is None else _stream(zero.mT, bits, outputs).mT.contiguous()
    group = "row" if scale.shape[-1] == 1 else f"g{-(-size // scale.shape[-1])}"
    text = f"i{bits}:{group}:{_scale_name(scale)}" + (":asym" if zero is not None else "")
    return pack_codes(codes, text, scale=scale, zero=points, dtype=dtype or scale.dtype)


def _of_eight_bits(weight: Tensor, scale: Tensor, dtype: torch.dtype | None) -> Packed:
    """A weight of int8 or e4m3 with a scale for the tensor, each row, or each group."""
    if weight.dtype not in (torch.int8, torch.float8_e4m3fn):
        rule, got = "a weight of int8 or float8_e4m3fn beside weight_scale", str(weight.dtype)
        raise bad_argument("load_checkpoint", "weight", rule, got, "")
    is_int = weight.dtype is torch.int8
    codes = weight.view(torch.uint8) ^ 128 if is_int else weight.view(torch.uint8)
    scale = scale.reshape(-1, 1) if scale.dim() < 2 else scale
    scale = scale.expand(weight.shape[0], -1).contiguous()
    group = "row" if scale.shape[-1] == 1 else f"g{-(-weight.shape[-1] // scale.shape[-1])}"
    text = f"{'i8' if is_int else 'e4m3fn'}:{group}:{_scale_name(scale)}"
    return pack_codes(codes, text, scale=scale, dtype=dtype or scale.dtype)


def _stream(words: Tensor, bits: int, size: int) -> Tensor:
    """The codes of rows that are streams of bits, least significant first."""
    return unpack_rows(words.contiguous().view(torch.uint8), bits, size)


def _awq(words: Tensor) -> Tensor:
    """The codes [rows, N] of words [rows, N / 8]."""
    nibbles = (words.unsqueeze(-1) >> torch.arange(0, 32, 4, device=words.device)) & 15
    place = torch.tensor(AWQ_ORDER, device=words.device).argsort()
    return nibbles[..., place].flatten(-2).to(torch.uint8)


def _scale_name(scale: Tensor) -> str:
    names = {torch.float16: "f16", torch.bfloat16: "bf16", torch.float32: "f32"}
    if scale.dtype not in names:
        raise bad_argument("load_checkpoint", "scales", "f16, bf16 or f32", str(scale.dtype), "")
    return names[scale.dtype]
