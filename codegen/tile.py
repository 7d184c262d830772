"""Tile sizes and warps of a kernel, from its axes: analytic, deterministic, no search.

A thread should hold 8 to 32 elements: enough for 16-byte accesses of any width, few enough not to spill; where an op
is long, such as a Bessel function, one. Of resident rows it holds 16, or loads some 100 bytes: with fewer, more threads
than need be take part in each reduction; with more, their registers leave a processor half empty. A loop's tile is for
16 warps, so that few programs share a processor: the rows that are under way at once should stay in the caches until
the next pass reads them. docs/gpu.md has the measurements. What depends on a batch size is left out on purpose: a new
batch must not compile a new kernel. Only a loop that stands in another takes a tile of its extent's magnitude.

On a CPU a tile is walked in pieces that fit registers, and a thread takes many programs at once. So tiles there are as
large as a cache likes: whole rows that are loaded and stored from end to end, and accumulators that stay near.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from fusedsl.index import evaluate
from fusedsl.kernel import Assign, Axis, Kernel, Loop, Statement, Store, flatten, needs_mask, padded
from fusedsl.options import CPU_TARGETS
from fusedsl.roles import RESIDENT, ROWS

Made = TypeVar("Made")

PER_THREAD, WARP, MOST_WARPS = 8, 32, 16
ROW_PER_THREAD, ROW_LOADS = 16, 96  # of resident rows; and about how many bytes of them and what they share
STEP_PER_THREAD = 4  # of a loop's tile that is loaded step by step
FEW_PER_THREAD, FEW_WARPS = 1, 8  # where an op is long; more warps would leave each thread fewer registers
LONG = 200  # statements in a row, of which many values live at once
CHAIN, ROW, LOOP, COLUMNS = 1024, 2048, 4096, 64  # elements: of a chain, a tile of rows, a loop's tile; columns at once
MOST = 16384  # elements of a program's tile
MOST_ROWS = 4  # for what they share
PROCESSORS, REGISTERS = 132, 65536  # of a GPU; of a processor
INTERPRETED = 2**16  # the interpreter's cost is per program, so its tiles are large
CPU_CHAIN, CPU_ROW, CPU_LOOP = 8192, 512, 512  # elements, as above
CPU_LINE, CPU_LINES = 16, 8  # elements of a cache line; of the lines that are walked across, so many at once
CPU_NARROW, CPU_WIDE, CPU_COLUMNS = 32, 256, 1024  # columns at once: where they are few, at least of many, at most
DOT, ACCUMULATED, LEAST_DEPTH = 128, 16384, 16  # rows and columns of a product; elements of all accumulators
MOST_PARTS = 128  # of a loop that programs share, put together at once
FEW_COLUMNS = 64  # of a product of at most ROWS rows
LIGHT = 3  # statements beside the loops of a product, and those that compute its operands
CPU_DOT, CPU_DEPTH = 256, 2048  # of a product; elements of a tile that a matrix times a vector takes in a round
PARTS = 8  # products into one accumulator in a round: their operands, which are computed, need registers as well
CPU_PROGRAMS = 8  # to share neighbouring columns among


@dataclass(frozen=True)
class Config:
    """Tile sizes by the name of their constexpr, and how many warps run a program. maxnreg: registers that a thread may
    take, None as ptxas likes. loops: the tiles of loops over products, grid: those of their rows and columns, each with
    how short it may be."""

    tiles: tuple[tuple[str, int], ...]
    num_warps: int
    num_stages: int = 1
    maxnreg: int | None = field(default=None, repr=False)
    loops: tuple[tuple[str, int], ...] = field(default=(), repr=False)
    grid: tuple[tuple[str, int], ...] = field(default=(), repr=False)

    def __getitem__(self, name: str) -> int:
        return dict(self.tiles)[name]

    @property
    def options(self) -> dict[str, int]:
        """As Triton takes them."""
        given = {"num_warps": self.num_warps, "num_stages": self.num_stages, "maxnreg": self.maxnreg}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def roomier(self) -> Config | None:
        """With more registers for what a thread holds: shorter loops over products, as many registers as let two
        programs share a processor, then more warps for products, then fewer rows or columns. None if that is so."""
        shorter = self._halved(name for name, least in self.loops if self[name] > least)
        if shorter is not None:
            return shorter
        most = min(255, REGISTERS // (2 * WARP * self.num_warps))
        if self.maxnreg is None and (most == 255 or not self.loops):
            return replace(self, maxnreg=most)
        if self.loops and self.num_warps < MOST_WARPS:
            return replace(self, num_warps=2 * self.num_warps, maxnreg=None)
        longest = max((name for name, least in self.grid if self[name] > least), key=self.__getitem__, default=None)
        return self._halved([longest] if longest is not None else [])

    def _halved(self, names: Iterable[str]) -> Config | None:
        """With these tiles half as long, None if there are none."""
        names = set(names)
        tiles = tuple((name, size // 2 if name in names else size) for name, size in self.tiles)
        return replace(self, tiles=tiles) if names else None


def without_spills(
    compiled: Callable[[Config], tuple[Made, int]], config: Config, target: str, too_large: type[Exception]
) -> tuple[Made, Config]:
    """What compiling gives beside the spills, and the configuration that it is for. ptxas spills a few registers, now
    and then, to let three programs share a processor, and loses more than it gains: then it is told that two will do.
    too_large: what compiling raises for a kernel that takes more memory than a program can have, which then loads fewer
    rounds ahead."""
    while True:
        try:
            made, spills = compiled(config)
        except too_large:
            fewer = replace(config, num_stages=config.num_stages - 1) if config.num_stages > 1 else config.roomier
            if fewer is None:
                raise
            config = fewer
            continue
        roomier = config.roomier if spills and (config.loops or target.startswith("sm")) else None
        if roomier is None:
            return made, config
        config = roomier


def choose(kernel: Kernel, sizes: Mapping[str, int], target: str = "sm_90") -> Config:
    """The tile sizes for a launch of these sizes."""
    scale = INTERPRETED // CHAIN if target == "interpret" else 1
    cheap = scale > 1 or (_longest(kernel.body) < LONG and all(_is_cheap(s) for s in kernel.statements()))
    tiles = {a.tile: a.resident for a in kernel.axes if a.role == "block"}
    grid = [a for a in kernel.axes if a.role == "grid"]
    loops = [a for a in kernel.axes if a.role == "loop"]
    inner = _beside_loops(kernel, tiles) if loops else math.prod(tiles.values())
    if kernel.contracts:
        return _product(kernel, sizes, target)
    if target == "cpu":
        if tiles or loops:
            _cpu_reduction(kernel, grid, loops, inner, sizes, tiles)
        else:
            _cpu_chain(kernel, grid, sizes, tiles)
        return Config(tuple(tiles.items()), 1)
    held, most = (PER_THREAD, MOST_WARPS) if cheap else (FEW_PER_THREAD, FEW_WARPS)
    fewer = PER_THREAD // held
    if tiles or loops:
        _reduction(kernel, grid, loops, inner, sizes, scale, tiles, ROW // fewer, LOOP // fewer * most // MOST_WARPS)
    else:
        _chain(kernel, grid, sizes, scale, tiles, CHAIN // fewer)
    total = 1
    for n in tiles.values():
        total *= n
    if len(loops) > 1:  # of several loops only one is open at a time
        total //= min(tiles[a.tile] for a in loops) ** (len(loops) - 1)
    lanes = 2 * WARP if target.startswith("gfx") else WARP
    is_masked = any(a.role == "block" and needs_mask(a) for a in kernel.axes)
    if cheap and kernel.is_resident and not (is_masked and target.startswith("gfx")):  # a mask takes scalar registers
        total, held = max(total, _loaded(kernel, tiles) * ROW_PER_THREAD // ROW_LOADS), ROW_PER_THREAD
    elif cheap and _has_steps(kernel):
        held = STEP_PER_THREAD
    warps = max(1, min(most * WARP // lanes, _floor_power(total // (held * lanes))))
    return Config(tuple(tiles.items()), warps)


def with_parts(config: Config, kernel: Kernel, target: str) -> Config:
    """The tiles of a kernel whose loop programs share, of those that it has else: those of the loop that puts the parts
    together hold as many at once as registers allow, and a GPU's products of f32 have fewer rows beside that."""
    assert kernel.last is not None
    if not kernel.is_half and target not in CPU_TARGETS:
        rows = {a.tile for a in kernel.axes if a.role == "grid" and kernel.contracts}
        tiles = ((name, min(size, DOT // 2) if name in rows else size) for name, size in config.tiles)
        config = replace(config, tiles=tuple(tiles))
    config = replace(config, grid=())  # the size of what parts are kept in depends on these
    extent, body = kernel.last.split.extent, list(flatten(kernel.last.body))
    axis = next(s.axis for s in body if isinstance(s, Loop) and s.axis.extent == extent)
    tiles = dict(config.tiles)
    loads = [s for s in body if isinstance(s, Assign) and axis.variable in s.axes]
    held = max(math.prod(tiles[a.tile] for a in kernel.tiled(s.axes) if a is not axis) for s in loads)
    return replace(config, tiles=(*config.tiles, (axis.tile, max(1, min(MOST_PARTS, LOOP // held)))))


def _product(kernel: Kernel, sizes: Mapping[str, int], target: str) -> Config:
    """A kernel of contractions: rows and columns as many as the accumulators may take registers, fewer where there are
    not so many, and a loop as deep as keeps the products busy. A CPU's tile fills a core's cache instead.

    A Hopper takes 256 columns where little is done with a product (0.93 of cuBLAS; 0.74 to 0.86 with 128), not where
    its epilogue needs registers too."""
    on_cpu, is_new = target in CPU_TARGETS, target in ("sm_90", "sm_100")
    tiles = {a.tile: a.resident for a in kernel.axes if a.role == "block"}
    grid = [a for a in kernel.axes if a.role == "grid"]
    loops = [a for a in kernel.axes if a.role == "loop"]
    sums = [s for s in kernel.states if len(kernel.tiled(s.axes)) > 1]
    wide = max((math.prod(tiles.get(a.tile, 1) for a in kernel.tiled(s.axes)) for s in sums), default=1)
    is_light = is_new and len(sums) == 1 and sum(not isinstance(s, Loop) for s in kernel.body) <= LIGHT
    inside = flatten([s for s in kernel.body if isinstance(s, Loop)])
    is_light = is_light and sum(map(_is_computed, inside)) <= LIGHT
    in_parts = not on_cpu and len(kernel.products) >= PARTS * max(1, len(sums))
    is_light = is_light and not in_parts and not kernel.is_scaled
    most = (ACCUMULATED // 2 if in_parts else ACCUMULATED) * (2 if is_new and len(grid) > 1 else 1) // max(1, len(sums))
    if kernel.is_scaled:  # two sums at once, of many parts, beside whole groups
        most //= 2 * (2 if in_parts else 1) * (2 if tiles else 1)
    rows, columns, depth = DOT, 2 * DOT if is_light else DOT, 64 if kernel.is_half else 32
    if kernel.is_scaled and is_new:  # whose products want 64 rows
        rows = columns = DOT // 2
    if any(evaluate(a.extent, sizes) <= ROWS for a in grid):  # what is read of the other operand takes the time
        columns = FEW_COLUMNS
    if on_cpu:
        most, rows, columns, depth = CPU_DOT * CPU_DOT, CPU_DOT, CPU_DOT, CPU_DOT
    if not kernel.products:
        depth = max(16, (CPU_DEPTH if on_cpu else LOOP) // max(tiles.values(), default=1))
    for axis in reversed(grid):
        side = columns if len(grid) > 1 and axis is grid[-1] else rows
        room = max(axis.least, _floor_power(most // wide))
        tiles[axis.tile] = max(axis.least, min(side, room, _bucket(evaluate(axis.extent, sizes))))
        wide *= tiles[axis.tile]
    summed = {axis for p in kernel.products for axis in p["axes"]}
    for axis in loops:  # one that no product sums over is as good as a grid's
        n, most = axis.extent, depth if axis.variable in summed or not kernel.products else max(depth, DOT)
        tiles[axis.tile] = max(axis.least, min(most, padded(n))) if isinstance(n, int) else most
    if on_cpu:
        return Config(tuple(tiles.items()), 1)
    wide = max(wide, *(math.prod(tiles[a.tile] for a in kernel.tiled(p.free)) for p in kernel.products), 0)
    warps = 8 if wide >= 8192 and not target.startswith("gfx") else 4
    stages = 3 if kernel.is_half and target.startswith("sm") else 2
    depths = tuple((a.tile, max(a.least, LEAST_DEPTH)) for a in loops)
    return Config(tuple(tiles.items()), warps, stages, loops=depths, grid=tuple((a.tile, a.least) for a in grid))


def _bucket(n: int) -> int:
    """A tile for so many rows, of few sizes: another batch is seldom another kernel."""
    return 16 if n <= 16 else 64 if n <= 64 else 1 << 30


def _beside_loops(kernel: Kernel, resident: Mapping[str, int]) -> int:
    """The elements of whole axes in the largest tile that a loop moves."""
    moving = [s.axes for s in kernel.statements() if isinstance(s, (Assign, Store))] + [s.axes for s in kernel.states]
    tiles = [kernel.tiled(axes) for axes in moving]
    walked = [tile for tile in tiles if any(a.role == "loop" for a in tile)]
    return max((math.prod(resident.get(a.tile, 1) for a in tile) for tile in walked), default=1)


def _has_steps(kernel: Kernel) -> bool:
    """Whether loops stand in a loop over an axis without a tile: each of its steps starts anew."""
    return any(a.role == "step" for a in kernel.axes)


def _longest(body: Sequence[Statement]) -> int:
    """The most statements of a body, those of its loops apart."""
    return max(sum(not isinstance(s, Loop) for s in body), *(_longest(s.body) for s in body if isinstance(s, Loop)), 0)


def _is_computed(statement: Statement) -> bool:
    return isinstance(statement, Assign) and statement.value.kind != "load"


def _is_scan(statement: Statement) -> bool:
    return isinstance(statement, Assign) and statement.value.kind == "scan"


def _is_cheap(statement: Statement) -> bool:
    return not isinstance(statement, Assign) or statement.value.op is None or statement.value.op.cheap


def _reduction(
    kernel: Kernel,
    grid: list[Axis],
    loops: list[Axis],
    inner: int,
    sizes: Mapping[str, int],
    scale: int,
    tiles: dict[str, int],
    row: int,
    loop: int,
) -> None:
    columns = [a for a in grid if a in kernel.split]
    for axis in grid:
        if axis in columns:
            tiles[axis.tile] = max(1, _columns(axis, inner, sizes, scale))
        else:
            least = _rows_to_share(kernel, axis, inner)
            tiles[axis.tile] = max(least, _floor_power(row * scale // (inner * (loop if loops else 1))))
    lanes = 1
    for axis in columns:
        lanes *= tiles[axis.tile]
    held = 2 if columns and any(_is_scan(s) for s in kernel.statements()) else 1  # a scan's sums, beside its tile
    most = loop * min(scale, 8) // (lanes * inner * held)
    for axis in loops:  # a tile of it may hold whole resident rows
        tile = max(16 if inner == 1 else 1, most)
        known = isinstance(axis.extent, int) or _has_steps(kernel)
        tiles[axis.tile] = min(tile, padded(evaluate(axis.extent, sizes))) if known else tile


def _columns(axis: Axis, inner: int, sizes: Mapping[str, int], scale: int) -> int:
    """Neighbouring columns that a program reduces: at least a sector's worth, fewer where columns are few."""
    fill = _floor_power(evaluate(axis.extent, sizes) // PROCESSORS)
    most = _floor_power(MOST * min(scale, 16) // inner)
    return min(most, max(16, min(COLUMNS, fill)) * scale)


def _chain(
    kernel: Kernel, grid: list[Axis], sizes: Mapping[str, int], scale: int, tiles: dict[str, int], chain: int
) -> None:
    """Pointwise: the contiguous axes first, then rows, so that what rows share is loaded once for several."""
    lanes = [a for a in grid if a in kernel.split] or grid[-1:]
    rest = [a for a in grid if a not in lanes]
    total = chain * scale * (2 if rest else 1)
    room = total
    for axis in lanes:
        share = {1: room, 2: 32}.get(len(lanes), 16) if len(lanes) > 1 or not rest else total // 4
        tiles[axis.tile] = min(share, max(16, padded(evaluate(axis.extent, sizes)))) if len(grid) > 1 else share
        room = max(1, room // tiles[axis.tile])
    for axis in rest:
        most = 64 if scale == 1 else padded(evaluate(axis.extent, sizes))  # interpreted, an empty lane costs time
        tiles[axis.tile] = max(1, min(room, most))
        room = max(1, room // tiles[axis.tile])


def _cpu_reduction(
    kernel: Kernel, grid: list[Axis], loops: list[Axis], inner: int, sizes: Mapping[str, int], tiles: dict[str, int]
) -> None:
    short = [a for a in loops if isinstance(a.extent, int) and padded(a.extent) <= RESIDENT]
    for axis in short:  # in one round
        tiles[axis.tile] = padded(axis.extent)
        inner *= tiles[axis.tile]
    loops = [a for a in loops if a not in short]
    lanes = 1
    for axis in grid:
        if axis in kernel.split:
            tiles[axis.tile] = _cpu_columns(evaluate(axis.extent, sizes), inner * lanes)
            lanes *= tiles[axis.tile]
        else:
            least = _rows_to_share(kernel, axis, inner)
            tiles[axis.tile] = max(least, CPU_ROW // (inner * (CPU_LOOP if loops else 1)))
    for axis in loops:
        tiles[axis.tile] = max(1, (2 * CPU_LOOP if lanes > 1 else CPU_LOOP) // (lanes * inner))


def _cpu_columns(extent: int, inner: int) -> int:
    """Few or very many: memory is walked across, and in between what it fetches ahead is never used."""
    fill = _floor_power(extent // CPU_PROGRAMS)
    wanted = min(CPU_COLUMNS, fill) if fill >= CPU_WIDE else CPU_NARROW
    return max(1, min(wanted, _floor_power(MOST // inner)))


def _cpu_chain(kernel: Kernel, grid: list[Axis], sizes: Mapping[str, int], tiles: dict[str, int]) -> None:
    """Pointwise: whole rows; where tensors are contiguous along different axes, a line of one by some of others."""
    lanes = [a for a in grid if a in kernel.split] or grid[-1:]
    room = CPU_CHAIN if len(grid) == 1 or len(lanes) > 1 else CPU_CHAIN // 2
    for axis in reversed(lanes):
        extent = evaluate(axis.extent, sizes)
        whole = _floor_power(extent) if extent > CPU_LINE else CPU_LINE
        share = {1: room, 2: CPU_LINE if axis is lanes[-1] else CPU_LINE * CPU_LINES}.get(len(lanes), CPU_LINE)
        tiles[axis.tile] = share if len(grid) == 1 else min(share, whole)
        room = max(1, room // tiles[axis.tile])
    room = max(room, CPU_LINES)  # rows that share what does not vary among them
    for axis in reversed([a for a in grid if a not in lanes]):
        tiles[axis.tile] = min(room, padded(evaluate(axis.extent, sizes)), CPU_WIDE)
        room = max(1, room // tiles[axis.tile])


def _rows_to_share(kernel: Kernel, axis: Axis, inner: int) -> int:
    """Rows a program takes so that what they share is not most of what it loads, as far as registers allow."""
    shared = own = 0
    for load in _loads(kernel):
        each = kernel.buffer(load.value["tensor"]).dtype.bits
        for other in kernel.tiled(load.axes):
            each *= padded(other.extent) if other.role == "block" else LOOP if other.role == "loop" else 1
        if axis.variable in load.axes:
            own += each
        elif kernel.tiled(load.axes):
            shared += each
    rows = 1
    while rows < MOST_ROWS and rows * own < shared and 2 * rows * inner <= MOST:
        rows *= 2
    return rows


def _loaded(kernel: Kernel, tiles: Mapping[str, int]) -> int:
    """Bytes that a program loads."""
    return sum(
        math.prod(tiles[a.tile] for a in kernel.tiled(load.axes)) * kernel.buffer(load.value["tensor"]).dtype.bits // 8
        for load in _loads(kernel)
    )


def _loads(kernel: Kernel) -> list[Assign]:
    return [s for s in kernel.statements() if isinstance(s, Assign) and s.value.kind == "load"]


def _floor_power(n: int) -> int:
    return 1 << (n.bit_length() - 1) if n > 0 else 1
