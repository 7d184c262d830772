"""The command line. Everything heavy is imported by the command that needs it, so that `--help` is quick.

In a terminal text is coloured; in a pipe it is exactly the text.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from . import __version__
from .errors import FuseError

if TYPE_CHECKING:
    from .plan import Plan
    from .stages import Call


class Commands(TyperGroup):
    """Commands whose FuseErrors are messages for the user, not tracebacks."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FuseError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip


class Stage(StrEnum):
    """What `dump` prints, from the traced graph to the machine code."""

    graph, fused, triton, ttir, ttgir, llir, ptx, sass, mlir, asm, c = (
        "graph", "fused", "triton", "ttir", "ttgir", "llir", "ptx", "sass", "mlir", "asm", "c",
    )  # fmt: skip


class Target(StrEnum):
    """A GPU to compile for; it need not be there."""

    sm_80, sm_90, sm_100, gfx942 = "sm_80", "sm_90", "sm_100", "gfx942"


LEXERS = {Stage.graph: "python", Stage.fused: "python", Stage.triton: "python", Stage.llir: "llvm", Stage.ptx: "ptx"}

Spec = Annotated[
    str, typer.Argument(metavar="FILE.py:FUNCTION", help="A function, Class.method or nn.Module; or MODULE:FUNCTION.")
]
ArgsText = Annotated[str, typer.Option("--args", help="Its arguments: 'f16[B=8, 4096], u3:g128[512, 4096], eps=1e-6'.")]
Output = Annotated[Path | None, typer.Option("--output", help="Write to this file.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fusedsl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Fuses plain torch functions into single Triton kernels, and shows what became of them."""


@app.command(no_args_is_help=True)
def dump(
    function: Spec,
    args: ArgsText = "",
    stage: Annotated[Stage, typer.Option(help="What to print.")] = Stage.triton,
    target: Annotated[Target, typer.Option(help="GPU of ttir to sass; mlir and asm are this CPU's.")] = Target.sm_90,
    output: Output = None,
) -> None:
    """Print what a call becomes, as text.

    From the traced graph over the fused kernels and their Triton source to the machine code of a GPU.
    """
    import torch

    from .stages import STAGES

    call = _call(function, args, target.value)
    with torch.no_grad():
        text = STAGES[stage.value](call)
    _emit(text, LEXERS.get(stage, "text"), output)


@app.command(no_args_is_help=True)
def explain(function: Spec, args: ArgsText = "") -> None:
    """Print the launches of a call, and why."""
    import torch

    call = _call(function, args)
    with torch.no_grad():
        plan = call.plan
    if _is_terminal():
        _explain_in_colour(plan)
    else:
        typer.echo(plan.explain())


@app.command(no_args_is_help=True)
def check_kernel(
    kernel: Annotated[str, typer.Argument(metavar="FILE.py:KERNEL", help="A `@triton.jit` kernel; or MODULE:KERNEL.")],
    grid: Annotated[str, typer.Option(help="How many programs run: 4, or 4,2,1.")] = "1",
    args: Annotated[str, typer.Option("--args", help="Its arguments: 'f32[N=100], f32[N], n=N, BLOCK=64'.")] = "",
    empty: Annotated[list[str] | None, typer.Option(help="This argument holds nothing yet. May be repeated.")] = None,
    views: Annotated[
        bool, typer.Option("--views", help="Access only an argument's elements, not what lies between them.")
    ] = False,
) -> None:
    """Run a Triton kernel in an interpreter, and print the mistakes in its accesses to memory.

    They are: out of bounds, uninitialised, races between programs, lanes that a load left undefined. The exit status is
    1 if there are any.
    """
    from triton.compiler.errors import CompilationError

    from .codegen.check import check
    from .codegen.translate import CannotInterpret

    function, extents = _kernel(kernel), _grid(grid)
    try:
        found = check(function, extents, _by_name(function, args), empty=empty or (), views=views)
    except (TypeError, ValueError, CannotInterpret, CompilationError) as error:
        if isinstance(error, FuseError):
            raise
        raise typer.BadParameter(f"{function.__name__}: {error}") from None
    for finding in found:
        typer.echo(f"{finding}\n")
    programs = extents[0] * extents[1] * extents[2]
    count = "no mistake" if not found else "1 mistake" if len(found) == 1 else f"{len(found)} mistakes"
    typer.echo(f"{function.__name__}: {count} found in {programs} program{'' if programs == 1 else 's'}")
    raise typer.Exit(1 if found else 0)


@app.command()
def ops(name: Annotated[str | None, typer.Argument(help="Everything about this op.")] = None) -> None:
    """List the ops, or print everything about one."""
    from .vocabulary import description, named, overview

    if name is not None:
        _emit(description(named(name)), "python")
    else:
        _table(("op", "kind", "what it computes"), overview())


@app.command()
def doctor() -> None:
    """Check that fusedsl works here.

    The exit status is 1 if something is broken.
    """
    from .doctor import findings

    fine = True
    for finding in findings():
        word, colour = ("ok", "green") if finding.is_fine else ("broken", "red")
        typer.echo(f"{typer.style(word.ljust(8), fg=colour)}{finding.name}: {finding.detail}")
        fine &= finding.is_fine
    raise typer.Exit(0 if fine else 1)


class Method(StrEnum):
    """How `pack` chooses scales."""

    minmax, mse = "minmax", "mse"


@app.command(no_args_is_help=True)
def pack(
    source: Annotated[Path, typer.Argument(metavar="IN", exists=True)],
    target: Annotated[Path, typer.Argument(metavar="OUT.safetensors", dir_okay=False)],
    number_format: Annotated[
        str | None,
        typer.Option("--format", help="Such as u3:g128 or mxfp4. Without it IN is a quantised checkpoint, whose codes "
                                      "stay as they are."),
    ] = None,
    axis: Annotated[int, typer.Option(help="The dimension along which groups run.")] = -1,
    only: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Of these names. May be repeated.")] = None,
    skip: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="But of these. May be repeated.")] = None,
    method: Annotated[Method, typer.Option(help="Scales by the range, or by least squares.")] = Method.minmax,
) -> None:
    """Pack the weights of a safetensors file, or of a quantised checkpoint.

    They are its float tensors of two dimensions or more; what else there is, is copied. A checkpoint is a GGUF file, or
    a safetensors file or folder of GPTQ, AWQ, MXFP4, NVFP4 or compressed-tensors. fusedsl.load_file reads the result.
    """
    from .checkpoints import convert
    from .packfile import pack_file

    options = {"axis": axis, "only": only or (), "skip": skip or (), "method": method.value}
    if not target.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no directory {target.parent}. Make it first.")
    try:
        if number_format is None:
            if axis != -1 or only or skip or method is not Method.minmax:
                raise typer.BadParameter("--axis, --only, --skip and --method go with --format")
            done = convert(source, target)
        elif source.is_dir():
            raise typer.BadParameter("with --format IN is a safetensors file")
        else:
            done = pack_file(source, target, number_format, **options, track=_tracked)
    except OSError as error:
        raise typer.BadParameter(str(error)) from None
    _table(("", "tensors"), done.rows())


def _tracked(names: list[str]) -> Iterable[str]:
    """The names, with a bar on stderr that shows how far they are, in a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(names, description="packing", console=console, transient=True, disable=not sys.stderr.isatty())


bench = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure what fusing gives.")
app.add_typer(bench, name="bench")


@bench.command()
def workloads(
    names: Annotated[list[str] | None, typer.Argument(help="Of these names only.")] = None,
    target: Annotated[list[Target], typer.Option(help="Compile for these GPUs.")] = list(Target),  # noqa: B006
) -> None:
    """Print a table of published chains.

    launches, passes: as planned at the published shape. bytes: moved, over the compulsory ones. requested: by
    the programs, over those read. A target: registers of a thread, and bytes spilled if any. counted: bytes as a small
    instance ran, over those planned for it. error: the greatest on the small instance, over eager's.
    """
    from .bench import workload_head, workload_rows

    _check_workloads(names or ())
    targets = [each.value for each in target]
    head = workload_head(targets)
    _rows(head, workload_rows(names or (), targets))


@bench.command()
def cpu(
    names: Annotated[list[str] | None, typer.Argument(help="Of these names only.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that each gets; torch's unless given.")] = None,
    small: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Print how fast the CPU target is, against torch on the same CPU.

    ms: the median of five rounds, in which both sides take turns. spread: most less least, over the median. into:
    outputs that are given or new. ratio: their time over ours. bar, stretch: the ratio that is asked for, and hoped
    for. Last: what a call, the first call of a process and a compilation take.
    """
    import torch

    from . import cpu_bench, cpu_profile

    known = (*cpu_bench.ROWS, *cpu_profile.LINES)
    for name in names or ():
        if name not in known:
            raise typer.BadParameter(f"there is no {name}; there are {', '.join(known)}")
    torch.set_num_threads(threads or torch.get_num_threads())
    races = [name for name in cpu_bench.ROWS if not names or name in names]
    if races:
        _rows(cpu_bench.HEAD, cpu_bench.rows(races, sizes=cpu_bench.SMALL if small else None))
    for name, lines in cpu_profile.LINES.items():
        if not names or name in names:
            for line in lines(64 if small else 4096):
                typer.echo(line)


def _check_workloads(names: Iterable[str], around_products: bool = False) -> None:
    from .contractions import CONTRACTIONS
    from .workloads import WORKLOADS

    known = [workload.name for workload in (*WORKLOADS, *(CONTRACTIONS if around_products else ()))]
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"there is no workload {name}; there are {', '.join(known)}")


class Float(StrEnum):
    """A dtype of the workload table."""

    f32, f16, bf16 = "f32", "f16", "bf16"


def _torch_dtypes(names: Iterable[Float]) -> list[Any]:
    from .types import dtype

    return [dtype(name.value).torch for name in names]


@bench.command()
def gpu(
    names: Annotated[list[str] | None, typer.Argument(help="Of these workloads only.")] = None,
    dtype: Annotated[list[Float], typer.Option(help="In these dtypes.")] = [Float.bf16],  # noqa: B006
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="Beside torch.compile, too.")] = True,
) -> None:
    """Print how fast the published chains, and those around products, are on this computer's GPU.

    us: the device's time for a call, the median of three rounds in which contenders take turns. of copy: the time of a
    copy that moves as many bytes as must move, over that. eager, compile: their time over ours. launches: ours and
    torch.compile's. Before them: what a small call costs the host.
    """
    import torch

    from . import gpu_bench

    _check_workloads(names or (), around_products=True)
    if not torch.cuda.is_available():
        raise typer.BadParameter("there is no GPU here; `fusedsl bench workloads` and `peers` need none")
    for line in gpu_bench.host_lines(compiled):  # first: once a profiler has counted launches, each takes longer
        typer.echo(line)
    _rows(gpu_bench.HEAD, gpu_bench.rows(names or (), _torch_dtypes(dtype), compiled))


class Peer(StrEnum):
    """Whose kernels ours are compared with."""

    inductor, liger = "inductor", "liger"


class PeerTarget(StrEnum):
    """A GPU whose machine code can be followed."""

    sm_80, sm_90 = "sm_80", "sm_90"


@bench.command()
def peers(
    names: Annotated[list[str] | None, typer.Argument(help="Of these names only.")] = None,
    target: Annotated[list[PeerTarget], typer.Option(help="Compile for these GPUs.")] = list(PeerTarget),  # noqa: B006
    peer: Annotated[list[Peer], typer.Option(help="Compare with these.")] = list(Peer),  # noqa: B006
) -> None:
    """Print what our kernels need beside torch Inductor's and Liger's, without a GPU.

    launches: of Triton kernels, and of torch's own ops beside them. MB: each distinct byte of a launch. registers: of
    a thread, and bytes spilled if any. tile: bytes that a program holds of a tensor. instructions: executed for each
    element. over peer: ours over the better peer's; ~ where tiles are more than twice apart. docs/peers.md says more.
    """
    from .peers.chains import CHAINS
    from .peers.table import peers_head, peers_rows

    for name in names or ():
        if name not in CHAINS:
            raise typer.BadParameter(f"there is no chain {name}; there are {', '.join(CHAINS)}")
    _rows(peers_head(), peers_rows(names or (), [each.value for each in target], [each.value for each in peer]))


@bench.command()
def inductor(
    names: Annotated[list[str] | None, typer.Argument(help="Of these workloads only.")] = None,
    dtype: Annotated[list[Float], typer.Option(help="In these dtypes.")] = [Float.f32, Float.bf16],  # noqa: B006
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that each gets; torch's unless given.")] = None,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="Beside its C++ kernels, too.")] = True,
    small: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Print how fast our kernels are on the CPU beside torch Inductor's.

    Triton: those that it generates for a GPU, run on the CPU as ours are, each in the fastest of the configurations
    that it lists; first listed: in the first, where that is another. C++: those that it generates for the CPU. ms: the
    median of five rounds, in which all take turns and write into tensors that are there. ratio: their time over ours.
    spread: of the ratios of the rounds, most less least, over the median.
    """
    import torch

    from .peers import cpu_table

    for name in names or ():
        if name not in cpu_table.CHAINS:
            raise typer.BadParameter(f"there is no chain {name}; there are {', '.join(cpu_table.CHAINS)}")
    torch.set_num_threads(threads or torch.get_num_threads())
    _rows(cpu_table.HEAD, cpu_table.rows(names or (), _torch_dtypes(dtype), compiled, small))


# ---- what a user names -----------------------------------------------------------------------------------------------


def _call(spec: str, text: str, target: str = "sm_90") -> Call:
    """The call of FILE.py:FUNCTION with these arguments, on tensors without memory; it is fused if it is not yet."""
    from torch.nn import Module

    from .api import Fused
    from .arguments import meta, parse
    from .stages import Call

    arguments = parse(text)
    function = _function(spec)
    function = function.function if isinstance(function, Fused) else function
    signature = inspect.signature(function.forward if isinstance(function, Module) else function)
    try:
        names = arguments.size_names(signature)
    except TypeError as error:
        name = spec.rpartition(":")[2]
        raise typer.BadParameter(f"--args {text!r} does not fit {name}{signature}: {error}") from None
    return Call(Fused(function, names), *meta(arguments), target)


def _function(spec: str) -> Any:
    """The function that FILE.py:FUNCTION or MODULE:FUNCTION names."""
    value = _value(spec)
    if not callable(value):
        raise typer.BadParameter(f"{spec.rpartition(':')[2]} is no function, but {type(value).__name__}")
    return value


def _value(spec: str) -> Any:
    path, colon, name = spec.rpartition(":")
    if not colon or not name:
        raise typer.BadParameter(f"write FILE.py:FUNCTION, got {spec}")
    sys.path.insert(0, str(Path.cwd()))
    return _member(_file(Path(path)) if path.endswith(".py") else _module(path), name)


def _kernel(spec: str) -> Any:
    """The kernel that FILE.py:KERNEL names, without the decorators around it."""
    from triton.runtime.jit import JITFunction

    value = found = _value(spec)
    while not isinstance(value, JITFunction) and hasattr(value, "fn"):  # triton.autotune, triton.heuristics
        value = value.fn
    if not isinstance(value, JITFunction):
        raise typer.BadParameter(f"{spec.rpartition(':')[2]} is no @triton.jit kernel, but {type(found).__name__}")
    return value


def _grid(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) > 3 or not all(part.strip().isdecimal() for part in parts):
        raise typer.BadParameter(f"a grid is one to three numbers such as 4,2,1, got {text}")
    x, y, z = [*map(int, parts), 1, 1][:3]
    return x, y, z


def _by_name(kernel: Any, text: str) -> dict[str, Any]:
    """Arguments as text, by the kernel's names of them."""
    from .arguments import materialise, parse
    from .packed import Packed

    args, kwargs = materialise(parse(text))
    if len(args) > len(kernel.arg_names):
        names = ", ".join(kernel.arg_names)
        raise typer.BadParameter(f"{kernel.__name__} takes {names}; got {len(args)} arguments without a name")
    positional = dict(zip(kernel.arg_names, args, strict=False))
    if twice := positional.keys() & kwargs.keys():
        raise typer.BadParameter(f"--args gives {', '.join(sorted(twice))} twice")
    found = positional | kwargs
    if packed := [name for name, value in found.items() if isinstance(value, Packed)]:
        raise typer.BadParameter(f"{packed[0]} is packed, and a kernel takes plain tensors; give it codes and scales")
    return found


def _module(name: str) -> ModuleType:
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        raise typer.BadParameter(f"there is no module {name}; write FILE.py:FUNCTION for one in a file")
    return importlib.import_module(name)


def _file(file: Path) -> ModuleType:
    """A user's file, run as Python runs a script: what lies beside it can be imported."""
    taken = file.stem in sys.modules or file.stem in sys.stdlib_module_names
    name = f"{file.stem}_" if taken else file.stem
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    if spec is None or spec.loader is None or not file.is_file():
        raise typer.BadParameter(f"there is no file {file}")
    sys.path.insert(0, str(file.resolve().parent))
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _member(module: ModuleType, path: str) -> Any:
    """What `path` names in a module. A class stands for an instance of it where one is needed."""
    value: Any = module
    for part in path.split("."):
        if not hasattr(value, part):
            close = ", ".join(difflib.get_close_matches(part, dir(value), n=3))
            raise typer.BadParameter(f"there is no {part}" + (f"; close to it: {close}" if close else ""))
        if isinstance(value, type) and not isinstance(inspect.getattr_static(value, part), (staticmethod, classmethod)):
            value = _instance(value)
        value = getattr(value, part)
    return _instance(value) if isinstance(value, type) else value


def _instance(kind: type) -> Any:
    try:
        return kind()
    except TypeError as error:
        hint = f"make one in the file, model = {kind.__name__}(...), and name that"
        raise typer.BadParameter(f"{kind.__name__} needs arguments ({error}): {hint}") from None


# ---- printing --------------------------------------------------------------------------------------------------------


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _emit(text: str, lexer: str, output: Path | None = None) -> None:
    """Text to a file, to a pipe as it is, or coloured to a terminal."""
    if output is not None:
        output.write_text(text, encoding="utf-8")
    elif _is_terminal():
        from rich.console import Console
        from rich.syntax import Syntax

        Console().print(Syntax("", lexer, theme="ansi_dark").highlight(text), soft_wrap=True, end="")
    else:
        sys.stdout.write(text)


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows under titles as wide as what stands in them, each as soon as it is there."""
    for row in itertools.chain([head], rows):
        typer.echo("  ".join(cell.ljust(len(title)) for cell, title in zip(row, head, strict=True)).rstrip())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns: aligned text in a pipe, a table in a terminal."""
    rows = list(rows)
    if _is_terminal():
        from rich.console import Console
        from rich.table import Table

        table = Table(*head, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head) - 1)]
    for row in rows:
        typer.echo("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))


def _explain_in_colour(plan: Plan) -> None:
    """The kernels as a table, under and over the rest of the plan's own text."""
    title, *rest = plan.explain().splitlines()
    rows = [
        (
            k.name, f"{k.grid[0]:,}", str(k.passes), f"{sum(k.reads.values()):,}", f"{sum(k.writes.values()):,}",
            f"{sum(k.requested.values()):,}",
        )
        for k in plan.kernels
    ]  # fmt: skip
    typer.echo(title)
    _table(("kernel", "programs", "passes", "bytes read", "bytes written", "bytes requested"), rows)
    listed = tuple(f"{k.name}:" for k in plan.kernels)
    for line in rest:
        if not line.strip().startswith(listed):
            typer.echo(line.strip())
