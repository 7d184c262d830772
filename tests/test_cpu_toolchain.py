"""The CPU target below the emitter: machines, MLIR to machine code, launches, the cache; with handwritten kernels."""

import ctypes
import math
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from fusedsl.codegen.cpu import cache, machine, native, toolchain, wrapper
from fusedsl.codegen.cpu.child import Child, ChildFailed
from fusedsl.codegen.cpu.machine import AVX2, AVX512, PLAIN, Machine
from fusedsl.codegen.cpu.native import Native
from fusedsl.codegen.cpu.toolchain import ToolchainError
from fusedsl.errors import UnsupportedDevice
from fusedsl.options import Options

try:
    HOST = machine.host()
except UnsupportedDevice:
    pytest.skip("there is no CPU target here", allow_module_level=True)


@dataclass(frozen=True)
class Kernel:
    """What an emitter gives: the code of `@kernel`, and its arguments."""

    mlir: str
    arguments: tuple[str, ...]


def kernel(body: str, *arguments: str) -> Kernel:
    """A kernel with arguments %a0, %a1, ... and this body."""
    given = [f"%a{at}: {wrapper.mlir_type(type)}" for at, type in enumerate(arguments)]
    grid = [f"%{name}: i32" for name in ("px", "py", "pz", "gx", "gy", "gz")]
    signature = ", ".join([*given, *grid, "%status: !llvm.ptr", "%scratch: !llvm.ptr"])
    return Kernel(f"llvm.func internal @kernel({signature}) {{\n{body}\n  llvm.return\n}}", arguments)


def compiled(k: Kernel, target: Machine = HOST, **flags) -> bytes:
    return toolchain.compile_object(wrapper.module(k, target), target, **flags)


def built(k: Kernel, **more) -> Native:
    return Native(compiled(k), k.arguments, **more)


# y = x + 1, 16 elements a program, the last one with fewer.
ADD_ONE = kernel(
    """\
  %k0 = arith.constant 0 : i32
  %k1 = arith.constant 1 : i32
  %k16 = arith.constant 16 : i32
  %one = arith.constant dense<1.0> : vector<16xf32>
  %zero = arith.constant dense<0.0> : vector<16xf32>
  %lanes = arith.constant dense<[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]> : vector<16xi32>
  %start = arith.muli %px, %k16 : i32
  %left = arith.subi %a2, %start : i32
  %poison = llvm.mlir.poison : vector<16xi32>
  %first = llvm.insertelement %left, %poison[%k0 : i32] : vector<16xi32>
  %lefts = llvm.shufflevector %first, %first [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] : vector<16xi32>
  %mask = arith.cmpi slt, %lanes, %lefts : vector<16xi32>
  %xp = llvm.getelementptr %a0[%start] : (!llvm.ptr, i32) -> !llvm.ptr, f32
  %yp = llvm.getelementptr %a1[%start] : (!llvm.ptr, i32) -> !llvm.ptr, f32
  %x = llvm.intr.masked.load %xp, %mask, %zero {alignment = 4 : i32}
    : (!llvm.ptr, vector<16xi1>, vector<16xf32>) -> vector<16xf32>
  %y = arith.addf %x, %one : vector<16xf32>
  llvm.intr.masked.store %y, %yp, %mask {alignment = 4 : i32} : vector<16xf32>, vector<16xi1> into !llvm.ptr""",
    "ptr", "ptr", "i32",
)  # fmt: skip

# Adds one to the element of its own program, and writes where it is there.
COUNT = kernel(
    """\
  %one = arith.constant 1 : i32
  %two = arith.constant 2 : i32
  %zy = arith.muli %pz, %gy : i32
  %row = arith.addi %zy, %py : i32
  %before = arith.muli %row, %gx : i32
  %at = arith.addi %before, %px : i32
  %countp = llvm.getelementptr %a0[%at, 0] : (!llvm.ptr, i32) -> !llvm.ptr, !llvm.array<4 x i32>
  %old = llvm.atomicrmw add %countp, %one monotonic : !llvm.ptr, i32
  %xp = llvm.getelementptr %countp[1] : (!llvm.ptr) -> !llvm.ptr, i32
  %yp = llvm.getelementptr %countp[2] : (!llvm.ptr) -> !llvm.ptr, i32
  %zp = llvm.getelementptr %countp[3] : (!llvm.ptr) -> !llvm.ptr, i32
  llvm.store %px, %xp : i32, !llvm.ptr
  llvm.store %py, %yp : i32, !llvm.ptr
  llvm.store %pz, %zp : i32, !llvm.ptr""",
    "ptr",
)

# ---- machines --------------------------------------------------------------------------------------------------------


def test_lanes_and_features():
    assert [each.lanes for each in (PLAIN, AVX2, AVX512)] == [4, 8, 16]
    assert [each.has_fma for each in (PLAIN, AVX2, AVX512)] == [False, True, True]
    assert AVX512.has("f16c") and not PLAIN.has_f16c and not AVX512.has("avx512vnni")
    assert len({machine.identity(each) for each in (PLAIN, AVX2, AVX512, Machine("x86-64", "+fma"))}) == 4


def test_a_level_needs_all_its_features():
    flags = {flag for level in machine.LEVELS.values() for flag in level}
    assert machine.of_flags(flags) == AVX512
    assert machine.of_flags(flags - {"avx512vl"}) == AVX2
    assert machine.of_flags(flags | {"avx512_vnni"}) == Machine("x86-64-v4", "+avx512vnni")
    assert machine.of_flags(set()) == PLAIN
    without = machine.of_flags(flags - {"movbe"})  # as some virtual machines are
    assert without == Machine("x86-64-v2", "+avx,+avx2,+f16c,+fma") and without.lanes == 8 and without.has_fma


@pytest.mark.parametrize(("system", "architecture"), [("linux", "aarch64"), ("darwin", "x86_64")])
def test_other_computers_are_refused(monkeypatch, system, architecture):
    monkeypatch.setattr(machine.platform, "machine", lambda: architecture)
    monkeypatch.setattr(machine.sys, "platform", system)
    with pytest.raises(UnsupportedDevice, match=f'{architecture} {system}.*target="interpret"'):
        machine.host.__wrapped__()


@pytest.mark.parametrize(("target", "register"), [(PLAIN, "%xmm"), (AVX2, "%ymm"), (AVX512, "%zmm")])
def test_kernels_compile_for_machines_that_are_not_here(target, register):
    code = toolchain.assembly(wrapper.module(ADD_ONE, target), target, forked=True)
    assert register in code
    assert all(wider not in code for wider in ("%ymm", "%zmm") if wider > register)
    assert compiled(ADD_ONE, target, forked=True).startswith(b"\x7fELF")


# ---- MLIR to machine code --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimize", toolchain.OPTIMIZE)
def test_a_kernel_runs(optimize):
    run = Native(compiled(ADD_ONE, optimize=optimize), ADD_ONE.arguments)
    x, y = torch.randn(1000), torch.zeros(1008)
    run((x.data_ptr(), y.data_ptr(), 1000), (63, 1, 1))
    assert torch.equal(y[:1000], x + 1) and not y[1000:].any()


def test_only_what_says_so_is_fused():
    body = "  %p = arith.mulf %a0, %a1 : f32\n  %s = arith.addf %p, %a2 : f32\n  llvm.store %s, %a3 : f32, !llvm.ptr"
    plain = wrapper.module(kernel(body, "f32", "f32", "f32", "ptr"), AVX2)
    marked = re.sub(r"(arith\.\w+f %\w+, %\w+)", r"\1 fastmath<contract>", plain)
    assert "vfmadd" not in toolchain.assembly(plain, AVX2)
    assert "vfmadd" in toolchain.assembly(marked, AVX2)
    assert "vfmadd" in toolchain.assembly(plain, AVX2, fuse=True)


@pytest.mark.parametrize("forked", [False, True])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("arith.addf", "arith.addi", "'arith.addi' op operand #0 must be"),
        ("arith.addf", "arith.fly", "fly"),
        ("%x, %one", "%x, %nobody", "%x, %nobody"),
        ("  llvm.return\n}", "", "line "),
    ],
)
def test_what_llvm_says_of_wrong_text(old, new, said, forked):
    wrong = wrapper.module(ADD_ONE, HOST).replace(old, new)
    with pytest.raises(ToolchainError, match=said):
        toolchain.compile_object(wrong, HOST, forked=forked)
    assert compiled(ADD_ONE)  # and the next one compiles


def test_a_crash_in_a_child_is_an_error_here():
    mask = "  %m = arith.constant dense<true> : vector<8xi1>\n  %o = arith.constant dense<0.0> : vector<4xf32>\n"
    load = "  %x = llvm.intr.masked.load %a0, %m, %o {alignment = 4 : i32} : (!llvm.ptr, vector<8xi1>, vector<4xf32>)"
    with pytest.raises(ToolchainError, match="SIGABRT"):  # no verifier of MLIR finds it, an assertion in LLVM does
        compiled(kernel(f"{mask}{load} -> vector<4xf32>", "ptr"), forked=True)
    assert compiled(ADD_ONE)


def test_what_a_child_gives():
    child = Child()
    assert child.run(math.hypot, 3, 4) == 5
    assert len(child.run(bytes, 1 << 20)) == 1 << 20  # more than a pipe holds
    with pytest.raises(ChildFailed, match="ValueError"):
        child.run(int, "x")
    first = child.run(os.getpid)
    with pytest.raises(ChildFailed, match="SIGSEGV"):
        child.run(ctypes.string_at, 0)
    assert child.run(os.getpid) not in (first, os.getpid())


def test_a_child_that_was_killed_is_replaced():
    child = Child()
    first = child.run(os.getpid)
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert child.run(os.getpid) != first


SHARED = Child()


def _pid_of_the_shared_child() -> int:
    return SHARED.run(os.getpid)


def test_a_fork_has_a_child_of_its_own():
    first = _pid_of_the_shared_child()
    assert Child().run(_pid_of_the_shared_child) != first
    assert _pid_of_the_shared_child() == first


def test_a_child_that_hangs_is_killed(monkeypatch):
    monkeypatch.setattr("fusedsl.codegen.cpu.child.SECONDS", 0.1)
    with pytest.raises(ChildFailed, match="did not end"):
        Child().run(time.sleep, 100)


def test_threads_compile_at_once():
    objects = []
    threads = [threading.Thread(target=lambda: objects.append(compiled(ADD_ONE))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(objects) == 4 and len(set(objects)) == 1


# ---- launches --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def count() -> bytes:
    return compiled(COUNT)


@given(
    grid=st.tuples(st.integers(1, 40), st.integers(1, 7), st.integers(1, 5)),
    threads=st.integers(1, 5),
    grain=st.integers(1, 50),
)
@example(grid=(1, 1, 1), threads=2, grain=1)
@example(grid=(65537, 1, 1), threads=2, grain=1)
@example(grid=(1, 300, 1), threads=3, grain=1)
@example(grid=(1, 1, 300), threads=3, grain=7)
def test_every_program_runs_once(count, grid, threads, grain):
    gx, gy, gz = grid
    seen = torch.zeros(gz, gy, gx, 4, dtype=torch.int32)
    Native(count, COUNT.arguments, grain=grain)((seen.data_ptr(),), grid, threads)
    assert (seen[..., 0] == 1).all()
    places = torch.meshgrid(*map(torch.arange, (gz, gy, gx)), indexing="ij")
    assert torch.equal(seen[..., 1:].long(), torch.stack(places[::-1], -1))


@pytest.mark.parametrize("grid", [(0, 1, 1), (5, 0, 1), (5, 1, 0)])
def test_no_programs(count, grid):
    Native(count, COUNT.arguments)((0,), grid)


# What Python numbers become, by the type of the argument.
PASSED = {
    "i1": [(0, 0), (1, 1), (True, 1), (2, 0)],
    "i8": [(-1, -1), (127, 127), (200, -56)],
    "i16": [(-3, -3), (1 << 15, -(1 << 15))],
    "i32": [(-(1 << 31), -(1 << 31)), ((1 << 32) - 1, -1), (False, 0)],
    "i64": [(-(1 << 63), -(1 << 63)), ((1 << 64) - 1, -1)],
    "f16": [(1.5, 1.5), (3, 3.0), (1e6, math.inf), (1e-8, 0.0)],
    "bf16": [(1.5, 1.5), (-2, -2.0), (1e39, math.inf), (1.0078125 + 0.0077, 1.0078125)],
    "f32": [(0.1, torch.tensor(0.1).item()), (1e39, math.inf), (-1e39, -math.inf), (16777217, 16777216.0)],
    "f64": [(0.1, 0.1), (10**400 // 10**100, 1e300)],
    "ptr": [(0, 0), ((1 << 64) - 1, -1)],
}
STORED = {"i1": "i8", "ptr": "i64", "bf16": "i16"}
DTYPES = {
    "i1": torch.int8, "i8": torch.int8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64, "ptr": torch.int64,
    "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64,
}  # fmt: skip


@pytest.mark.parametrize("type", PASSED)
def test_numbers_arrive(type):
    value = "%a1"
    body = "  %v = arith.extui %a1 : i1 to i8\n" if type == "i1" else ""
    body += "  %v = llvm.ptrtoint %a1 : !llvm.ptr to i64\n" if type == "ptr" else ""
    value = "%v" if body else "%a1"
    body += f"  llvm.store %a3, %a0 : i8, !llvm.ptr\n  llvm.store {value}, %a0 : {STORED.get(type, type)}, !llvm.ptr"
    run = built(kernel(body, "ptr", type, "f32", "i8"))
    for passed, arrived in PASSED[type]:
        out = torch.full((2,), 77, dtype=torch.float64).to(DTYPES[type])
        run((out.data_ptr(), passed, 1.0, 5), (1, 1, 1))
        assert out.tolist() == [arrived, 77]


def test_the_number_of_arguments_is_checked():
    run = built(ADD_ONE)
    for values in ((0, 0), (0, 0, 0, 0)):
        with pytest.raises(ValueError, match="argument"):
            run(values, (1, 1, 1))


def test_a_failed_check_is_raised_once():
    body = """\
  %none = arith.constant 0 : i32
  %bad = arith.cmpi ne, %a0, %none : i32
  scf.if %bad {
    llvm.store %a0, %status : i32, !llvm.ptr
  }"""
    run = built(kernel(body, "i32"), checks=("the first", "the second"))
    run((0,), (9, 1, 1))
    with pytest.raises(AssertionError, match="the second"):
        run((2,), (9, 1, 1))
    with pytest.raises(AssertionError, match="the first"):
        run((1,), (1, 1, 1))
    run((0,), (9, 1, 1))


@pytest.mark.parametrize("size", [1, 100, wrapper.STACK_SCRATCH, wrapper.STACK_SCRATCH + 1, 1 << 22])
def test_scratch_memory_is_the_threads_own(size):
    # Writes its number to both ends of the scratch memory, and after a while reads it there.
    body = """\
  %one = arith.constant 1 : i64
  %last = arith.subi %a1, %one : i64
  %end = llvm.getelementptr %scratch[%last] : (!llvm.ptr, i64) -> !llvm.ptr, i8
  %byte = arith.trunci %px : i32 to i8
  llvm.store volatile %byte, %scratch : i8, !llvm.ptr
  llvm.store volatile %byte, %end : i8, !llvm.ptr
  %zero = arith.constant 0 : i64
  %many = arith.constant 1000 : i64
  scf.for %i = %zero to %many step %one : i64 {
    %again = llvm.load volatile %end : !llvm.ptr -> i8
  }
  %a = llvm.load volatile %scratch : !llvm.ptr -> i8
  %b = llvm.load volatile %end : !llvm.ptr -> i8
  %first = arith.cmpi eq, %a, %byte : i8
  %second = arith.cmpi eq, %b, %byte : i8
  %both = arith.andi %first, %second : i1
  %address = llvm.ptrtoint %scratch : !llvm.ptr to i64
  %line = arith.constant 64 : i64
  %off = arith.remui %address, %line : i64
  %aligned = arith.cmpi eq, %off, %zero : i64
  %right = arith.andi %both, %aligned : i1
  %out = llvm.getelementptr %a0[%px] : (!llvm.ptr, i32) -> !llvm.ptr, i8
  %result = arith.extui %right : i1 to i8
  llvm.store %result, %out : i8, !llvm.ptr"""
    run = built(kernel(body, "ptr", "i64"), scratch_bytes=size)
    for threads in (1, 4):
        out = torch.zeros(100, dtype=torch.int8)
        run((out.data_ptr(), size), (100, 1, 1), threads)
        assert out.all()


def test_a_thread_that_ends_gives_its_scratch_memory_back():
    """And while it lives it keeps that of the largest kernel."""
    body = "  llvm.store volatile %px, %scratch : i32, !llvm.ptr"
    small, large = (built(kernel(body, "ptr"), scratch_bytes=size) for size in (1 << 20, 1 << 23))
    before = _virtual_memory()
    for _ in range(300):
        thread = threading.Thread(target=lambda: [run((0,), (1, 1, 1), 1) for run in (small, large, small)])
        thread.start()
        thread.join()
    assert _virtual_memory() < before + (1 << 30), "300 threads had 8 MiB each"


def _virtual_memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def test_a_fork_launches():
    """The child of a process that has launched on several threads, with scratch memory that its thread has kept."""
    script = """
import os, torch
from fusedsl.cpu_kernels import matmul

torch.set_num_threads(2)
a, b, out = torch.randn(256, 128), torch.randn(128, 128), torch.zeros(256, 128)
expected = a @ b

def launched():
    matmul(a, b, out.zero_(), (128, 128, 128))
    return (out - expected).abs().max() < 1e-4  # too small for torch to ask for its threads, which it would wait for

assert launched()
child = os.fork()
if child == 0:
    os._exit(0 if launched() else 1)
assert os.waitpid(child, 0)[1] == 0 and launched()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_python_threads_launch_at_once():
    run = built(ADD_ONE)
    wrong = []

    def launches(seed: int) -> None:
        x, y = torch.full((4000,), float(seed)), torch.zeros(4000)
        for _ in range(200):
            y.zero_()
            run((x.data_ptr(), y.data_ptr(), 4000), (250, 1, 1), 1 + seed % 2)
            if not (y == seed + 1).all():
                wrong.append(seed)

    threads = [threading.Thread(target=launches, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert 1 <= len(run._blocks) <= 4


def test_threads_are_those_of_torch():
    assert native._parallel() is not None
    home = os.path.dirname(torch.__file__)
    if any(path.startswith(home) and "libgomp" in path for path in native._mapped_libraries()):
        assert "libgomp" in next(path for path in native._mapped_libraries() if "omp" in os.path.basename(path))


def test_the_doctor_runs_a_kernel():
    assert HOST.cpu in native.works()


# ---- the cache -------------------------------------------------------------------------------------------------------


class Maker:
    """What compiles a kernel, counted."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> tuple[bytes, dict]:
        self.calls += 1
        return compiled(ADD_ONE), {"arguments": ADD_ONE.arguments, "name": "añadir"}


def fetched(make: Maker, source: str, target: Machine = HOST, variant: str = "") -> cache.Object:
    found = cache.fetch("add_one", source, target, make, variant)
    assert found.about == {"arguments": ["ptr", "ptr", "i32"], "name": "añadir"}
    run = Native(found.code, found.about["arguments"])
    x, y = torch.randn(20), torch.zeros(20)
    run((x.data_ptr(), y.data_ptr(), 20), (2, 1, 1))
    assert torch.equal(y, x + 1)
    return found


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    """A cache that no test before this one has filled, and none beside it looks into."""
    options = replace(Options.from_env(), cache_dir=tmp_path)
    monkeypatch.setattr(Options, "from_env", lambda: options)


@pytest.mark.usefixtures("own_cache")
def test_a_kernel_is_made_once():
    make = Maker()
    first, second = fetched(make, "once"), fetched(make, "once")
    assert make.calls == 1 and first == second
    path = cache.path_of("add_one", "once", HOST)
    assert first.code == path and path.is_relative_to(Options.from_env().cache_dir)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700 and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list(path.parent.glob("*.tmp"))


def test_what_decides_the_code_decides_the_place(monkeypatch):
    def places() -> list:
        parts = [("a", AVX2, ""), ("b", AVX2, ""), ("a", AVX512, ""), ("a", AVX2, "b"), ("ab", AVX2, "")]
        return [cache.path_of("k", *each) for each in parts]

    before = places()
    assert len(set(before)) == len(before) and before == places()
    cache._compiler.cache_clear()
    monkeypatch.setattr(cache, "triton_version", lambda: "0.0")
    assert not set(before) & set(places())
    cache._compiler.cache_clear()


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("harm", [
    lambda whole: whole[:-1],
    lambda whole: whole[: len(whole) // 2],
    lambda whole: b"",
    lambda whole: whole[:100] + bytes([whole[100] ^ 1]) + whole[101:],
    lambda whole: whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:],
    lambda whole: whole + b"\n",
    lambda whole: b"\x00" * len(whole),
])  # fmt: skip
def test_a_damaged_file_is_made_again(harm):
    make = Maker()
    path = cache.path_of("add_one", "damaged", HOST)
    cache.fetch("add_one", "damaged", HOST, make)
    whole, calls = path.read_bytes(), make.calls
    cache.write_atomically(path, harm(whole))
    assert fetched(make, "damaged").code == path
    assert make.calls == calls + 1 and path.read_bytes() == whole


def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(Options, "from_env", lambda: Options(cache_dir=tmp_path / "file"))
    make = Maker()
    assert isinstance(fetched(make, "nowhere").code, bytes) and make.calls == 1


@pytest.mark.usefixtures("own_cache")
def test_a_file_that_cannot_be_run(monkeypatch):
    make = Maker()
    path = fetched(make, "noexec").code
    load = ctypes.CDLL

    def refuse(name, *rest):
        if name == str(path):
            raise OSError("failed to map segment from shared object")
        return load(name, *rest)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert fetched(make, "noexec").code == path and make.calls == 1


WARM = """
import sys, torch
from fusedsl.codegen.cpu import cache, machine, native
found = cache.fetch("add_one", "warm", machine.host(), lambda: sys.exit("not on disk"))
x, y = torch.randn(20), torch.zeros(20)
native.Native(found.code, found.about["arguments"])((x.data_ptr(), y.data_ptr(), 20), (2, 1, 1))
assert torch.equal(y, x + 1) and "triton" not in sys.modules
"""


def test_a_new_process_needs_no_compiler():
    fetched(Maker(), "warm")
    subprocess.run([sys.executable, "-c", WARM], check=True)
