"""The rules about the whole: who may import whom, what ships, and what no file may say."""

import ast
import fnmatch
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

# A module imports only from rows above its own. A row ending in .* is a package, free inside, but without cycles.
# Rows may stand here before their file exists; a file without a row fails.
ORDER = [
    "fusedsl.errors",
    "fusedsl.options",
    "fusedsl.index",
    "fusedsl.types",
    "fusedsl.formats",
    "fusedsl.packing",
    "fusedsl.quantise",
    "fusedsl.parts",
    "fusedsl.packed",
    "fusedsl.packfile",
    "fusedsl.gguf_blocks",
    "fusedsl.checkpoints",
    "fusedsl.ir",
    "fusedsl.rewrite",
    "fusedsl.ops.*",
    "fusedsl.text",
    "fusedsl.interpret",
    "fusedsl.sizes",
    "fusedsl.numbers",
    "fusedsl.reader",
    "fusedsl.capture",
    "fusedsl.nested",
    "fusedsl.notes",
    "fusedsl.inputs",
    "fusedsl.dispatch",
    "fusedsl.proxy",
    "fusedsl.session",
    "fusedsl.results",
    "fusedsl.packed_inputs",
    "fusedsl.trace",
    "fusedsl.grad",
    "fusedsl.scalar",
    "fusedsl.algebra",
    "fusedsl.separate",
    "fusedsl.kernel",
    "fusedsl.layout",
    "fusedsl.lower",
    "fusedsl.levels",
    "fusedsl.state",
    "fusedsl.products",
    "fusedsl.terms",
    "fusedsl.roles",
    "fusedsl.ranges",
    "fusedsl.splits",
    "fusedsl.wholes",
    "fusedsl.halves",
    "fusedsl.eights",
    "fusedsl.statements",
    "fusedsl.schedule",
    "fusedsl.cost",
    "fusedsl.passes.*",
    "fusedsl.pipeline",
    "fusedsl.codegen.*",
    "fusedsl.runtime",
    "fusedsl.calls",
    "fusedsl.plan",
    "fusedsl.api",
    "fusedsl.kivi",
    "fusedsl.comparison",
    "fusedsl.arguments",
    "fusedsl.fuzz",
    "fusedsl.testing",
    "fusedsl.workloads",
    "fusedsl.contractions",
    "fusedsl.stages",
    "fusedsl.vocabulary",
    "fusedsl.doctor",
    "fusedsl.bench",
    "fusedsl.cpu_kernels",
    "fusedsl.cpu_bench",
    "fusedsl.cpu_profile",
    "fusedsl.gpu_bench",
    "fusedsl.peers.*",
    "fusedsl",
    "fusedsl.cli",
    "fusedsl.__main__",
]

# What no text file of the repository may say, and why. A pattern must not match itself.
BANNED = {
    "a path of one machine": r"(?<![\w.)\]}*~-])/(?:work|tmp|root|home)(?![\w-])",
}

ROOT = Path(__file__).parent.parent
LINKS = ("ops", "codegen")  # real folders at the top, imported as fusedsl.ops and fusedsl.codegen
FOLDERS = {"fusedsl": ROOT / "fusedsl"} | {f"fusedsl.{link}": ROOT / link for link in LINKS}


def modules_in(folder: Path, name: str) -> dict[str, Path]:
    """The modules in a folder by their import names; rglob does not follow links."""
    files = {".".join((name, *file.relative_to(folder).with_suffix("").parts)): file for file in folder.rglob("*.py")}
    return {module.removesuffix(".__init__"): file for module, file in files.items()}


MODULES = {module: file for name, folder in FOLDERS.items() for module, file in modules_in(folder, name).items()}


def row(module: str) -> int | None:
    """The place of a module's row in ORDER."""
    for place, name in enumerate(ORDER):
        package = name.removesuffix(".*")
        if module == package or (package != name and module.startswith(package + ".")):
            return place
    return None


def import_nodes(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports of a file, those inside functions too. A type annotation may look down, running code may not."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for branch in node.orelse:
                yield from import_nodes(branch)
        else:
            yield from import_nodes(node)


def imported_names(module: str, file: Path) -> Iterator[tuple[str, int]]:
    """The dotted names a file imports, `from a import b` as a.b, with the line."""
    for node in import_nodes(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
            continue
        base = [node.module] if node.module else []
        if node.level:
            package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
            base = package[: len(package) - node.level + 1] + base
        yield from ((".".join([*base, alias.name]), node.lineno) for alias in node.names)


def imports(module: str) -> Iterator[tuple[str, int]]:
    """The modules of ours that a module imports: of fusedsl.types.DType, fusedsl.types."""
    for name, line in imported_names(module, MODULES[module]):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        if name:
            yield name, line


def test_every_module_has_a_row():
    missing = [module for module in MODULES if row(module) is None]
    assert not missing, f"add to ORDER in this file: {', '.join(missing)}"


def test_imports_point_up():
    wrong = [
        f"{MODULES[module].relative_to(ROOT)}:{line}: {module} imports {other}, which stands below it"
        for module in MODULES
        for other, line in imports(module)
        if (row(module) or 0) < (row(other) or 0)
    ]
    assert not wrong, "\n".join([*wrong, "Move the code up, or change ORDER in this file and say why."])


def test_no_import_cycles():
    graph = nx.DiGraph((module, other) for module in MODULES for other, _ in imports(module))
    cycles = [" <-> ".join(sorted(group)) for group in nx.strongly_connected_components(graph) if len(group) > 1]
    assert not cycles, "\n".join(cycles)


@pytest.mark.parametrize("link", LINKS)
def test_links_are_links(link):
    assert os.readlink(ROOT / "fusedsl" / link) == f"../{link}"


def test_nobody_imports_the_folders_by_their_bare_names():
    users = modules_in(ROOT / "tests", "tests") | modules_in(ROOT / "examples", "examples")
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: write fusedsl.{name}"
        for module, file in (MODULES | users).items()
        for name, line in imported_names(module, file)
        if name.split(".")[0] in LINKS
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("link", LINKS)
def test_a_bare_import_raises(link):
    # The root is on sys.path here, as beside a user's script. A second copy would declare every op twice.
    with pytest.raises(ImportError, match=rf"fusedsl\.{link}"):
        importlib.import_module(link)


def test_a_copied_checkout_works_without_an_install(tmp_path):
    for folder in ("fusedsl", *LINKS):
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import fusedsl, fusedsl.ops, fusedsl.codegen; print(*fusedsl.ops.__path__, *fusedsl.codegen.__path__)"
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(tmp_path / "fusedsl" / link) for link in LINKS]


def test_every_file_ships():
    """The lists in pyproject.toml are explicit, so a new folder or data file has to be added to them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    data = settings["package-data"]
    missing = []
    for name, folder in FOLDERS.items():
        for file in folder.rglob("*"):
            if file.is_symlink() or file.is_dir() or file.suffix == ".pyc":
                continue
            package = ".".join((name, *file.relative_to(folder).parent.parts))
            patterns = ["*.py", *data.get(package, []), *data.get("*", [])]
            if package not in settings["packages"] or not any(fnmatch.fnmatch(file.name, each) for each in patterns):
                missing.append(str(file.relative_to(ROOT)))
    assert not missing, f"add to packages or package-data in pyproject.toml: {', '.join(missing)}"


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [file for file in map(ROOT.joinpath, filter(None, names)) if file.is_file() and not file.is_symlink()]


def test_no_file_says_what_is_banned():
    wrong = []
    for file in tracked_files():
        try:
            text = file.read_text()
        except UnicodeDecodeError:
            continue
        for reason, pattern in BANNED.items():
            for match in re.finditer(pattern, text):
                line = text.count("\n", 0, match.start()) + 1
                wrong.append(f"{file.relative_to(ROOT)}:{line}: {match[0]!r} is {reason}")
    assert not wrong, "\n".join(wrong)
