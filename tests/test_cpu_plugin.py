"""The CPU target behind Triton's own launcher: kernels of any author, unmodified, on CPU tensors."""

# What stands for a type in a kernel's parameters is none to its callers.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from triton.backends import backends
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from fusedsl.codegen.cpu.errors import CannotCompile
from fusedsl.codegen.cpu.machine import AVX512
from fusedsl.codegen.cpu.plugin.driver import CPUDriver

pytestmark = pytest.mark.usefixtures("cpu_driver")


def test_triton_knows_the_backend():
    assert "cpu" in backends, "the package is installed without its entry point: `pip install -e .` again"
    assert backends["cpu"].driver is CPUDriver


# ---- kernels ---------------------------------------------------------------------------------------------------------


@triton.jit
def add(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=mask) + tl.load(y_ptr + at, mask=mask), mask=mask)


@triton.jit
def copy(x_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(x_ptr + at))


@triton.jit
def softmax(out_ptr, x_ptr, stride, rows, columns, BLOCK: tl.constexpr):
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        at = tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * stride + at, mask=at < columns, other=-float("inf"))
        e = tl.exp(x - tl.max(x, axis=0))
        tl.store(out_ptr + row * columns + at, e / tl.sum(e, axis=0), mask=at < columns)


TILES = [triton.Config({"BLOCK": b, "GROUP": 2}, num_warps=w, num_stages=2) for b in (32, 64) for w in (4, 8)]


@triton.jit
def matmul(a_ptr, b_ptr, c_ptr, M, N, K, BLOCK: tl.constexpr, GROUP: tl.constexpr, EVEN: tl.constexpr = False):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for start in range(0, K, BLOCK):
        k = start + tl.arange(0, BLOCK)
        a = tl.load(a_ptr + i[:, None] * K + k, mask=(i[:, None] < M) & (k < K), other=0.0)
        b = tl.load(b_ptr + k[:, None] * N + j, mask=(k[:, None] < K) & (j < N), other=0.0)
        total = tl.dot(a, b, total)
    tl.store(c_ptr + i[:, None] * N + j, total.to(c_ptr.dtype.element_ty), mask=(i[:, None] < M) & (j < N))


@triton.jit
def checked(x_ptr, limit, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    tl.device_assert(x < limit, "x is too large")
    tl.store(x_ptr + at, x * 2)


@triton.jit
def inlined(x_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    y = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=tl.int32, is_pure=True, pack=1)
    tl.store(x_ptr + at, y)


@triton.jit
def mixed(pair, extra, flag, big, shift: tl.constexpr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    y = tl.load(pair[0] + at) * pair[1] + shift[0]
    if extra is not None:
        y += tl.load(extra + at)
    if flag:
        y += 1.0
    tl.store(out_ptr + at, y + (big >> 60).to(tl.float32))


@triton.jit
def locked(lock_ptr, count_ptr):
    while tl.atomic_cas(lock_ptr, 0, 1) == 1:
        pass
    tl.store(count_ptr, tl.load(count_ptr) + 1)
    tl.debug_barrier()
    tl.atomic_xchg(lock_ptr, 0)


@triton.jit
def doubled(source, target, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK
    target.store([at, 0], source.load([at, 0]) * 2)


# ---- launches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 1000, 4096])
def test_vector_add(n):
    x, y, out = torch.randn(n), torch.randn(n), torch.full((n + 1,), 7.0)
    add[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](x, y, out, n, BLOCK=1024, num_warps=8, num_stages=4)
    assert torch.equal(out[:n], x + y) and out[n] == 7


def test_softmax_of_a_view_in_a_grid_by_occupancy():
    x = torch.randn(100, 300)[:, 10:291]
    out = torch.empty(x.shape)
    kernel = softmax.warmup(out, x, x.stride(0), *x.shape, BLOCK=512, grid=(1,))
    kernel._init_handles()
    has = driver.active.utils.get_device_properties(driver.active.get_active_torch_device().index)
    programs = has["multiprocessor_count"] * min(has["max_shared_mem"] // kernel.metadata.shared,
                                                 has["max_num_regs"] // (kernel.n_regs * has["warpSize"]))  # fmt: skip
    kernel[min(programs, len(x)), 1, 1](out, x, x.stride(0), *x.shape, 512)
    torch.testing.assert_close(out, torch.softmax(x, 1))


def test_matmul_tuned():
    a, b = torch.randn(100, 70).half(), torch.randn(70, 90).half()
    c = torch.empty(100, 90, dtype=torch.float16)
    tuned = triton.autotune(TILES, key=["M", "N", "K"])(matmul)
    tuned[lambda meta: (triton.cdiv(100, meta["BLOCK"]), triton.cdiv(90, meta["BLOCK"]))](a, b, c, 100, 90, 70)
    torch.testing.assert_close(c.float(), a.float() @ b.float(), atol=2e-2, rtol=2e-2)
    assert len(tuned.configs_timings) == len(TILES) and tuned.best_config in TILES


def test_heuristics():
    a, b, c = torch.randn(64, 64), torch.randn(64, 64), torch.empty(64, 64)
    seen = []
    rules = {"BLOCK": lambda args: 32, "GROUP": lambda args: 1, "EVEN": lambda args: seen.append(args["M"]) or True}
    triton.heuristics(rules)(matmul)[(2, 2)](a, b, c, 64, 64, 64)
    torch.testing.assert_close(c, a @ b)
    assert seen == [64]


def test_hooks_and_run():
    seen = []
    x, out = torch.randn(16), torch.empty(16)
    enter = lambda metadata: seen.append(metadata.get()["name"])
    triton.knobs.runtime.launch_enter_hook.add(enter)
    copy.add_pre_run_hook(lambda *args, **kwargs: seen.append(kwargs["BLOCK"]))
    try:
        copy.run(x, out, BLOCK=16, grid=(1,), warmup=False)
    finally:
        triton.knobs.runtime.launch_enter_hook.remove(enter)
        copy.pre_run_hooks.clear()
    assert seen == [16, "copy"] and torch.equal(x, out)


def test_grids():
    out = torch.zeros(16)
    for grid in ((0,), (1, 0), (1, 1, 0)):
        copy[grid](torch.ones(16), out, BLOCK=16)
    assert not out.any()
    with pytest.raises(TypeError, match="integer"):
        copy[(1.5,)](torch.ones(16), out, BLOCK=16)


def test_a_lock_between_programs():
    lock, count = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    locked[(5000,)](lock, count)
    assert (lock.item(), count.item()) == (0, 5000)


def test_threads_launch_at_once():
    x, wrong = torch.randn(1 << 12), []

    def work():
        for _ in range(100):
            out = torch.empty_like(x)
            copy[(1,)](x, out, BLOCK=1 << 12)
            if not torch.equal(x, out):
                wrong.append(out)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


# ---- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [None, torch.arange(16.0)])
@pytest.mark.parametrize("flag", [False, True])
def test_tuples_none_and_numbers(extra, flag):
    x, out = torch.randn(16), torch.empty(16)
    for big in (1 << 63, 1 << 40, -(1 << 62)):
        mixed[(1,)]((x, 3.0), extra, flag, big, (1, 2), out, BLOCK=16)
        expected = x * 3 + 1 + (0 if extra is None else extra) + flag + (big >> 60)
        torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("dtype", [
    torch.bool, torch.uint8, torch.int64, torch.uint64, torch.bfloat16, torch.float64, torch.float8_e4m3fn,
    torch.float8_e5m2fnuz,
])  # fmt: skip
def test_dtypes(dtype):
    x = (torch.arange(16) * 0.5).to(dtype)
    out = torch.empty(16, dtype=x.dtype)
    copy[(1,)](x, out, BLOCK=16)
    assert torch.equal(x.view(torch.uint8), out.view(torch.uint8))


def test_descriptors():
    from triton.tools.tensor_descriptor import TensorDescriptor

    x, out = torch.randn(64, 32), torch.empty(64, 32)
    doubled[(4,)](TensorDescriptor.from_tensor(x, [16, 32]), TensorDescriptor.from_tensor(out, [16, 32]), BLOCK=16)
    assert torch.equal(out, x * 2)


def test_reinterpreted_tensors():
    x, out = torch.randn(16), torch.empty(16)
    copy[(1,)](triton.reinterpret(x.view(torch.int32), tl.float32), out, BLOCK=16)
    assert torch.equal(x, out)


@pytest.mark.parametrize("launch", [
    lambda x, out: copy[(1,)](x, out, BLOCK=16),
    lambda x, out: copy[(1,)](triton.reinterpret(x, tl.float32), out, BLOCK=16),
])  # fmt: skip
def test_a_tensor_elsewhere_is_refused(launch):
    with pytest.raises(ValueError, match="x_ptr is on meta; this target runs on CPU tensors"):
        launch(torch.empty(16, device="meta"), torch.empty(16))


def test_overlapping_arguments_are_read_first():
    expected = torch.arange(257.0)
    expected[1:] = torch.arange(256.0)
    x = torch.arange(257.0)
    copy[(1,)](x, x[1:], BLOCK=256)
    assert torch.equal(x, expected)
    memory = torch.arange(257.0).numpy()  # the same by two storages
    copy[(1,)](torch.from_numpy(memory), torch.from_numpy(memory[1:]), BLOCK=256)
    assert torch.equal(torch.from_numpy(memory), expected)


# ---- errors and texts ------------------------------------------------------------------------------------------------


@triton.jit
def barrier(count_ptr, out_ptr, N: tl.constexpr):
    i = tl.program_id(0)
    tl.store(out_ptr + i, i)
    tl.atomic_add(count_ptr, 1)
    while tl.atomic_add(count_ptr, 0) < N:
        pass
    tl.store(out_ptr + N + i, tl.load(out_ptr + (i + 1) % N))


def test_programs_that_all_wait_for_all():
    """As many as there are threads; of more a cooperative launch says so, instead of waiting without end."""
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        out = torch.zeros(6, dtype=torch.int32)
        barrier[(3,)](torch.zeros(1, dtype=torch.int32), out, N=3, launch_cooperative_grid=True)
        assert out.tolist() == [0, 1, 2, 1, 2, 0]
        with pytest.raises(RuntimeError, match=r"4 programs .* torch has 3: .*set_num_threads"):
            barrier[(4,)](torch.zeros(1, dtype=torch.int32), out, N=3, launch_cooperative_grid=True)
    finally:
        torch.set_num_threads(threads)


def test_a_target_that_is_no_cpu_of_ours():
    types = {"x_ptr": "*i32", "y_ptr": "*i32", "out_ptr": "*i32", "n": "i32", "BLOCK": "constexpr"}
    source = triton.compiler.ASTSource(add, types, {"BLOCK": 16})
    with pytest.raises(ValueError, match=r"x86-64-v4, with \+features, not 'z80'"):
        triton.compile(source, target=GPUTarget("cpu", "z80", 1))


def test_asserts_are_for_debugging():
    x = torch.arange(16)
    checked[(1,)](x, 5, BLOCK=16)  # as everywhere in Triton
    with pytest.raises(AssertionError, match="x is too large"):
        checked[(1,)](x, 5, BLOCK=16, debug=True)


def test_what_cannot_be_compiled_names_the_operation_and_the_line():
    line = inlined.starting_line_number + 4
    with pytest.raises(CannotCompile, match=rf"{Path(__file__).name}:{line}: tt.elementwise_inline_asm"):
        inlined[(1,)](torch.arange(16, dtype=torch.int32), BLOCK=16)


def test_texts_of_every_stage():
    kernel = copy.warmup(torch.float32, torch.float32, BLOCK=16, grid=(1,))
    assert list(kernel.asm) == ["source", "ttir", "mlir", "so"]
    assert "tt.load" in kernel.asm["ttir"] and "llvm.func" in kernel.asm["mlir"] and kernel.asm["so"][:4] == b"\x7fELF"


def test_a_target_may_be_another_cpu_and_a_source_ttir(tmp_path):
    file = tmp_path / "copy.ttir"
    file.write_text(copy.warmup(torch.float32, torch.float32, BLOCK=64, grid=(1,)).asm["ttir"])
    kernel = triton.compile(str(file), target=GPUTarget("cpu", AVX512.cpu, 1))
    assert "vector<64xf32>" in kernel.asm["mlir"] and kernel.metadata.target.arch == "x86-64-v4"


def test_configurations_that_differ_in_what_a_cpu_lacks_are_compiled_once():
    kernels = [copy.warmup(torch.int8, torch.int8, BLOCK=32, grid=(1,), num_warps=warps) for warps in (1, 2)]
    assert kernels[0].hash == kernels[1].hash


# ---- processes -------------------------------------------------------------------------------------------------------


def run(code: str, **environ: str) -> str:
    """What a new process prints."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=os.environ | environ, text=True,
                          capture_output=True, cwd=Path(__file__).parent.parent)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SCRIPT = """\
import sys
import torch
import triton
import triton.language as tl

@triton.jit
def add(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=mask) + tl.load(y_ptr + at, mask=mask), mask=mask)

x, y, out = torch.randn(5000), torch.randn(5000), torch.empty(5000)
add[(5,)](x, y, out, 5000, BLOCK=1024)
assert torch.equal(out, x + y)
print("fusedsl.codegen.cpu.emit" in sys.modules)
"""


def test_a_script_runs_and_the_next_time_nothing_is_compiled(tmp_path):
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    code = f"import runpy; runpy.run_path({str(file)!r})"
    environ = {"TRITON_DEFAULT_BACKEND": "cpu" if torch.cuda.is_available() else ""}
    assert [run(code, **environ) for _ in range(2)] == ["True", "False"]


def test_tritons_key_is_remembered_as_it_is():
    from triton.runtime import autotuner, cache

    assert hasattr(cache.triton_key, "remembers") and autotuner.triton_key is cache.triton_key
    told = run("""
        from triton.runtime import cache
        from fusedsl.codegen.cpu.plugin import key
        original = cache.triton_key.__wrapped__
        key._remembered(original)
        assert key._remembered(lambda: "") == original()
        print(original())
    """)
    assert told == cache.triton_key()


FAKE_GPU = """
    from triton.backends import backends
    backends["nvidia"].driver.is_active = staticmethod(lambda: True)
    backends["amd"].driver.is_active = staticmethod(lambda: False)
    print(backends["cpu"].driver.is_active())
"""


def test_a_gpu_comes_first_unless_told_otherwise():
    assert run(FAKE_GPU, TRITON_DEFAULT_BACKEND="") == "False"
    assert run(FAKE_GPU, TRITON_DEFAULT_BACKEND="cpu") == "True"


def test_two_backends_that_ask_each_other_come_to_an_end(monkeypatch):
    monkeypatch.delenv("TRITON_DEFAULT_BACKEND", raising=False)

    class Polite(CPUDriver):
        @classmethod
        def is_active(cls):
            return not CPUDriver.is_active()

    monkeypatch.setitem(backends, "polite", type(backends["cpu"])(backends["cpu"].compiler, Polite))
    assert Polite.is_active() != CPUDriver.is_active() or torch.cuda.is_available()


@pytest.mark.parametrize("first", ["triton", "fusedsl.codegen.cpu.plugin.driver"])
def test_whatever_is_imported_first_triton_is_whole_and_light(first):
    code = f"import {first}, triton, sys; print('cpu' in triton.backends.backends, 'torch' in sys.modules)"
    assert run(code) == "True False"


def test_a_later_triton_that_asks_more_of_a_backend_can_be_imported():
    run("""
        import abc, sys, types
        import triton._C.libtriton
        from triton.backends import _find_concrete_subclasses, driver, compiler
        for base in (driver.DriverBase, compiler.BaseBackend):
            base.news = abc.abstractmethod(lambda self: None)
            base.__abstractmethods__ |= {"news"}
        for name in [name for name in sys.modules if name.startswith("fusedsl")]:
            del sys.modules[name]
        import fusedsl.codegen.cpu.plugin.driver as ours, fusedsl.codegen.cpu.plugin.compiler as theirs
        _find_concrete_subclasses(ours, driver.DriverBase), _find_concrete_subclasses(theirs, compiler.BaseBackend)
    """)
