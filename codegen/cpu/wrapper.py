"""The MLIR around a kernel: `program`, which runs one program of it, and the `launch` of every kernel.

A launch passes one block of 8-byte slots, beginning on a cache line. The counter has a line to itself, since every
worker changes it; what one kernel differs in from another comes last::

    | counter | 7 unused | program | scratch | grain | gx | gy | gz | status | chunk | argument 0 | argument 1 | ...

`program` is the address of the kernel's code, `scratch` the bytes of memory that a thread of it works in, and `grain`
how many programs are worth waking a thread for. `launch` is the same for all kernels and so compiled once: its workers
take the next `chunk` programs, x counting fastest, until none is left. It reaches GOMP_parallel, the entry to OpenMP,
through the pointer `parallel`, which the loader sets to torch's own: the threads are torch's.

A thread keeps scratch memory that is too large for its stack for later launches, with its size in a line before it and
under the loader's `key`: new memory would cost a page fault for every 4096 bytes.
"""

from __future__ import annotations

from typing import Protocol

from .machine import PLAIN, Machine

COUNTER, PROGRAM, SCRATCH, GRAIN, GRID, STATUS, CHUNK, ARGUMENTS = 0, 8, 9, 10, 11, 14, 15, 16  # slots
CHUNKS = 16  # of a grid that a thread takes: enough to even out programs that differ, few enough to count cheaply
STACK_SCRATCH = 128 * 1024  # a thread's scratch memory lies on its stack up to here

# bf16 and the kinds of f8 are bits to a kernel.
_MLIR_TYPES = {
    "ptr": "!llvm.ptr", "i1": "i1", "i8": "i8", "i16": "i16", "i32": "i32", "i64": "i64",
    "f16": "f16", "bf16": "i16", "f32": "f32", "f64": "f64",
}  # fmt: skip


class Emitted(Protocol):
    """What `program` has to know of a kernel."""

    @property
    def mlir(self) -> str: ...
    @property
    def arguments(self) -> tuple[str, ...]: ...


def mlir_type(argument: str) -> str:
    """The type that a kernel's code takes an argument as."""
    return "i8" if argument.startswith("f8") else _MLIR_TYPES[argument]


def module(emitted: Emitted, machine: Machine) -> str:
    """The module of a kernel: its own functions, and the exported `program`."""
    return _module(machine, emitted.mlir, program(emitted.arguments))


def launcher() -> str:
    """The module of the exported `launch`."""
    return _module(PLAIN, _LAUNCHER.format(**_SLOTS, chunks=CHUNKS, stack=STACK_SCRATCH))


def _module(machine: Machine, *parts: str) -> str:
    return "\n".join((f'module attributes {{llvm.target_triple = "{machine.triple}"}} {{', *parts, "}\n"))


def program(arguments: tuple[str, ...]) -> str:
    """The function that takes the arguments out of the block and runs the kernel's program (px, py, pz)."""
    types = [mlir_type(argument) for argument in arguments]
    loads = [line for at, each in enumerate(arguments) for line in _load(f"a{at}", ARGUMENTS + at, each)]
    loads += [line for at, axis in enumerate("xyz") for line in _load(f"g{axis}", GRID + at, "i32")]
    passed = ", ".join([*(f"%a{at}" for at in range(len(types))), "%px, %py, %pz, %gx, %gy, %gz, %status, %scratch"])
    signature = ", ".join([*types, *["i32"] * 6, "!llvm.ptr, !llvm.ptr"])
    return "\n".join((
        "llvm.func @program(%block: !llvm.ptr, %px: i32, %py: i32, %pz: i32, %scratch: !llvm.ptr) {",
        *loads,
        _slot("status", STATUS),
        f"  llvm.call @kernel({passed}) : ({signature}) -> ()",
        "  llvm.return\n}",
    ))  # fmt: skip


def _slot(name: str, at: int) -> str:
    return f"  %{name} = llvm.getelementptr inbounds %block[{at}] : (!llvm.ptr) -> !llvm.ptr, i64"


def _load(name: str, at: int, argument: str) -> list[str]:
    """Lines that read an argument from its slot: a number lies in the low bytes, a bf16 as f32."""
    place, bits = f"{name}p", f"{name}b"
    if argument == "i1":
        inside, convert = "i8", [f"  %{name} = arith.trunci %{bits} : i8 to i1"]
    elif argument == "bf16":  # the upper half, so not rounded: what Triton's own launchers pass
        high = [f"  %k{name} = arith.constant 16 : i32", f"  %{name}h = arith.shrui %{bits}, %k{name} : i32"]
        inside, convert = "i32", [*high, f"  %{name} = arith.trunci %{name}h : i32 to i16"]
    else:
        inside, convert, bits = mlir_type(argument), [], name
    read = f"  %{bits} = llvm.load %{place} {{alignment = 8 : i64}} : !llvm.ptr -> {inside}"
    return [_slot(place, at), read, *convert]


_SLOTS = {
    "counter": COUNTER, "program": PROGRAM, "scratch": SCRATCH, "grain": GRAIN,
    "gx": GRID, "gy": GRID + 1, "gz": GRID + 2, "status": STATUS, "chunk": CHUNK,
}  # fmt: skip

# A worker finds the first program of its chunk by division and the others by counting.
_LAUNCHER = """\
llvm.mlir.global external @parallel() {{addr_space = 0 : i32}} : !llvm.ptr {{
  %none = llvm.mlir.zero : !llvm.ptr
  llvm.return %none : !llvm.ptr
}}
llvm.mlir.global external @key(0 : i32) {{addr_space = 0 : i32}} : i32
llvm.func @aligned_alloc(i64, i64) -> !llvm.ptr
llvm.func @free(!llvm.ptr)
llvm.func @pthread_getspecific(i32) -> !llvm.ptr
llvm.func @pthread_setspecific(i32, !llvm.ptr) -> i32

llvm.func internal @size(%block: !llvm.ptr) -> i64 {{
  %gxp = llvm.getelementptr %block[{gx}] : (!llvm.ptr) -> !llvm.ptr, i64
  %gyp = llvm.getelementptr %block[{gy}] : (!llvm.ptr) -> !llvm.ptr, i64
  %gzp = llvm.getelementptr %block[{gz}] : (!llvm.ptr) -> !llvm.ptr, i64
  %gx = llvm.load %gxp : !llvm.ptr -> i64
  %gy = llvm.load %gyp : !llvm.ptr -> i64
  %gz = llvm.load %gzp : !llvm.ptr -> i64
  %gxy = arith.muli %gx, %gy : i64
  %n = arith.muli %gxy, %gz : i64
  llvm.return %n : i64
}}

llvm.func @launch(%block: !llvm.ptr, %threads: i32) {{
  %counterp = llvm.getelementptr %block[{counter}] : (!llvm.ptr) -> !llvm.ptr, i64
  %grainp = llvm.getelementptr %block[{grain}] : (!llvm.ptr) -> !llvm.ptr, i64
  %statusp = llvm.getelementptr %block[{status}] : (!llvm.ptr) -> !llvm.ptr, i64
  %chunkp = llvm.getelementptr %block[{chunk}] : (!llvm.ptr) -> !llvm.ptr, i64
  %grain = llvm.load %grainp : !llvm.ptr -> i64
  %n = llvm.call @size(%block) : (!llvm.ptr) -> i64
  %zero = arith.constant 0 : i64
  %k0 = arith.constant 0 : i32
  %k1 = arith.constant 1 : i32
  llvm.store %zero, %counterp : i64, !llvm.ptr
  llvm.store %zero, %statusp : i64, !llvm.ptr
  %null = llvm.mlir.zero : !llvm.ptr
  %variable = llvm.mlir.addressof @parallel : !llvm.ptr
  %parallel = llvm.load %variable : !llvm.ptr -> !llvm.ptr
  %known = llvm.icmp "ne" %parallel, %null : !llvm.ptr
  %allowed = arith.cmpi sgt, %threads, %k1 : i32
  %several = arith.cmpi sgt, %n, %grain : i64
  %can = arith.andi %known, %allowed : i1
  %spread = arith.andi %can, %several : i1
  scf.if %spread {{
    %chunks = arith.constant {chunks} : i64
    %wide = arith.extsi %threads : i32 to i64
    %parts = arith.muli %wide, %chunks : i64
    %part = arith.divui %n, %parts : i64
    %chunk = arith.maxsi %part, %grain : i64
    llvm.store %chunk, %chunkp : i64, !llvm.ptr
    %worker = llvm.mlir.addressof @worker : !llvm.ptr
    llvm.call %parallel(%worker, %block, %threads, %k0) : !llvm.ptr, (!llvm.ptr, !llvm.ptr, i32, i32) -> ()
  }} else {{
    llvm.store %n, %chunkp : i64, !llvm.ptr
    llvm.call @worker(%block) : (!llvm.ptr) -> ()
  }}
  llvm.return
}}

llvm.func internal @worker(%block: !llvm.ptr) attributes {{passthrough = ["noinline"]}} {{
  %bytesp = llvm.getelementptr %block[{scratch}] : (!llvm.ptr) -> !llvm.ptr, i64
  %bytes = llvm.load %bytesp : !llvm.ptr -> i64
  %limit = arith.constant {stack} : i64
  %zero = arith.constant 0 : i64
  %is_large = arith.cmpi ugt, %bytes, %limit : i64
  %on_stack = arith.select %is_large, %zero, %bytes : i64
  %small = llvm.alloca %on_stack x i8 {{alignment = 64 : i64}} : (i64) -> !llvm.ptr
  scf.if %is_large {{
    %large = llvm.call @kept(%bytes) : (i64) -> !llvm.ptr
    llvm.call @work(%block, %large) : (!llvm.ptr, !llvm.ptr) -> ()
  }} else {{
    llvm.call @work(%block, %small) : (!llvm.ptr, !llvm.ptr) -> ()
  }}
  llvm.return
}}

llvm.func internal @kept(%bytes: i64) -> !llvm.ptr attributes {{passthrough = ["noinline"]}} {{
  %line = arith.constant 64 : i64
  %none = arith.constant 0 : i64
  %null = llvm.mlir.zero : !llvm.ptr
  %variable = llvm.mlir.addressof @key : !llvm.ptr
  %key = llvm.load %variable : !llvm.ptr -> i32
  %old = llvm.call @pthread_getspecific(%key) : (i32) -> !llvm.ptr
  %has = llvm.icmp "ne" %old, %null : !llvm.ptr
  %size = scf.if %has -> (i64) {{
    %known = llvm.load %old : !llvm.ptr -> i64
    scf.yield %known : i64
  }} else {{
    scf.yield %none : i64
  }}
  %enough = arith.cmpi uge, %size, %bytes : i64
  %memory = scf.if %enough -> (!llvm.ptr) {{
    scf.yield %old : !llvm.ptr
  }} else {{
    llvm.call @free(%old) : (!llvm.ptr) -> ()
    %total = arith.addi %bytes, %line : i64
    %new = llvm.call @aligned_alloc(%line, %total) : (i64, i64) -> !llvm.ptr
    llvm.store %bytes, %new : i64, !llvm.ptr
    %set = llvm.call @pthread_setspecific(%key, %new) : (i32, !llvm.ptr) -> i32
    scf.yield %new : !llvm.ptr
  }}
  %scratch = llvm.getelementptr %memory[8] : (!llvm.ptr) -> !llvm.ptr, i64
  llvm.return %scratch : !llvm.ptr
}}

llvm.func internal @work(%block: !llvm.ptr, %scratch: !llvm.ptr) attributes {{passthrough = ["noinline"]}} {{
  %counterp = llvm.getelementptr %block[{counter}] : (!llvm.ptr) -> !llvm.ptr, i64
  %programp = llvm.getelementptr %block[{program}] : (!llvm.ptr) -> !llvm.ptr, i64
  %gxp = llvm.getelementptr %block[{gx}] : (!llvm.ptr) -> !llvm.ptr, i64
  %gyp = llvm.getelementptr %block[{gy}] : (!llvm.ptr) -> !llvm.ptr, i64
  %chunkp = llvm.getelementptr %block[{chunk}] : (!llvm.ptr) -> !llvm.ptr, i64
  %program = llvm.load %programp : !llvm.ptr -> !llvm.ptr
  %gx = llvm.load %gxp : !llvm.ptr -> i64
  %gy = llvm.load %gyp : !llvm.ptr -> i64
  %chunk = llvm.load %chunkp : !llvm.ptr -> i64
  %n = llvm.call @size(%block) : (!llvm.ptr) -> i64
  %zero = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  scf.while : () -> i64 {{
    %start = llvm.atomicrmw add %counterp, %chunk monotonic : !llvm.ptr, i64
    %more = arith.cmpi slt, %start, %n : i64
    scf.condition(%more) %start : i64
  }} do {{
  ^bb0(%start: i64):
    %last = arith.addi %start, %chunk : i64
    %end = arith.minsi %last, %n : i64
    %x0 = arith.remui %start, %gx : i64
    %row = arith.divui %start, %gx : i64
    %y0 = arith.remui %row, %gy : i64
    %z0 = arith.divui %row, %gy : i64
    %after:3 = scf.for %i = %start to %end step %one iter_args(%x = %x0, %y = %y0, %z = %z0) -> (i64, i64, i64) : i64 {{
      %px = arith.trunci %x : i64 to i32
      %py = arith.trunci %y : i64 to i32
      %pz = arith.trunci %z : i64 to i32
      llvm.call %program(%block, %px, %py, %pz, %scratch) : !llvm.ptr, (!llvm.ptr, i32, i32, i32, !llvm.ptr) -> ()
      %x1 = arith.addi %x, %one : i64
      %ends_row = arith.cmpi eq, %x1, %gx : i64
      %x2 = arith.select %ends_row, %zero, %x1 : i64
      %add_y = arith.extui %ends_row : i1 to i64
      %y1 = arith.addi %y, %add_y : i64
      %ends_plane = arith.cmpi eq, %y1, %gy : i64
      %y2 = arith.select %ends_plane, %zero, %y1 : i64
      %add_z = arith.extui %ends_plane : i1 to i64
      %z1 = arith.addi %z, %add_z : i64
      scf.yield %x2, %y2, %z1 : i64, i64, i64
    }}
    scf.yield
  }}
  llvm.return
}}"""
