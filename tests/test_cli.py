"""The command line: what each command prints, in a pipe and in a terminal, and how it ends."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fusedsl
from fusedsl import cli, doctor, vocabulary
from fusedsl.cli import app
from fusedsl.codegen.inspect import TARGETS
from fusedsl.ir import OPS
from fusedsl.text import parse, show
from fusedsl.workloads import WORKLOADS

ROOT = Path(__file__).parent.parent
MODEL = '''
import torch
from torch import nn

import beside
from fusedsl import fuse


@fuse
def add_norm(x, residual, weight, eps=1e-6):
    h = x + residual
    return h, h * torch.rsqrt((h * h).mean(-1, keepdim=True) + eps) * weight


def softmax(x):
    return torch.softmax(x, -1)


def apart(x):
    return torch.softmax(x / x.sum(0), -1)


def branch(x):
    return x if x.sum() > 0 else -x


def linear(x, w):
    return x @ w.mT


def several(parts):
    return parts[0] + parts[1]


class Scale(nn.Module):
    def __init__(self, n=512):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))

    def forward(self, x):
        return x * self.weight * beside.FACTOR

    @fuse
    def method(self, x):
        return x + self.weight

    @staticmethod
    def double(x):
        return x * 2


class Needs:
    def __init__(self, n):
        pass

    def method(self, x):
        return x


scale = Scale()
number = 3
'''
ADD_NORM_ARGS = "f16[B=8, 4096], f16[B, 4096], f16[4096]"
GRAPH = """\
softmax(x: f32[B, K]):
  %1 = softmax(x, dim=1) : f32[B, K]  # model.py:16  return torch.softmax(x, -1)
  return %1
"""


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "model.py").write_text(MODEL)
    (folder / "beside.py").write_text("FACTOR = 2\n")
    return str(folder / "model.py")


@pytest.fixture
def run(monkeypatch):
    """Runs a command that must end well, and gives what it prints."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def invoke(*arguments: str, ends: int = 0) -> str:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == ends, result.output
        assert "Traceback" not in result.output
        return result.stdout if ends == 0 else result.output

    return invoke


# ---- dump ------------------------------------------------------------------------------------------------------------


def test_the_graph_is_text_that_parses(run, model):
    text = run("dump", f"{model}:softmax", "--args", "f32[B=4, K=512]", "--stage", "graph")
    assert text == GRAPH
    assert show(parse(text)) == show(parse(GRAPH))


def test_the_fused_stage_shows_launches_and_kernels(run, model):
    text = run("dump", f"{model}:add_norm", "--args", ADD_NORM_ARGS, "--stage", "fused")
    assert text.startswith("add_norm: 1 launch")
    for line in ("kernel add_norm:", "axis i: grid, B", "axis k: block, 4096", "read eps: number f64", "h[i, k] = h"):
        assert line in text
    assert re.search(r"read x: f16\[B, 4096\], strides \[4096, 1\]", text)


def test_loops_and_states_are_shown(run, model):
    text = run("dump", f"{model}:softmax", "--args", "f32[4, 131072]", "--stage", "fused")
    assert "loop k, pass 1:" in text
    assert re.search(r"state \w+: f32\[i\] from -inf", text)


def test_triton_is_the_default_and_exactly_the_source(run, model):
    import torch

    text = run("dump", f"{model}:softmax", "--args", "f32[4, 512]")
    (kernel,) = fusedsl.fuse(_functions(model)["softmax"]).plan(torch.empty(4, 512, device="meta")).kernels
    assert text == kernel.source


def _functions(model: str) -> dict:
    sys.path.insert(0, str(Path(model).parent))
    try:
        names: dict = {}
        exec(compile(Path(model).read_text(), model, "exec"), names)
        return names
    finally:
        sys.path.pop(0)


@pytest.mark.parametrize(
    ("stage", "target", "says"),
    [
        ("ttir", "sm_90", "tt.func public @softmax"),
        ("ttgir", "sm_90", "#ttg.blocked"),
        ("llir", "sm_90", "define ptx_kernel void @softmax"),
        ("ptx", "sm_80", ".target sm_80"),
        ("sass", "sm_90", "EXIT"),
        ("ttgir", "gfx942", "threadsPerWarp = [1, 64]"),
        ("sass", "gfx942", "s_endpgm"),
    ],
)
def test_machine_stages(run, model, stage, target, says):
    text = run("dump", f"{model}:softmax", "--args", "f32[4, 512]", "--stage", stage, "--target", target)
    head, rest = text.split("\n", 1)
    comment = ";" if stage == "llir" else "//"
    needs = rf"{comment} softmax for {target}: \d+ registers, 0 bytes spilled, \d+ bytes of shared memory"
    assert re.fullmatch(needs, head)
    assert says in rest


@pytest.mark.parametrize(("stage", "says"), [("mlir", "llvm.func internal @kernel("), ("asm", "program:")])
def test_stages_of_the_cpu(run, model, stage, says):
    assert says in run("dump", f"{model}:softmax", "--args", "f32[4, 512]", "--stage", stage)


def test_stages_that_a_target_lacks(run, model):
    arguments = ("dump", f"{model}:softmax", "--args", "f32[4, 512]")
    assert "gfx942 has: ttir, ttgir, llir, sass, got 'ptx'" in run(
        *arguments, "--stage", "ptx", "--target", "gfx942", ends=1
    )
    assert "BadOption: stage must be one that there is" in run(*arguments, "--stage", "c", ends=1)


def test_output_goes_to_a_file(run, model, tmp_path):
    arguments = ("dump", f"{model}:apart", "--args", "f32[B=4, 512]")
    assert run(*arguments, "--output", str(tmp_path / "out")) == ""
    assert (tmp_path / "out").read_text() == run(*arguments)


@pytest.mark.parametrize("name", ["scale", "Scale", "Scale.method", "scale.method", "Scale.double", "Scale.forward"])
def test_modules_and_methods(run, model, name):
    assert ": 1 launch, " in run("explain", f"{model}:{name}", "--args", "f32[B=4, 512]")


def test_sizes_keep_their_names_in_lists(run, model):
    text = run("dump", f"{model}:several", "--args", "[f32[B=4, K=8], f32[B, K]]", "--stage", "graph")
    assert text.startswith("several(parts_0: f32[B, K], parts_1: f32[B, K]):")


def test_a_function_of_an_installed_module(run):
    assert "dyt: 1 launch" in run("explain", "fusedsl.workloads:dyt", "--args", "f32[4, N=8], f32[1], f32[N], f32[N]")


def test_packed_arguments(run, model):
    text = "f16[16, K=512], u3:g128[N=64, K]"
    assert "linear: 1 launch, 31,488 bytes" in run("explain", f"{model}:linear", "--args", text)
    for stage, says in [
        ("graph", "w_codes_main: u16[2, 3, 16, N]"), ("fused", "biased(w_codes_main, bits=3"),
        ("triton", "def linear(x_ptr, w_codes_main_ptr"), ("ptx", "lop3.b32"), ("asm", ".file"),
    ]:  # fmt: skip
        assert says in run("dump", f"{model}:linear", "--args", text, "--stage", stage)
    text = run("check-kernel", "fusedsl.cpu_kernels:gemv_kernel", "--args", "u4[8, 8]", ends=2)
    assert "packed, and a kernel takes plain tensors" in " ".join(text.split())


# ---- explain ---------------------------------------------------------------------------------------------------------


def test_explain_is_the_plan(run, model):
    text = run("explain", f"{model}:apart", "--args", "f32[4000, 512]")
    assert text.startswith("apart: 2 launches, ")
    assert "not fused: " in text


def test_a_users_mistake_is_told_with_its_line(run, model):
    text = run("explain", f"{model}:branch", "--args", "f32[4]", ends=1)
    assert text.startswith("model.py:24  return x if x.sum() > 0 else -x\nDataDependent: ")


@pytest.mark.parametrize(
    ("arguments", "ends", "says"),
    [
        (["MODEL:softmax", "--args", "f32[4"], 1, "BadText: the list of arguments does not follow the grammar at"),
        (["MODEL:softmax", "--args", "u9:g128[4]"], 1, "Integers have 1 to 8 bits"),
        (["MODEL:softmax"], 2, "does not fit softmax(x): missing a required argument: 'x'"),
        (["MODEL:softmax", "--args", "f32[4], 3"], 2, "too many positional arguments"),
        (["MODEL:softmx"], 2, "there is no softmx; close to it: softmax"),
        (["MODEL:Scale.methot"], 2, "close to it: method"),
        (["MODEL:number"], 2, "number is no function, but int"),
        (["MODEL:Needs.method"], 2, "Needs needs arguments"),
        (["nowhere.py:f"], 2, "there is no file nowhere.py"),
        (["softmax"], 2, "write FILE.py:FUNCTION"),
        (["no_such_module:f"], 2, "there is no module no_such_module"),
        (["MODEL:softmax", "--stage", "x"], 2, "--stage"),
        ([], 2, "Usage"),
    ],
)
def test_what_cannot_be_dumped(run, model, arguments, ends, says):
    text = run("dump", *(a.replace("MODEL", model) for a in arguments), ends=ends)
    assert says in " ".join(text.split())


# ---- ops, doctor, bench ----------------------------------------------------------------------------------------------


def test_ops_lists_every_op(run):
    lines = run("ops").splitlines()
    assert [line.split()[0] for line in lines] == sorted(OPS)
    (silu,) = (line for line in lines if line.startswith("silu "))
    assert silu.split(maxsplit=2) == ["silu", "composition", "x sigmoid(x)"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("exp", "Triton: tl.exp(x)"),
        ("silu", "%2 = exp(%1) : f32[M, N]"),
        ("layer_norm", "x: f32[M, N]"),
        ("indices", "iota(n="),
        ("reduce_max", "of a tile tl.reduce(x, axis, _maximum)"),
        ("add", "@declare("),
        ("gather", "kind: indexed"),
        ("clamp", "torch: torch.clip"),
    ],
)
def test_ops_says_everything_about_one(run, name, says):
    text = run("ops", name)
    assert text.startswith(f"{name}(")
    assert OPS[name].doc.splitlines()[0] in text
    assert says in text


def test_every_op_can_be_described():
    for op in OPS.values():
        assert op.doc.splitlines()[0] in vocabulary.description(op)


def test_an_op_that_is_not(run):
    assert "the name must be that of an op, got 'silo'. Close to it: silu" in run("ops", "silo", ends=1)


def test_doctor_finds_nothing_wrong_here(run):
    lines = run("doctor").splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * len(doctor.CHECKS)
    assert any("compile for gfx942: " in line for line in lines)


def test_the_targets_are_those_that_kernels_are_compiled_for():
    assert [target.value for target in cli.Target] == list(TARGETS)
    assert [check for check in doctor.CHECKS if "compile" in check] == [f"compile for {target}" for target in TARGETS]


def test_doctor_tells_what_is_broken(run, monkeypatch):
    def broken() -> str:
        raise doctor.Broken("2.0; at least 3.6 is needed")

    monkeypatch.setattr(doctor, "CHECKS", {"Python": doctor.python, "triton": broken, "nothing": lambda: str(1 / 0)})
    lines = run("doctor", ends=1).splitlines()
    assert lines[0].startswith("ok      Python: ")
    assert lines[1:] == [
        "broken  triton: 2.0; at least 3.6 is needed",
        "broken  nothing: ZeroDivisionError: division by zero",
    ]


@pytest.mark.parametrize(("version", "fine"), [("3.5.1", False), ("3.6.0", True), ("3.9.2", True), ("3.10.0", False)])
def test_doctor_knows_which_tritons_are_tested(monkeypatch, version, fine):
    import triton

    monkeypatch.setattr(triton, "__version__", version)
    monkeypatch.setattr(doctor, "CHECKS", {"triton": doctor.triton})
    assert [finding.is_fine for finding in doctor.findings()] == [fine]


def test_bench_workloads(run):
    head, *rows = run("bench", "workloads", "vector_exp", "--target", "sm_90").splitlines()
    assert head.split()[:4] == ["workload", "dtype", "launches", "bytes"]
    assert [row.split()[:4] for row in rows] == [
        ["vector_exp", dtype, "1", "1.000"] for dtype in ("float32", "float16", "bfloat16")
    ]
    assert "there is no workload no" in run("bench", "workloads", "no", ends=2)
    assert "vector_exp" in {workload.name for workload in WORKLOADS}


def test_bench_cpu(run):
    names = ("gelu", "softmax", "cross_entropy", "matmul", "attention", "gemv", "bent_attention", "decoding",
             "linear_gelu", "linear_cross_entropy", "packed_gemv", "packed_matmul", "call")  # fmt: skip
    head, *rows, calls = run("bench", "cpu", *names, "--small", "--threads", "1").splitlines()
    assert head.split()[:3] == ["row", "into", "ms"]
    assert {row.split()[0] for row in rows} == set(names) - {"call"}
    assert calls.startswith("a call on 64 elements")
    assert "there is no no" in run("bench", "cpu", "no", ends=2)


def test_bench_cpu_of_compilers(run):
    *starts, chain, attention = run("bench", "cpu", "start", "compile", "--small").splitlines()
    assert [line.split(", ")[1] for line in starts] == ["cold cache", "warm cache", "warm cache"]
    assert "TTIR" in chain and "LLVM" in attention


# ---- as a process ----------------------------------------------------------------------------------------------------


def process(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "fusedsl", *arguments], capture_output=True, **options)


def test_version():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert process("--version").stdout.decode() == f"fusedsl {settings['project']['version']}\n"


def test_a_pipe_gets_exactly_the_text(model):
    found = process("dump", f"{model}:softmax", "--args", "f32[B=4, K=512]", "--stage", "graph")
    assert (found.returncode, found.stdout.decode(), found.stderr) == (0, GRAPH, b"")


def test_messages_go_to_stderr(model):
    found = process("explain", f"{model}:branch", "--args", "f32[4]", cwd=ROOT)
    assert (found.returncode, found.stdout) == (1, b"")
    assert b"DataDependent" in found.stderr
    assert b"Traceback" not in found.stderr


def test_a_terminal_gets_colours(model):
    ours, theirs = os.openpty()
    arguments = [sys.executable, "-m", "fusedsl", "dump", f"{model}:softmax", "--args", "f32[B=4, K=512]"]
    environ = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    with subprocess.Popen(arguments, stdout=theirs, stderr=theirs, env=environ):
        os.close(theirs)
        text = _read_to_end(ours)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert plain != text
    assert "tl.store(out_ptr" in plain


def test_a_terminal_gets_tables(run, model, monkeypatch):
    monkeypatch.setattr(cli, "_is_terminal", lambda: True)
    text = run("explain", f"{model}:apart", "--args", "f32[4000, 512]")
    assert text.startswith("apart: 2 launches, ")
    assert "bytes requested" in text
    assert "apart_1: " not in text
    assert "not fused: " in text
    assert "what it computes" in run("ops")


def _read_to_end(terminal: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            part = b""
        if not part:
            os.close(terminal)
            return b"".join(parts).decode()
        parts.append(part)


def test_help_imports_nothing_heavy():
    code = "import sys, fusedsl.cli; fusedsl.cli.app(['--help'], standalone_mode=False); print(*sorted(sys.modules))"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    *shown, modules = text.splitlines()
    assert any("dump" in line for line in shown)
    assert not {"torch", "triton", "numpy", "rich"} & set(modules.split())


# ---- the package -----------------------------------------------------------------------------------------------------


def test_names_of_the_package():
    assert all(getattr(fusedsl, name) is not None for name in dir(fusedsl))
    assert {"fuse", "indices", "testing", "f16", "FuseError", "Plan", "__version__"} <= set(dir(fusedsl))
    with pytest.raises(AttributeError, match="nothing"):
        _ = fusedsl.nothing  # type: ignore[attr-defined]


def test_a_link_that_arrived_as_a_file(tmp_path):
    (tmp_path / "fusedsl").mkdir()
    (tmp_path / "fusedsl" / "__init__.py").write_text((ROOT / "fusedsl" / "__init__.py").read_text())
    (tmp_path / "fusedsl" / "ops").write_text("../ops")
    found = subprocess.run([sys.executable, "-c", "import fusedsl"], cwd=tmp_path, capture_output=True, text=True)
    assert "git config core.symlinks true && git checkout -- fusedsl/ops" in found.stderr
