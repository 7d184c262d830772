"""Fused functions as users call them: what is compiled when, what is shared, and what eager would have done."""

from __future__ import annotations

import inspect
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fusedsl import fuse
from fusedsl.errors import InPlaceInput
from fusedsl.options import Options
from fusedsl.runtime import counters, load, write_atomically
from fusedsl.testing import assert_launches, assert_matches


@pytest.fixture(autouse=True)
def _without_grad():
    with torch.no_grad():
        yield


def rms_norm(x, weight):
    return F.rms_norm(x, (x.shape[-1],), weight, 1e-6)


def test_a_new_batch_size_neither_retraces_nor_recompiles():
    f, weight = fuse(rms_norm), torch.randn(96)
    assert_matches(f, (torch.randn(8, 96), weight))
    traces, kernels = counters.traces, counters.kernels
    for batch in (2, 3, 7, 50, 301):
        assert_matches(f, (torch.randn(batch, 96), weight))
    assert (counters.traces, counters.kernels) == (traces, kernels)


def test_another_row_is_another_kernel_of_the_same_trace():
    f = fuse(rms_norm)
    f(torch.randn(8, 96), torch.randn(96))
    traces = counters.traces
    assert_matches(f, (torch.randn(8, 200), torch.randn(200)))
    assert counters.traces == traces


@pytest.mark.parametrize("n", [3, 4, 5, 6, 9])
def test_a_size_made_of_others_may_be_1_or_0(n):
    x = torch.randn(2, 4, n)
    assert_matches(lambda x: x[..., 3:] * 2, (x,))
    assert_matches(lambda x: (x[..., 2:] + 1, x[..., ::4]), (x,))
    assert_matches(lambda x: x.unfold(-1, 3, 3).amax(-1), (x,))
    assert_matches(lambda x: F.avg_pool1d(x, 3), (x,))
    f = fuse(lambda x: x[..., 2:] * 2)
    for size in (n, 3, 2, 4):
        assert_matches(f, (torch.randn(2, 4, size),))


def test_a_computed_index_may_lie_outside_where_nothing_is_read():
    x, i = torch.randn(5, 3), torch.arange(4)
    assert_matches(lambda x: x[torch.arange(3) * 2], (x,))
    assert_matches(lambda x, i: x[i + 1], (x, i))
    assert_matches(lambda x, i: x[4 - i].sum(0), (x, i))


def test_sizes_0_and_1():
    f = fuse(lambda x: torch.softmax(x, -1) + x.sum(0))
    for shape in ((0, 5), (1, 5), (5, 1), (1, 1), (3, 4)):
        assert_matches(f, (torch.randn(shape),))


@pytest.mark.parametrize(
    "view", [lambda x: x, lambda x: x.t().contiguous().t(), lambda x: x[::2, 1::3], lambda x: x[:1].expand(9, -1)]
)
def test_strides_are_read_as_they_are_and_written_as_eager_writes_them(view):
    x = view(torch.randn(12, 21))
    assert_matches(fuse(lambda x: torch.exp(x) * 2), (x,))
    assert_matches(fuse(lambda x: torch.softmax(x, 1).t()), (x,))
    assert_matches(fuse(lambda x: x.amax(0, keepdim=True).expand(4, -1)), (x,))


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last, torch.preserve_format])
def test_a_memory_format_is_followed(form):
    for x in (torch.randn(2, 3, 4, 5), torch.randn(2, 4, 5, 3).permute(0, 3, 1, 2), torch.randn(5, 3, 4, 2).mT):
        assert_matches(fuse(lambda x: x.to(torch.float64, memory_format=form)), (x,))
        assert_matches(fuse(lambda x: (x * 2).clone(memory_format=form)), (x,))
        assert_matches(fuse(lambda x: torch.zeros_like(x, memory_format=form)), (x,))


def test_inputs_may_overlap():
    x = torch.randn(100)
    assert_matches(fuse(lambda a, b: a * b + a), (x[:-1], x[1:]))


def test_a_returned_view_of_an_input_aliases_it():
    x = torch.randn(4, 6)
    y, z = fuse(lambda x: (x.t(), x + 1))(x)
    y[0, 0] = 42.0
    assert x[0, 0] == 42.0 and z.shape == (4, 6)


def test_offsets_of_64_bits_of_a_stride_0_tensor():
    """2^32 elements without their memory: the index passes 2^31, and only the last rows are looked at."""
    wide = torch.ones(1, 1).expand(2**17, 2**15)
    f = fuse(lambda x: x[-3:, -5:] * 2)
    assert torch.equal(f(wide), torch.full((3, 5), 2.0))
    total = fuse(lambda x: x[:, :4].sum(0))
    assert torch.equal(total(wide), torch.full((4,), 2.0**17))
    assert "int64" in f.plan(wide).kernels[0].source


def test_offsets_of_64_bits_of_a_strided_tensor():
    store = torch.empty(2**31 + 64, dtype=torch.int8)  # pages that are never touched take no memory
    x = store.as_strided((3, 16), (2**30, 1))
    x.copy_(torch.arange(48, dtype=torch.int8).reshape(3, 16))
    assert_matches(fuse(lambda x: x + 1), (x,))


def test_a_long_column_of_64_bit_indices_is_planned():
    x = torch.empty(2**33, dtype=torch.float16, device="meta")
    (kernel,) = fuse(lambda x: torch.exp(x)).plan(x).kernels
    assert ".to(tl.int64)" in kernel.source and kernel.grid[0] == 2**23


def test_a_scalar_loss_is_one_launch_and_reproducible():
    f, x = fuse(lambda x: (x * x).mean()), torch.randn(300, 1000)
    assert_launches(f, (x,), 1)
    assert_matches(f, (x,))
    assert f(x).item() == f(x).item()


def test_chained_reductions_share_a_kernel():
    def two_norms(x, w):
        return torch.softmax(F.layer_norm(x, (x.shape[-1],), w), -1)

    assert_launches(fuse(two_norms), (torch.randn(7, 100), torch.randn(100)), 1)
    assert_matches(fuse(two_norms), (torch.randn(7, 100), torch.randn(100)))


def test_outer_inner_and_multi_axis_reductions():
    x = torch.randn(6, 5, 7, 9)
    for dim in (0, 1, -1, (0, 2), (1, 3), (0, 1, 2, 3), (2, 3)):
        assert_matches(fuse(lambda x, dim=dim: x - x.mean(dim, keepdim=True)), (x,))
        assert_matches(fuse(lambda x, dim=dim: (x.amax(dim), x.var(dim))), (x,))


def test_eval_changed_weights_and_changed_globals_are_seen():
    layer = torch.nn.Sequential(torch.nn.LayerNorm(16), torch.nn.GELU(), torch.nn.Dropout(0.5)).eval()
    f, x = fuse(layer), torch.randn(4, 16)
    assert_matches(f, (x,))
    layer[0].load_state_dict({"weight": torch.randn(16), "bias": torch.randn(16)})
    assert torch.allclose(f(x), layer(x), atol=1e-6)
    layer[0].weight = torch.nn.Parameter(torch.ones(16) * 3)
    assert torch.allclose(f(x), layer(x), atol=1e-6)


def test_threads_share_a_function():
    f, x = fuse(rms_norm), torch.randn(6, 64)
    weight = torch.randn(64)
    expected = rms_norm(x, weight)
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(lambda _: _in_thread(f, x, weight), range(16)):
            assert torch.allclose(result, expected, atol=1e-5)


def _in_thread(f, x, weight):
    with torch.no_grad():
        return f(x, weight)


def test_a_second_process_finds_the_kernel_in_the_cache(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import torch\nfrom fusedsl import fuse\nfrom fusedsl.runtime import counters\n\n\n"
        "@fuse\ndef f(x):\n    return torch.softmax(x * 2, -1)\n\n\n"
        "f(torch.randn(4, 32))\nprint(counters.kernels, counters.written)\n"
        "import sys\nassert 'torch._dynamo' not in sys.modules, 'which takes seconds to import'\n"
    )
    env = {**os.environ, "FUSEDSL_CACHE_DIR": str(tmp_path / "cache")}
    runs = [
        subprocess.run([sys.executable, program], env=env, capture_output=True, text=True, check=True) for _ in range(2)
    ]
    assert [r.stdout.split() for r in runs] == [["1", "1"], ["0", "0"]]  # not even the kernel's source is read again


def test_the_cache_is_private_and_survives_a_corrupt_file():
    source = "import triton\n\n\n@triton.jit\ndef kept_kernel():\n    pass\n"
    load(source, "kept_kernel")
    (path,) = (Options.from_env().cache_dir / "kernels").glob("kept_kernel_*.py")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"\xff garbage")
    from fusedsl import runtime

    runtime._functions.clear()
    assert load(source, "kept_kernel").__name__ == "kept_kernel"
    assert path.read_text() == source


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "kernel.py", "\ud800")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):  # by then the text is in a file beside the place
        write_atomically(tmp_path / "folder", "text")
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


def test_the_same_kernel_has_the_same_bytes():
    args = (torch.randn(5, 70), torch.randn(70))
    sources = {fuse(rms_norm).plan(*args).kernels[0].source for _ in range(3)}
    assert len(sources) == 1


def test_two_launches_where_one_would_starve_the_machine():
    """Normalising by columns and by rows: one kernel would be one program."""
    f = fuse(lambda x: x / x.sum(0) / x.sum(1, keepdim=True))
    x = torch.rand(300, 200) + 1
    assert_matches(f, (x,))
    assert "too few programs" in f.explain(x) or "some and over all" in f.explain(x) or f.plan(x).launches > 1


def test_independent_work_is_not_forced_into_one_kernel():
    f = fuse(lambda x, y: (x + 1, y * 2))
    assert f.plan(torch.randn(3, 4), torch.randn(50)).launches == 2


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_f8_by_integer_arithmetic_is_f8_by_instruction(dtype):
    """What sm_80 runs, on every value of the type, on values half-way between two, and on what lies beyond."""
    values = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    finite = values[values.isfinite()].sort().values
    x = torch.cat([values, (finite[1:] + finite[:-1]) / 2, torch.randn(5000) * 300, torch.tensor([1e30, -1e30, 1e-30])])
    f = fuse(lambda x: x.to(dtype))
    _, planner, bound = f._entry((x,), {})
    plan = planner.plan(bound.values, bound.sizes, torch.device("cpu"), target="sm_80")
    (out,) = plan.run(bound.values, torch.device("cpu"))
    assert torch.equal(out.view(torch.uint8), x.to(dtype).view(torch.uint8))
    back = fuse(lambda y: y.float() * 2)
    _, planner, bound = back._entry((x.to(dtype),), {})
    (out,) = planner.plan(bound.values, bound.sizes, torch.device("cpu"), target="sm_80").run(
        bound.values, torch.device("cpu")
    )
    assert torch.equal(out.nan_to_num(7), (x.to(dtype).float() * 2).nan_to_num(7))


def test_a_reduction_over_everything_is_not_computed_again_by_every_program():
    x = torch.empty(4096, 4096, device="meta")
    for f in (lambda x: x - x.mean(), lambda x: x / x.norm()):
        plan = fuse(f).plan(x)
        assert plan.load_bytes <= 1.01 * plan.compulsory_bytes and plan.bytes <= 1.51 * plan.compulsory_bytes
    assert_matches(fuse(lambda x: x - x.mean()), (torch.randn(300, 400),))


def test_a_plan_does_not_depend_on_the_calls_before_it():
    small, large = torch.empty(64, 1000, device="meta"), torch.empty(4, 131072, device="meta")
    launches = []
    for order in ((small, large), (large, small)):
        f = fuse(lambda x: torch.softmax(x, -1))
        launches.append({x.shape: f.plan(x).launches for x in order})
    assert launches[0] == launches[1] == {small.shape: 1, large.shape: 2}


def test_the_users_lines_are_not_part_of_a_kernels_identity(tmp_path):
    """The same function a line further down is the same kernel."""
    for blank in ("", "\n\n"):
        text = f"{blank}import torch\n\n\ndef f(x):\n    return torch.exp(x) * 3\n"
        (tmp_path / f"m{len(blank)}.py").write_text(text)
    sys.path.insert(0, str(tmp_path))
    try:
        import m0  # type: ignore[import-not-found]
        import m2  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(tmp_path))
    fuse(m0.f)(torch.randn(5))
    kernels = counters.kernels
    fuse(m2.f)(torch.randn(5))
    assert counters.kernels == kernels


def test_an_index_out_of_range_raises_with_the_users_line():
    with pytest.raises(IndexError, match=r"F\.embedding"):
        fuse(lambda ids, table: F.embedding(ids, table) * 2)(torch.tensor([0, 7]), torch.randn(4, 8))


def test_strides_of_what_is_picked_and_copied_are_eagers():
    x, i = torch.randn(3, 4, 5), torch.tensor([0, 2])
    for text in (
        "x[:, i]", "x[:, [0, 2], :]", "x[..., i]", "x[i, :, i]", "x[:, i, i]", "x.permute(2, 0, 1)[:, i]",
        "x.mT.index_select(1, i)", "torch.permute_copy(x, (2, 0, 1))", "torch.transpose_copy(x, 0, 2)",
        "torch.unfold_copy(x, 1, 2, 1)", "torch.empty_permuted((2, 3, 4), (2, 0, 1))",
    ):  # fmt: skip
        f = eval(f"lambda x, i: {text}", {"torch": torch})
        assert fuse(f)(x, i).stride() == f(x, i).stride(), text


def test_halves_are_rounded_before_they_become_whole_numbers():
    x = torch.arange(1, 2000).half() / 7
    for text in ("(x / 3).floor()", "(x * 1.1).round()", "(x * 3).frac()", "x.div(x - 1, rounding_mode='trunc')",
                 "(x * 1.7).ceil()", "(x * 1e-5 * 1e-4).sign()", "x > 0.7", "x.mul(0.3) == 0.3"):  # fmt: skip
        f = eval(f"lambda x: {text}")
        assert torch.equal(fuse(f)(x), f(x)), text


def test_a_norm_with_a_scale_for_each_group_loads_its_row_once():
    """The norm's axis is split as the groups are; a row too long for registers is read again, by programs of groups."""

    def f(x, w):
        groups = torch.nn.functional.rms_norm(x, (x.shape[-1],), w).unflatten(-1, (-1, 16))
        scale = groups.abs().amax(-1, keepdim=True)
        return (groups / scale).flatten(-2), scale.squeeze(-1)

    for rows, width in ((5, 64), (1, 16), (3, 4096)):
        args = torch.randn(rows, width), torch.randn(width)
        fused = fuse(f)
        plan = fused.plan(*args)
        assert plan.launches == 1
        assert plan.load_bytes <= 4 * (args[0].numel() + rows * width)
        assert_matches(fused, args)
    long = torch.randn(2, 40960), torch.randn(40960)
    assert_matches(f, long)


def test_results_are_tensors_of_their_own():
    """What turns out to be an input, or another result, is copied as eager does."""
    x = torch.randn(4, 9)[:, :4]
    for text in ("x * 1", "torch.maximum(x, x)", "torch.where(x > 0, x, x)", "x * torch.ones_like(x)", "x.T * 1",
                 "x + 1, (x + 1) * 1, 1 * (x + 1)", "x * 1, x, x / 1"):  # fmt: skip
        f = eval(f"lambda x: ({text})", {"torch": torch})
        found, wanted = fuse(f)(x), f(x)
        found, wanted = (each if isinstance(each, tuple) else (each,) for each in (found, wanted))
        assert [each.stride() for each in found] == [each.stride() for each in wanted]
        assert len({each.data_ptr() for each in found}) == len(found)
        assert [each is x for each in found] == [each is x for each in wanted]


def test_an_index_is_checked_where_it_is_used():
    """In what is padded the nearest pixel, counted backwards, would have a place below 0."""
    x = torch.randn(2, 3, 4)

    def f(x):
        return F.pad(F.interpolate(x, size=7).flip(-1), (0, 3))

    assert torch.equal(fuse(f)(x), f(x))


def test_an_index_of_what_is_no_load_is_checked_where_it_is_used():
    """Of running indices and of what is padded before, an index has to be right where the result is not padding."""
    x, i = torch.randn(2, 7), torch.arange(2)

    def pools(x):
        return F.pad(F.adaptive_max_pool1d(x, 5, return_indices=True)[1], (2, 1))

    def pads(x):
        return F.pad(F.interpolate(F.pad(x[None], (1, 1)), size=5).flip(-1), (0, 3))

    def counts(x, i):
        return F.pad(torch.arange(2, device=x.device)[i] + x[:, 0], (1, 2))

    for f, args in ((pools, (x,)), (pads, (x,)), (counts, (x, i))):
        assert torch.equal(fuse(f)(*args), f(*args))
    with pytest.raises(IndexError, match=r"arange\(2"):
        fuse(counts)(x, i + 1)


def test_blocks_of_several_dtypes_are_joined_as_where_torch_computes():
    """Of tensors without memory torch makes f64 of these, where it computes f32."""
    blocks = torch.tensor(3, dtype=torch.int16), torch.tensor(0.5, dtype=torch.float64), torch.randn(3)
    assert_matches(lambda *blocks: torch.block_diag(*blocks), blocks)


def test_operands_are_brought_to_their_common_dtype_first():
    """A tensor of no dims beside bytes becomes one: -13 is 243, 258 is 2."""
    x = torch.arange(6, dtype=torch.uint8)
    assert_matches(lambda x: torch.lcm(torch.tensor(-13), x), (x,))
    assert_matches(lambda x: torch.lcm(x, torch.tensor(300)), (x,))
    assert_matches(lambda x: torch.pow(x, torch.tensor(258)), (x,))
    assert_matches(lambda x: torch.pow(x, torch.tensor(-254)), (x,))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_powers_of_two_stay_in_range_where_the_result_does(kind):
    x = torch.tensor([0, 1, -1, 1e-30, 3e38, 1e-45, torch.inf, torch.nan])
    info = torch.iinfo(kind)
    for n in (-400, -270, -149, -1, 0, 128, 255, 277, 400):
        if info.min <= n <= info.max:
            assert_matches(lambda x, n: torch.ldexp(x, n), (x, torch.tensor(n, dtype=kind)))


def test_a_distance_has_the_dtype_of_its_own_two():
    """Between bytes they wrap, and are f32; the loss is what those and a half's promote to."""
    a, b = torch.tensor([[[1, 250]], [[7, 3]]], dtype=torch.uint8)
    h = torch.tensor([[1.0, 2.0]], dtype=torch.float16)
    for args in [(a, b, h), (a, h, b), (h, a, b), (a, b, b), (h, h, a)]:
        for swap in (False, True):
            assert_matches(lambda x, y, z, swap=swap: F.triplet_margin_loss(x, y, z, swap=swap), args)


def test_what_pads_truths_is_a_truth():
    """Triton's choice between a bool and a number would be a number."""
    m = torch.tensor([True, False, True])
    for value in (0, 1, 2, 0.5):
        assert_matches(lambda m, value=value: F.pad(m, (1, 1), value=value).sum(), (m,))
        assert_matches(lambda m, value=value: ~F.pad(m, (1, 1), value=value) & m[0], (m,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_incomplete_gamma_functions(dtype):
    """Where torch has them, and by the equations that hold between them, which see more digits than torch's have."""
    known = torch.tensor([0, -0.0, 1, 0.5, 1.1, 20, 1e-30, 1e300, -1, torch.inf, -torch.inf, torch.nan])
    spread = (torch.arange(-40, 30, dtype=torch.float64) / 4).exp()
    near = 21 + torch.arange(0, 3000, 107, dtype=torch.float64)
    near = near[:, None], near[:, None] + near.sqrt() * 0.3
    for a, x in ((known[:, None], known), (spread[:, None], spread), near):
        a, x = a.to(dtype), x.to(dtype)
        lower, upper = fuse(lambda a, x: (torch.igamma(a, x), torch.special.gammaincc(a, x)))(a, x)
        for got, wanted in ((lower, torch.igamma(a, x)), (upper, torch.igammac(a, x))):
            close: Any = {"rtol": 1e-8, "atol": 1e-9} if dtype == torch.float64 else {}  # what torch's own are good for
            torch.testing.assert_close(got, wanted, equal_nan=True, **close)
        if dtype == torch.float64:
            both = (lower + upper)[~lower.isnan()]
            assert ((both - 1).abs() < 1e-14).all()
            step = torch.exp(a * x.log() - x - torch.lgamma(a + 1))
            more = fuse(lambda a, x: a.igamma(x))(a + 1, x)
            there = (a > 0) & (a < 1e6) & (x > 0) & (x < 1e6)
            assert ((lower - more - step).abs() < 1e-11)[there].all()


_BY_SIZE = (
    (torch.float64, torch.int64, torch.uint64), (torch.float32, torch.int32, torch.uint32),
    (torch.float16, torch.bfloat16, torch.int16, torch.uint16),
    (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8, torch.bool),
)  # fmt: skip


@pytest.mark.parametrize("dtypes", _BY_SIZE)
def test_bits_are_read_as_another_dtype(dtypes):
    """All patterns of 16 bits and of 8, many of more. A NaN in 8 bits is a NaN, whichever."""
    size = dtypes[0].itemsize
    whole = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}[size]
    bits = torch.arange(1 << 16).to(torch.int16).view(torch.uint8)
    for source in dtypes:
        x = (bits & 1 if source is torch.bool else bits[: 3 * 1024]).view(source) if size != 2 else bits.view(source)
        for to in dtypes:
            if to is torch.bool:
                continue
            got, wanted = fuse(lambda x, to=to: x.view(to).clone())(x), x.view(to).clone()
            assert got.dtype is to and got.shape == wanted.shape
            same = got.view(whole) == wanted.view(whole)
            if size == 1:
                same |= x.float().isnan() | wanted.float().isnan()
            assert same.all()


def test_bits_are_those_that_a_result_has():
    x = torch.tensor([0.1, -2.5, 1e-9, float("inf")])
    rounded = lambda x: ((x.half() + 1).view(torch.int16), (x.bfloat16() * 3).view(torch.int16))
    assert_matches(rounded, (x,))
    assert_matches(lambda x: (x.view(torch.int32) & 0x7FFFFFFF).view(torch.float32) + 1, (x,))
    assert_matches(lambda x: torch.full((3,), 1.5, dtype=torch.float16).view(torch.int16) + x[:3], (x,))
    assert_matches(lambda x: x[:0].view(torch.int32).sum() + x[:1].view(torch.int32), (x,))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_of_pairs_have_weights(reduction):
    """torch 2.13 does not pass l1_loss's weight on to modes."""
    if "weight" not in inspect.signature(F.l1_loss).parameters:
        pytest.skip("this torch has no weights")
    x, y, w = torch.randn(5, 3), torch.randn(5, 3), torch.rand(5, 3)
    losses: Any = (F.l1_loss, F.mse_loss, F.huber_loss)
    for loss in losses:
        for dtype in (torch.float32, torch.bfloat16):
            args = x.to(dtype), y.to(dtype), w.to(dtype)
            f = lambda x, y, w, f=loss: f(x, y, weight=w, reduction=reduction)
            assert_matches(f, args)
            torch.testing.assert_close(fuse(f)(*args), f(*args))  # in a mode torch forgets w
            assert_matches(lambda x, y, f=loss, w=args[2]: f(x, y, weight=w, reduction=reduction), args[:2])
            assert_matches(lambda x, y, f=loss: f(x, y, reduction=reduction), args[:2])


def test_slopes_of_uneven_places():
    x, places = torch.randn(3, 5), torch.tensor([0.0, 1.0, 3.0, 3.5, 10.0])
    for given in (places, places.double(), places.half(), (places * 2).long()):
        for values in (x, x.half(), (x * 9).long()):
            for order in (1, 2):
                f = lambda x, p, e=order: torch.gradient(x, spacing=(p,), dim=1, edge_order=e)
                assert_matches(f, (values, given))
    assert_matches(lambda x, p, q: torch.gradient(x, spacing=(q, p)), (x[:, :2], places[:2], places[1:4]))


def test_another_view_of_the_same_in_place():
    def f(x):
        a, b, c, d = (x[None] * k for k in range(1, 5))
        a.squeeze_()
        b.transpose_(1, 2).add_(1)
        c.unsqueeze_(-1)
        d.squeeze_(0).t_()
        return a, b, c, d, a + 1, a.shape[0]

    assert_matches(f, (torch.randn(3, 4),))
    assert_matches(f, (torch.randn(3, 3),))
    with pytest.raises(InPlaceInput):
        fuse(lambda x: x.t_())(torch.randn(3, 4))
