"""What `fusedsl bench cpu` measures: kernels on this computer's CPU, beside what torch does for the same result.

Times depend on the computer and on what else runs on it; ratios less so, since contenders take turns call by call. A
call writes into tensors that are there (`into given`) or into new ones (`into new`), where page faults can take longer
than the work. Five rounds give a median and a spread, the greatest less the least over the median.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from . import contractions, workloads
from . import cpu_kernels as kernels
from .api import Fused, fuse
from .calls import kernel_for
from .errors import BadOption
from .packed import pack

Call = Callable[[], Any]

ROUNDS, SECONDS, CALLS = 5, 0.25, 200  # of a row; of a round, at least one call each; at most in a round
MIB = 1 << 20
HALVES = {torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Sizes:
    """Of what is measured, and the seconds of a round."""

    chain: int = 16 * MIB
    width: int = 4096  # of square matrices
    classes: int = 32000
    matmul: tuple[int, ...] = (512, 1024, 2048)
    lengths: tuple[int, ...] = (1024, 4096)  # of sequences
    keys: int = 8192  # of a decoded one
    rows: tuple[int, ...] = (2048, 576, 49152)  # of a linear layer's cross-entropy: rows, features, classes
    seconds: float = SECONDS
    compiled: bool = True  # against torch.compile, too


SMALL = Sizes(3000, 128, 500, (128,), (128,), 300, (40, 64, 500), 0.0, compiled=False)


@dataclass(frozen=True)
class Rival:
    """Something that gives the same result, and how many times faster than it we want to be, at least and at best."""

    name: str
    call: Call
    bar: float | None = None
    stretch: float | None = None


@dataclass(frozen=True)
class Race:
    """One row: our call and its rivals'."""

    name: str
    way: str  # given or new: the tensors that are written
    ours: Call
    rivals: tuple[Rival, ...]


@dataclass(frozen=True)
class Timing:
    """Seconds of a call by round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def spread(self) -> float:
        return (max(self.rounds) - min(self.rounds)) / self.median


def take_turns(calls: Sequence[Call], rounds: int = ROUNDS, seconds: float = SECONDS) -> list[Timing]:
    """The times of calls that take turns. On one thread it is CPU time, which other processes disturb less."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    for call in calls:
        call()
        call()
    once = sum(_seconds(call, clock) for call in calls)
    turns = max(1, min(CALLS, int(seconds / max(once, 1e-7))))
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        times = [[_seconds(call, clock) for call in calls] for _ in range(turns)]
        for at, each in enumerate(zip(*times, strict=True)):
            found[at].append(median(each))
    return [Timing(tuple(each)) for each in found]


def _seconds(call: Call, clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start


# ---- the table -------------------------------------------------------------------------------------------------------

HEAD = ["row              ", "into ", "ms      ", "spread", "against          ", "ms      ", "spread", "ratio", "bar ",
        "stretch", "reached"]  # fmt: skip


def rows(names: Sequence[str] = (), rounds: int = ROUNDS, sizes: Sizes | None = None) -> Iterator[list[str]]:
    """A line for each rival in each race (of the rows of these names, all if none), as soon as it is measured.

    ratio: their time over ours, the median over the rounds. Raises BadOption for a name that is not in ROWS."""
    for name in names:
        if name not in ROWS:
            raise BadOption(name="row", rule=f"one of {', '.join(ROWS)}", got=repr(name))
    sizes = sizes or Sizes()
    for name, make in ROWS.items():
        if not names or name in names:
            with torch.no_grad():
                for race in make(sizes):
                    yield from _lines(race, rounds, sizes.seconds)


def _lines(race: Race, rounds: int, seconds: float) -> Iterator[list[str]]:
    ours, *theirs = take_turns([race.ours, *(rival.call for rival in race.rivals)], rounds, seconds)
    for rival, timing in zip(race.rivals, theirs, strict=True):
        ratio = median(b / a for a, b in zip(ours.rounds, timing.rounds, strict=True))
        yield [race.name, race.way, *_cells(ours), rival.name, *_cells(timing), f"{ratio:.2f}", _bar(rival.bar),
               _bar(rival.stretch), _verdict(ratio, rival)]  # fmt: skip


def _cells(timing: Timing) -> list[str]:
    return [f"{timing.median * 1e3:.3f}", f"{timing.spread:.0%}"]


def _verdict(ratio: float, rival: Rival) -> str:
    if rival.stretch is not None and ratio >= rival.stretch:
        return "stretch"
    return "" if rival.bar is None else "met" if ratio >= rival.bar else "missed"


def _bar(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


# ---- contenders ------------------------------------------------------------------------------------------------------


def run_into(fused: Fused, args: Sequence[Any], outputs: Sequence[torch.Tensor]) -> Call:
    """A call of a fused function that writes into these tensors, laid out as it would lay out its own."""
    plan = fused.plan(*args)
    graph = plan.program.graph
    memory = dict(zip(graph.inputs, fused._entry(tuple(args), {})[2].values, strict=True))
    memory.update(zip(graph.outputs, outputs, strict=True))
    for node in plan.scratch:
        memory[node] = torch.empty(plan.shape_of(node), dtype=node.dtype.torch)
    for node in plan.arrivals:
        memory[node] = torch.zeros(plan.shape_of(node), dtype=node.dtype.torch)
    launches = []
    for at, step in enumerate(plan.steps):
        values = [memory[p.buffer.node] if p.buffer is not None and p.kind != "stride" else plan.fixed[at][p.name]
                  for p in step.parameters if p.kind != "tile"]  # fmt: skip
        launches.append((kernel_for(plan, at), values, plan.grids[at]))

    def call() -> None:
        for kernel, values, grid in launches:
            kernel(values, grid)

    return call


def compiled(sizes: Sizes, function: Callable[..., Any], *args: Any, **bars: float) -> list[Rival]:
    """torch.compile's call, compiled; nothing where it finds no C++ compiler."""
    if not sizes.compiled or not (shutil.which("g++") or shutil.which("clang++")):
        return []
    fast = torch.compile(function, dynamic=False)
    return [Rival("torch.compile", lambda: fast(*args), **bars)]


def copying(function: Callable[..., Any]) -> Callable[..., None]:
    """The function into given tensors; torch.compile fuses the copies into its kernels."""

    def into(outputs: Sequence[torch.Tensor], *args: Any) -> None:
        results = function(*args)
        for output, result in zip(outputs, results if isinstance(results, tuple) else (results,), strict=True):
            output.copy_(result)

    return into


@dataclass(frozen=True)
class Chain:
    """A fused function in a race: with tensors of its results' shapes, for itself and for its rivals."""

    function: Callable[..., Any]
    args: tuple[Any, ...]

    @property
    def fused(self) -> Fused:
        return fuse(self.function)

    def outputs(self) -> list[torch.Tensor]:
        """Tensors like the results, in memory that has been touched."""
        plan = self.fused.plan(*self.args)
        dtypes = [node.dtype.torch for node in plan.program.graph.outputs]
        return [torch.zeros(shape, dtype=dtype) for shape, dtype in zip(plan.output_shapes, dtypes, strict=True)]

    def given(self, name: str, *rivals: Rival) -> Race:
        return Race(name, "given", run_into(self.fused, self.args, self.outputs()), rivals)

    def new(self, name: str, *rivals: Rival) -> Race:
        fused = self.fused
        return Race(name, "new", lambda: fused(*self.args), rivals)

    def compiled_given(self, sizes: Sizes, **bars: float) -> list[Rival]:
        return compiled(sizes, copying(self.function), self.outputs(), *self.args, **bars)

    def compiled_new(self, sizes: Sizes, **bars: float) -> list[Rival]:
        return compiled(sizes, self.function, *self.args, **bars)

    def eager_new(self, **bars: float) -> Rival:
        return Rival("eager", lambda: self.function(*self.args), **bars)

    def halves(self, name: str) -> Iterator[Race]:
        """The same in half precision, which should take no longer than in full."""
        whole = run_into(self.fused, self.args, self.outputs())
        for dtype, short in HALVES.items():
            args = tuple(x.to(dtype) if x.is_floating_point() else x for x in self.args)
            yield Chain(self.function, args).given(f"{name} {short}", Rival("ours in fp32", whole, bar=1.0))


# ---- rows ------------------------------------------------------------------------------------------------------------


def _gelu_function(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh")


def _gelu_chain(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> None:
    """What eager can do for the formula written out, in tensors that are there."""
    torch.mul(x, x, out=t)
    t.mul_(x)
    torch.add(x, t, alpha=0.044715, out=t)
    t.mul_((2 / torch.pi) ** 0.5).tanh_().add_(1)
    torch.mul(x, t, out=y)
    y.mul_(0.5)


def gelu(sizes: Sizes) -> Iterator[Race]:
    x = torch.randn(sizes.chain)
    chain, y, t = Chain(_gelu_function, (x,)), torch.zeros_like(x), torch.zeros_like(x)
    yield chain.given(
        "gelu",
        Rival("gelu(out=)", lambda: torch._C._nn.gelu(x, approximate="tanh", out=y), bar=3.0),  # type: ignore[attr-defined]
        Rival("8 ops out=", lambda: _gelu_chain(x, t, y), bar=3.0),
        *chain.compiled_given(sizes, bar=1.3),
        Rival("copy_", lambda: y.copy_(x), stretch=1 / 1.7),
    )
    yield chain.new("gelu", chain.eager_new(), *chain.compiled_new(sizes, bar=1.3))
    yield from chain.halves("gelu")


def _matrix(sizes: Sizes) -> torch.Tensor:
    return torch.randn(sizes.width, sizes.width)


def rms_norm(sizes: Sizes) -> Iterator[Race]:
    yield from _norm(sizes, "rms_norm", Chain(workloads.rms_norm, (_matrix(sizes), torch.randn(sizes.width))))


def add_rms_norm(sizes: Sizes) -> Iterator[Race]:
    args = _matrix(sizes), _matrix(sizes), torch.randn(sizes.width)
    yield from _norm(sizes, "add_rms_norm", Chain(workloads.add_rms_norm, args))


def _norm(sizes: Sizes, name: str, chain: Chain) -> Iterator[Race]:
    yield chain.given(name, *chain.compiled_given(sizes, bar=0.95, stretch=1.1))
    yield chain.new(name, chain.eager_new(), *chain.compiled_new(sizes, bar=0.95, stretch=1.1))
    yield from chain.halves(name)


def softmax(sizes: Sizes) -> Iterator[Race]:
    x = _matrix(sizes)
    chain, y = Chain(workloads.softmax, (x,)), torch.zeros_like(x)
    eager = Rival("softmax(out=)", lambda: torch.softmax(x, -1, out=y), bar=0.95, stretch=1.1)
    yield chain.given("softmax", eager, *chain.compiled_given(sizes))
    yield chain.new("softmax", chain.eager_new(bar=0.95, stretch=1.1), *chain.compiled_new(sizes))
    yield from chain.halves("softmax")


def layer_norm(sizes: Sizes) -> Iterator[Race]:
    x, weight, bias = _matrix(sizes), torch.randn(sizes.width), torch.randn(sizes.width)
    chain, y = Chain(workloads.layer_norm, (x, weight, bias)), torch.zeros_like(x)
    mean, scale = torch.zeros(2, sizes.width, 1)
    out = {"out0": y, "out1": mean, "out2": scale}
    function = torch.ops.aten.native_layer_norm.out
    eager = Rival("layer_norm(out=)", lambda: function(x, (sizes.width,), weight, bias, 1e-5, **out), bar=1.5)
    yield chain.given("layer_norm", eager, *chain.compiled_given(sizes))
    yield chain.new("layer_norm", chain.eager_new(bar=1.5), *chain.compiled_new(sizes))
    yield from chain.halves("layer_norm")


def cross_entropy(sizes: Sizes) -> Iterator[Race]:
    logits, target = torch.randn(sizes.width, sizes.classes), torch.randint(sizes.classes, (sizes.width,))
    chain = Chain(workloads.cross_entropy, (logits, target))
    y, logs = torch.zeros(sizes.width), torch.zeros_like(logits)

    def eager() -> None:
        torch.log_softmax(logits, -1, out=logs)
        torch._C._nn.nll_loss(logs, target, None, 0, -100, out=y)  # type: ignore[attr-defined]

    yield chain.given("cross_entropy", Rival("2 ops out=", eager, bar=1.5), *chain.compiled_given(sizes))
    yield chain.new("cross_entropy", chain.eager_new(bar=1.5), *chain.compiled_new(sizes))
    yield from chain.halves("cross_entropy")


def matmul(sizes: Sizes) -> Iterator[Race]:
    for size in sizes.matmul:
        yield from _matmul(size)


def _matmul(size: int) -> Iterator[Race]:
    a, b = torch.randn(2, size, size)
    c, d = torch.zeros(2, size, size)
    theirs = Rival("torch.mm(out=)", lambda: torch.mm(a, b, out=d), bar=0.9, stretch=1.0)
    yield Race(f"matmul {size}", "given", lambda: kernels.matmul(a, b, c), (theirs,))
    for name, dtype, sums, bar in (
        ("bf16", torch.bfloat16, torch.float32, 0.9), ("int8", torch.int8, torch.int32, 1.0)
    ):  # fmt: skip
        ours = functools.partial(kernels.matmul, (a * 8).to(dtype), (b * 8).to(dtype), c.to(sums))
        floats = Rival("ours in fp32", lambda: kernels.matmul(a, b, c), bar=bar)
        yield Race(f"matmul {size} {name}", "given", ours, (floats,))


def attention(sizes: Sizes) -> Iterator[Race]:
    for length in sizes.lengths:
        yield from _attention(length)


def _attention(length: int) -> Iterator[Race]:
    q, k, v = torch.randn(3, 1, 8, length, 64)
    out = torch.zeros_like(q)
    theirs = Rival("sdpa, new", lambda: F.scaled_dot_product_attention(q, k, v), bar=1.0, stretch=1.1)
    yield Race(f"attention {length}", "given", lambda: kernels.attention(q, k, v, out), (theirs,))

    def ours() -> None:
        kernels.attention(q, k, v, torch.empty_like(q))

    yield Race(f"attention {length}", "new", ours, (theirs,))


def gemv(sizes: Sizes) -> Iterator[Race]:
    weights, x, y = _matrix(sizes), torch.randn(sizes.width), torch.zeros(sizes.width)
    words, scale = kernels.quantize(weights)
    halves, half, out = weights.bfloat16(), x.bfloat16(), torch.zeros(sizes.width, dtype=torch.bfloat16)
    theirs = Rival("mv(out=) in bf16", lambda: torch.mv(halves, half, out=out), bar=1.4, stretch=1.8)
    yield Race("gemv of 4 bits", "given", lambda: kernels.gemv(words, scale, x, y), (theirs,))


def fused_attention(sizes: Sizes) -> Iterator[Race]:
    """Plain torch under @fuse, beside torch's own kernel."""
    for length in sizes.lengths:
        q, k, v = torch.randn(3, 1, 8, length, 64)
        for function in (contractions.attention, contractions.causal_attention):
            causal = function is contractions.causal_attention
            call = functools.partial(F.scaled_dot_product_attention, q, k, v, is_causal=causal)
            yield Chain(function, (q, k, v)).new(f"{function.__name__} {length}", Rival("sdpa", call, 0.95, 1.1))


def bent_attention(sizes: Sizes) -> Iterator[Race]:
    length = sizes.lengths[-1]
    chain = Chain(contractions.bent_attention, (*torch.randn(3, 1, 8, length, 64), 2.0 ** -torch.arange(1, 9)))
    rivals = [chain.eager_new(bar=3.0), *chain.compiled_new(sizes, bar=1.5), *_flex_attention(sizes, *chain.args)]
    yield chain.new(f"bent_attention {length}", *rivals)


def _flex_attention(
    sizes: Sizes, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slopes: torch.Tensor
) -> list[Rival]:
    """torch's FlexAttention with the same scores and mask."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def bent(score: Any, batch: Any, head: Any, i: Any, j: Any) -> Any:
        return torch.tanh(score / contractions.CAP) * contractions.CAP - slopes[head] * (i - j)

    def near(batch: Any, head: Any, i: Any, j: Any) -> Any:
        return (j <= i) & (i - j < contractions.WINDOW)

    length = q.shape[-2]
    mask = create_block_mask(near, None, None, length, length, device="cpu") if sizes.compiled else None
    rivals = compiled(sizes, lambda q, k, v: flex_attention(q, k, v, bent, mask), q, k, v, bar=1.5)
    return [Rival("FlexAttention", rival.call, rival.bar) for rival in rivals]


def decoding(sizes: Sizes) -> Iterator[Race]:
    args = torch.randn(4, 8, 1, 64), torch.randn(4, 8, sizes.keys, 64), torch.randn(4, 8, sizes.keys, 64)
    for dtype in (torch.float32, torch.bfloat16):
        chain = Chain(contractions.attention, tuple(x.to(dtype) for x in args))
        yield chain.new(f"decoding {HALVES.get(dtype, 'fp32')}", chain.eager_new(bar=1.1))


def linear_gelu(sizes: Sizes) -> Iterator[Race]:
    n = sizes.matmul[len(sizes.matmul) // 2]
    chain = Chain(contractions.linear_gelu, (*torch.randn(2, n, n), torch.randn(n), torch.randn(n, n)))
    yield chain.new(f"linear_gelu {n}", chain.eager_new(), *chain.compiled_new(sizes, bar=0.9, stretch=1.0))


def linear_cross_entropy(sizes: Sizes) -> Iterator[Race]:
    rows, features, classes = sizes.rows
    x, w, target = torch.randn(rows, features), torch.randn(classes, features) / 20, torch.randint(classes, (rows,))
    for dtype in (torch.float32, torch.bfloat16):
        chain = Chain(contractions.linear_cross_entropy, (x.to(dtype), w.to(dtype), target))
        yield chain.new(f"linear_cross_entropy {HALVES.get(dtype, 'fp32')}", chain.eager_new())


def _linear(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x @ w.mT


GEMV_BARS: dict[int, tuple[float, float | None]] = {2: (1.6, 2.5), 3: (1.6, 2.5), 4: (1.5, 2.0), 6: (1.2, None),
                                                    8: (1.0, None)}  # fmt: skip


def packed_gemv(sizes: Sizes) -> Iterator[Race]:
    """A row times packed weights, beside torch's product with what they stand for."""
    weights, x = _matrix(sizes).bfloat16(), torch.randn(1, sizes.width, dtype=torch.bfloat16)
    for bits, (bar, stretch) in GEMV_BARS.items():
        packed = pack(weights, f"u{bits}:g128:bf16")
        mv = functools.partial(torch.mv, packed.unpack(), x[0], out=torch.zeros_like(x[0]))
        yield Chain(_linear, (x, packed)).given(f"packed_gemv {bits}", Rival("mv(out=) in bf16", mv, bar, stretch))


def packed_matmul(sizes: Sizes) -> Iterator[Race]:
    """The same of 16 rows in fp32."""
    packed, x = pack(_matrix(sizes), "u4:g128"), torch.randn(16, sizes.width)
    mm = functools.partial(torch.mm, x, packed.unpack().mT, out=torch.zeros_like(x))
    yield Chain(_linear, (x, packed)).given("packed_matmul 4", Rival("mm(out=) in fp32", mm, bar=0.8))


ROWS: dict[str, Callable[[Sizes], Iterator[Race]]] = {
    row.__name__: row
    for row in (
        gelu, rms_norm, add_rms_norm, softmax, layer_norm, cross_entropy, matmul, attention, gemv,
        fused_attention, bent_attention, decoding, linear_gelu, linear_cross_entropy, packed_gemv, packed_matmul,
    )
}  # fmt: skip
