"""Quantised checkpoints, against decoders that others wrote, or that are written here value by value."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from safetensors.torch import save_file as save_safetensors
from typer.testing import CliRunner

import fusedsl
from fusedsl import FuseError, Packed, fuse, load_checkpoint
from fusedsl.checkpoints import from_awq, from_gguf, from_gptq, from_hqq, from_mxfp4, from_nvfp4
from fusedsl.cli import app
from fusedsl.errors import BadArgument
from fusedsl.formats import ELEMENTS
from fusedsl.gguf_blocks import BLOCKS
from fusedsl.packfile import BadFile
from fusedsl.testing import assert_launches

RNG = np.random.default_rng(0)
LINEAR = fuse(lambda x, w: x @ w.mT)


def integers(most: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, most, shape)


def words(codes: np.ndarray, bits: int) -> torch.Tensor:
    """Columns [K, N] of codes as streams of 32-bit words [K * bits / 32, N], bit by bit."""
    flat = ((codes[:, None, :] >> np.arange(bits)[:, None]) & 1).reshape(-1, 32, codes.shape[1])
    found = (flat.astype(np.uint64) << np.arange(32, dtype=np.uint64)[:, None]).sum(1)
    return torch.from_numpy(found.astype(np.uint32).view(np.int32))


def values(tensor: torch.Tensor) -> torch.Tensor:
    assert isinstance(tensor, Packed)
    return tensor.unpack()


def halves(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.uniform(0.01, 1, shape).astype(np.float16))


# ---- GGUF ------------------------------------------------------------------------------------------------------------


def random_blocks(kind: str, rows: int, blocks: int) -> np.ndarray:
    """Any bytes, but for the halves among them, which are finite, positive or negative."""
    block = BLOCKS[kind]
    data = integers(256, rows, blocks, block.bytes).astype(np.uint8)
    at = 0
    for name, size in block.fields.items():
        if name in ("d", "dmin", "m"):
            number = RNG.normal(size=(rows, blocks, 1)).astype(np.float16)
            data[..., at : at + 2] = number.view(np.uint8)
        at += size
    return data.reshape(rows, -1)


@pytest.mark.parametrize("kind", BLOCKS)
def test_gguf_blocks_are_what_its_own_decoder_says(kind: str) -> None:
    data = random_blocks(kind, 5, 3)
    exact = torch.from_numpy(quants.dequantize(data, GGMLQuantizationType[kind]))
    packed = from_gguf(torch.from_numpy(data), kind)
    assert packed.shape == exact.shape == (5, 3 * BLOCKS[kind].values)
    assert torch.equal(packed.unpack(), exact)
    x = torch.randn(4, exact.shape[1])
    torch.testing.assert_close(LINEAR(x, packed), x @ exact.mT, rtol=1e-4, atol=1e-2)
    assert_launches(LINEAR, (x, packed), 1)


@pytest.fixture
def gguf_file(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    tensors = {f"blk.{kind}.weight": random_blocks(kind, 6, 2) for kind in ("Q4_1", "Q6_K", "Q8_0")}
    for name, data in tensors.items():
        writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType[name.split(".")[1]])
    tensors["norm"] = RNG.normal(size=7).astype(np.float32)
    writer.add_tensor("norm", tensors["norm"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "model.gguf", tensors


def test_a_gguf_file(gguf_file: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, tensors = gguf_file
    found = load_checkpoint(path)
    assert found.keys() == tensors.keys() and torch.equal(found["norm"], torch.from_numpy(tensors["norm"]))
    for name, data in tensors.items():
        if name != "norm":
            exact = quants.dequantize(data, GGMLQuantizationType[name.split(".")[1]])
            assert isinstance(found[name], Packed) and np.array_equal(found[name].numpy(), exact)
    weight = found["blk.Q4_1.weight"]
    assert isinstance(weight, Packed) and weight.bits_per_weight == 5.0


def test_packing_a_gguf_file(gguf_file: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    done = CliRunner().invoke(app, ["pack", str(gguf_file[0]), str(out)])
    assert done.exit_code == 0 and "packed  3" in done.output, done.output
    again, known = fusedsl.load_file(out), load_checkpoint(gguf_file[0])
    assert all(torch.equal(again[name] + 0, known[name] + 0) for name in known)


def test_options_of_a_format_need_one(gguf_file: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    for option in (["--only", "x"], ["--skip", "x"], ["--axis", "0"], ["--method", "mse"]):
        done = CliRunner().invoke(app, ["pack", str(gguf_file[0]), str(out), *option])
        assert done.exit_code and "--format" in done.output and not out.exists()


@pytest.mark.parametrize("damage", [lambda b: b[:40], lambda b: b[: len(b) // 2], lambda b: b"GGML" + b[4:],
                                    lambda b: b[:8] + b"\xff" * 8 + b[16:], lambda b: b""])  # fmt: skip
def test_a_broken_gguf_file(gguf_file, tmp_path: Path, damage) -> None:
    path, out = gguf_file[0], tmp_path / "out.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadFile, match=r"model\.gguf"):
        load_checkpoint(path)
    assert CliRunner().invoke(app, ["pack", str(path), str(out)]).exit_code and not out.exists()


# ---- words of 32 bits ------------------------------------------------------------------------------------------------


def gptq(bits: int, act_order: bool = False, size: int = 128, outputs: int = 64, group: int = 32):
    """The parts of a layer as GPTQ has them, and the weight [N, K]."""
    codes, zeros = integers(1 << bits, size, outputs), integers(1 << bits, size // group, outputs)
    scales = halves(size // group, outputs)
    order = RNG.permutation(size) // group if act_order else np.arange(size) // group
    exact = (codes - zeros[order]) * scales.double().numpy()[order]
    parts = {"qweight": words(codes, bits), "scales": scales, "g_idx": torch.from_numpy(order.astype(np.int32))}
    stored = {v2: words((zeros if v2 else (zeros - 1) & ((1 << bits) - 1)).T, bits).mT for v2 in (False, True)}
    return parts, stored, torch.from_numpy(exact.T)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq(bits: int, v2: bool, act_order: bool) -> None:
    parts, zeros, exact = gptq(bits, act_order)
    weight, order = from_gptq(parts["qweight"], zeros[v2], parts["scales"], parts["g_idx"], bits=bits, v2=v2)
    assert (order is not None) == act_order and weight.format.element.bits == bits
    order = torch.arange(128) if order is None else order
    torch.testing.assert_close(weight.unpack(torch.float64), exact[:, order], rtol=1e-6, atol=0)
    x = torch.randn(3, 128)
    product = fuse(lambda x, w, order: x[..., order] @ w.float().mT)
    torch.testing.assert_close(product(x, weight, order), x @ exact.float().mT, rtol=1e-2, atol=0.1)
    assert_launches(product, (x, weight, order), 1)


def test_gptq_files(tmp_path: Path) -> None:
    for v2, act_order, bits in [(False, False, 4), (True, True, 3)]:
        parts, zeros, exact = gptq(bits, act_order)
        named = {f"l.{name}": part.contiguous() for name, part in {**parts, "qzeros": zeros[v2]}.items()}
        save_safetensors({**named, "norm.weight": torch.ones(3)}, tmp_path / "model.safetensors")
        config = {"quant_method": "gptq", "bits": bits, "checkpoint_format": "gptq_v2" if v2 else "gptq"}
        (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
        found = load_checkpoint(tmp_path)
        assert found.keys() == {"l.weight", "norm.weight"} | ({"l.permutation"} if act_order else set())
        order = found.get("l.permutation", torch.arange(128))
        torch.testing.assert_close(values(found["l.weight"]).double(), exact[:, order].half().double(), rtol=0, atol=0)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadFile, match="JSON"):
        load_checkpoint(tmp_path)


def test_awq(tmp_path: Path) -> None:
    codes, zeros, scales = integers(16, 64, 40), integers(16, 2, 40), halves(2, 40)

    def packed(values: np.ndarray) -> torch.Tensor:
        found = np.zeros((len(values), values.shape[1] // 8), np.uint32)
        for place, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            found |= values[:, column::8].astype(np.uint32) << np.uint32(4 * place)
        return torch.from_numpy(found.view(np.int32))

    group = np.arange(64) // 32
    exact = torch.from_numpy(((codes - zeros[group]) * scales.double().numpy()[group]).T)
    weight = from_awq(packed(codes), packed(zeros), scales)
    torch.testing.assert_close(weight.unpack(torch.float64), exact, rtol=1e-6, atol=0)
    file = {"l.qweight": packed(codes), "l.qzeros": packed(zeros), "l.scales": scales}
    save_safetensors(file, tmp_path / "model.safetensors")
    assert torch.equal(load_checkpoint(tmp_path / "model.safetensors")["l.weight"] + 0, weight + 0)


@pytest.mark.parametrize("packing, bits, slabs", [("8bit_u8", 8, 1), ("4bit_u8", 4, 2), ("2bit_u8", 2, 4),
                                                  ("1bit_u8", 1, 8), ("3bit_32", 3, 10)])  # fmt: skip
def test_hqq(packing: str, bits: int, slabs: int) -> None:
    rows, group = 12, 16  # of groups: 12 is no multiple of 8 and of 10
    codes, zero, scale = integers(1 << bits, rows, group), torch.rand(rows, 1).half() * 3, halves(rows, 1)
    step = -(-rows // slabs)
    padded = np.zeros((slabs * step, group), np.int64)
    padded[:rows] = codes
    data = sum(padded[at * step : (at + 1) * step] << (bits * (slabs - 1 - at)) for at in range(slabs))
    data = torch.from_numpy(np.asarray(data)).to(torch.int32 if packing == "3bit_32" else torch.uint8)
    exact = ((torch.from_numpy(codes) - zero.double()) * scale.double()).reshape(6, 32)
    weight = from_hqq(data, scale, zero, shape=(6, 32), packing=packing, group_size=group)
    torch.testing.assert_close(weight.unpack(torch.float64), exact, rtol=1e-4, atol=1e-6)
    with pytest.raises(BadArgument, match="axis=1"):
        from_hqq(data, scale, zero, shape=(6, 32), packing=packing, group_size=group, axis=0)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("has_zero", [False, True])
def test_compressed_tensors(tmp_path: Path, bits: int, has_zero: bool) -> None:
    half = 1 << (bits - 1)
    values, points = integers(1 << bits, 32, 64) - half, (integers(1 << bits, 32, 2) - half) * has_zero
    scale = halves(32, 2)
    file = {"l.weight_packed": words(values.T + half, bits).mT.contiguous(), "l.weight_scale": scale,
            "l.weight_shape": torch.tensor([32, 64])}  # fmt: skip
    if has_zero:
        file["l.weight_zero_point"] = words(points + half, bits)
    save_safetensors(file, tmp_path / "model.safetensors")
    group = np.arange(64) // 32
    exact = (values - points[:, group]) * scale.double().numpy()[:, group]
    (weight,) = load_checkpoint(tmp_path / "model.safetensors").values()
    assert isinstance(weight, Packed)
    torch.testing.assert_close(weight.unpack(torch.float64), torch.from_numpy(exact), rtol=1e-6, atol=0)


# ---- bytes -----------------------------------------------------------------------------------------------------------

E2M1 = ELEMENTS["e2m1"].decode(torch.arange(16), torch.float64)


def pairs(codes: torch.Tensor) -> torch.Tensor:
    """Two codes a byte, the first in the low bits."""
    return (codes[..., ::2] | codes[..., 1::2] << 4).to(torch.uint8)


def test_mxfp4_and_nvfp4(tmp_path: Path) -> None:
    codes = torch.from_numpy(integers(16, 3, 5, 64))
    exponents = torch.from_numpy(integers(20, 3, 5, 2)).to(torch.uint8) + 117
    exact = E2M1[codes] * (2.0 ** (exponents.double() - 127)).repeat_interleave(32, -1)
    blocks = pairs(codes).unflatten(-1, (2, 16))
    assert torch.equal(from_mxfp4(blocks, exponents).unpack(torch.float64), exact)
    codes = codes[0]
    scale, second = torch.rand(5, 4).to(torch.float8_e4m3fn), torch.tensor(0.25)
    known = E2M1[codes] * (scale.double() * 0.25).repeat_interleave(16, -1)
    assert torch.equal(from_nvfp4(pairs(codes), scale, second).unpack(torch.float64), known)
    file = {"mlp.up_blocks": blocks, "mlp.up_scales": exponents, "a.weight": pairs(codes), "a.weight_scale": scale,
            "a.weight_scale_2": second, "b.weight_packed": pairs(codes).clone(), "b.weight_scale": scale.clone(),
            "b.weight_global_scale": torch.tensor([4.0])}  # fmt: skip
    save_safetensors(file, tmp_path / "model.safetensors")
    found = load_checkpoint(tmp_path / "model.safetensors", dtype=torch.float64)
    assert found.keys() == {"mlp.up", "a.weight", "b.weight"}
    assert torch.equal(values(found["mlp.up"]), exact)
    assert torch.equal(values(found["a.weight"]), known) and torch.equal(values(found["b.weight"]), known)


def test_weights_of_8_bits(tmp_path: Path) -> None:
    whole, scale = torch.randint(-128, 128, (6, 40), dtype=torch.int8), torch.rand(6, 1)
    small = torch.randn(6, 40).to(torch.float8_e4m3fn)
    file = {"a.weight": whole, "a.weight_scale": scale, "b.weight": small, "b.weight_scale": torch.tensor(0.5)}
    save_safetensors(file, tmp_path / "model.safetensors")
    found = load_checkpoint(tmp_path / "model.safetensors")
    assert torch.equal(values(found["a.weight"]), whole.float() * scale)
    assert torch.equal(values(found["b.weight"]), small.float() * 0.5)


@pytest.mark.parametrize("spoil", [
    lambda t: t.pop("l.scales"), lambda t: t.update({"l.qzeros": t["l.qzeros"][:1]}),
    lambda t: t.update({"l.qweight": t["l.qweight"][:-3]}), lambda t: t.update({"l.scales": t["l.scales"].int()}),
    lambda t: t.update({"l.g_idx": torch.zeros(128, dtype=torch.int32)}),
])  # fmt: skip
def test_parts_that_do_not_fit(tmp_path: Path, spoil) -> None:
    parts, zeros, _ = gptq(4, act_order=True)
    tensors = {f"l.{name}": part.contiguous() for name, part in {**parts, "qzeros": zeros[False]}.items()}
    spoil(tensors)
    save_safetensors({name: part.contiguous() for name, part in tensors.items()}, tmp_path / "model.safetensors")
    with pytest.raises(BadFile, match=r"model\.safetensors"):
        load_checkpoint(tmp_path / "model.safetensors")


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="none"):
        load_checkpoint(tmp_path)
    save_safetensors({"w": torch.zeros(4, 4)}, tmp_path / "plain.safetensors")
    done = CliRunner().invoke(app, ["pack", str(tmp_path / "plain.safetensors"), str(tmp_path / "out.safetensors")])
    assert done.exit_code and isinstance(done.exception, (FuseError, SystemExit)) and len(list(tmp_path.iterdir())) == 1
