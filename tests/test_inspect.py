"""Kernels compiled for four GPUs without one: registers, spills, widths of accesses, instructions, failures."""

# What Triton's annotations say of arguments is not what its kernels take.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false

import dataclasses

import pytest
import triton
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st
from triton.language.extra import libdevice

from fusedsl.codegen import inspect
from fusedsl.codegen.inspect import TARGETS, CompileFailed, compile_kernel

NVIDIA = [target for target in TARGETS if target.startswith("sm")]
every_target = pytest.mark.parametrize("target", TARGETS)


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + i, mask=i < n)
    tl.store(out + i, a + tl.load(y + i, mask=i < n), mask=i < n)


def add(target, dtype="fp32", aligned=True, block=1024, **options):
    signature = {"x": f"*{dtype}", "y": f"*{dtype}", "out": f"*{dtype}", "n": "i32", "BLOCK": "constexpr"}
    divisible = frozenset(["x", "y", "out", "n"]) if aligned else frozenset()
    return compile_kernel(add_kernel, signature, {"BLOCK": block}, target, num_warps=4, num_stages=1,
                          divisible=divisible, options=options)


@every_target
def test_a_streaming_kernel(target):
    kernel = add(target)
    assert (kernel.name, kernel.target, kernel.spills, kernel.shared, kernel.stack) == ("add_kernel", target, 0, 0, 0)
    assert 8 <= kernel.registers <= 64
    forms = ["ttir", "ttgir", "llir", *(["ptx", "cubin"] if target in NVIDIA else ["amdgcn", "hsaco"])]
    assert list(kernel.asm) == forms
    assert [isinstance(kernel.asm[form], bytes) for form in forms] == [False] * 4 + [True]
    with pytest.raises(dataclasses.FrozenInstanceError):
        kernel.spills = 1  # pyright: ignore[reportAttributeAccessIssue]


@every_target
@pytest.mark.parametrize(("dtype", "size"), [("i8", 1), ("fp16", 2), ("fp32", 4)])
def test_aligned_accesses_are_wide(target, dtype, size):
    """Every byte is moved once, 16 bytes at a time if alignment is known and an element at a time if not."""
    threads = 4 * TARGETS[target].warp_size
    block = 16 * threads // size  # 16 bytes a thread
    wide, narrow = add(target, dtype, block=block), add(target, dtype, aligned=False, block=block)
    assert wide.access_widths("load") == {128: 2} and wide.access_widths("store") == {128: 1}
    assert narrow.access_widths("load") == {8 * size: 32 // size}
    assert narrow.access_widths() == {8 * size: 48 // size}


@triton.jit
def many_values_kernel(x, y, n, A: tl.constexpr, B: tl.constexpr):
    """Two tiles that live through a loop."""
    at = tl.arange(0, A)[:, None] * B + tl.arange(0, B)[None, :]
    v = tl.load(x + at)
    w = tl.load(y + at)
    for _ in range(n):
        v = v * tl.sum(v * w, 1)[:, None] + w
        w = w + v
    tl.store(x + at, v + w)


def many_values(target, **options):
    signature = {"x": "*fp32", "y": "*fp32", "n": "i32"}
    tile = {"A": 16, "B": 64 * TARGETS[target].warp_size // 32}
    return compile_kernel(many_values_kernel, signature, tile, target, num_warps=1, num_stages=1, options=options)


def count(kernel, *starts):
    """The instructions that start with one of these."""
    return sum(count for opcode, count in kernel.instructions().items() if opcode.startswith(starts))


@every_target
def test_spills(target):
    """The same kernel with enough registers and with a limit."""
    free = many_values(target)
    assert free.spills == free.stack == 0 and free.registers > 64
    limited = many_values(target, **({"maxnreg": 32} if target in NVIDIA else {"waves_per_eu": 8}))
    assert limited.registers <= 64
    assert limited.spills >= 4 * (free.registers - limited.registers) > 0
    assert limited.stack >= 128  # what is spilled has to lie somewhere
    assert count(limited, "STL", "scratch_store") > 0 == count(free, "STL", "scratch_store")


@triton.jit
def lgamma_kernel(x, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(x + i, libdevice.lgamma(tl.load(x + i)) + libdevice.sin(tl.load(x + i)))


@pytest.mark.parametrize("dtype", ["fp64", "fp32"])  # ptxas may remove that of fp32
@pytest.mark.parametrize("target", NVIDIA)
def test_an_array_in_local_memory_is_no_spill(target, dtype):
    kernel = compile_kernel(lgamma_kernel, {"x": f"*{dtype}"}, {"BLOCK": 128}, target, num_warps=4, num_stages=1)
    if ".local" not in kernel.asm["ptx"]:
        pytest.skip("this Triton's libdevice needs no array")
    assert kernel.spills == 0 and (kernel.stack > 0 or dtype == "fp32")


@triton.jit
def softmax_kernel(x, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n, other=float("-inf"))
    e = tl.exp(v - tl.max(v, 0))
    tl.store(x + i, e / tl.sum(e, 0), mask=i < n)


@every_target
@pytest.mark.parametrize("num_warps", [1, 4])
def test_instructions_and_shared_memory(target, num_warps):
    kernel = compile_kernel(softmax_kernel, {"x": "*fp32", "n": "i32"}, {"BLOCK": 1024}, target,
                            num_warps=num_warps, num_stages=1)
    each = 1024 // (num_warps * TARGETS[target].warp_size)
    assert count(kernel, "MUFU.EX2", "v_exp_f32") == each
    if target in NVIDIA:
        assert kernel.instructions(modifiers=False)["MUFU"] == count(kernel, "MUFU")
    assert (kernel.shared > 0) == (num_warps > 1)  # one warp reduces by shuffles alone
    assert ("EXIT" if target in NVIDIA else "s_endpgm") in kernel.sass


@triton.jit
def multiply_add_kernel(x, y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(x + i)
    tl.store(y + i, a * a + a)


@every_target
def test_fusion_of_multiply_and_add_is_explicit(target):
    def fused(**options):
        kernel = compile_kernel(multiply_add_kernel, {"x": "*fp32", "y": "*fp32"}, {"BLOCK": 512}, target, num_warps=4,
                                num_stages=1, options=options)
        return count(kernel, "FFMA", "v_fma", "v_fmac", "v_pk_fma")

    assert fused() > 0 == fused(enable_fp_fusion=False)


@triton.jit
def wrong_kernel(x, y, BLOCK: tl.constexpr):
    tl.store(x + tl.arange(0, BLOCK), tl.load(y + tl.arange(0, 2 * BLOCK)))


def test_failures_say_what_and_where():
    signature, tile = {"x": "*fp32", "y": "*fp32"}, {"BLOCK": 64}

    def fails(match, kernel=wrong_kernel, signature=signature, constexprs=tile, target="sm_90", **more):
        with pytest.raises(CompileFailed, match=match) as error:
            compile_kernel(kernel, signature, constexprs, target, num_warps=4, num_stages=1, **more)
        assert (error.value.kernel, error.value.target) == (kernel.__name__, target)
        return error.value

    cause = fails(r"wrong_kernel does not compile for sm_90: [\s\S]*tl\.store").__cause__
    assert isinstance(cause, triton.compiler.errors.CompilationError)
    fails("wrong_kernel does not compile for gfx90a: the targets are sm_80, sm_90, sm_100, gfx942", target="gfx90a")
    fails("no type or value is given for y", signature={"x": "*fp32"})
    fails("it has no parameter z", divisible=frozenset(["z"]))
    fails("it has no parameter B", constexprs={"B": 64})


@given(
    opcode=st.sampled_from(["LDG", "STG", "LDGSTS", "LD", "ST"]),
    width=st.sampled_from([("256", 256), ("128", 128), ("64", 64), ("U16", 16), ("S16", 16), ("S8", 8), (None, 32)]),
    noise=st.lists(st.sampled_from(["E", "EF", "LTC128B", "L2", "CONSTANT", "STRONG", "BYPASS", "ENL2"]), unique=True),
    place=st.integers(0, 4),
)
def test_width_of_an_nvidia_opcode(opcode, width, noise, place):
    parts = [*noise[:place], *([width[0]] if width[0] else []), *noise[place:]]
    kind, found = inspect._nvidia_access(".".join([opcode, *parts]))
    assert found == width[1] and kind == ("load" if opcode.startswith("LD") else "store")


@given(st.text("LDSTGCUXRABMOFE.", min_size=3))
def test_other_opcodes_are_no_accesses(opcode):
    if opcode.partition(".")[0] not in ("LD", "ST", "LDG", "STG", "LDGSTS"):
        assert inspect._nvidia_access(opcode) is None


@pytest.mark.parametrize(("opcode", "access"), [
    ("global_load_dwordx4", ("load", 128)), ("buffer_load_dwordx3", ("load", 96)), ("flat_store_dword", ("store", 32)),
    ("global_load_ushort", ("load", 16)), ("global_load_short_d16_hi", ("load", 16)),
    ("buffer_store_byte", ("store", 8)), ("buffer_load_sbyte_d16", ("load", 8)),
    ("global_load_lds_dwordx4", ("load", 128)), ("scratch_load_dword", None), ("ds_read_b128", None),
    ("s_load_dwordx4", None), ("global_atomic_add_f32", None),
])
def test_width_of_an_amd_opcode(opcode, access):
    assert inspect._amd_access(opcode) == access
