"""The docs do what they say: their code runs, what it prints stands below it, and what they name exists.

The blocks of a document are run in order, in one namespace, by the words after their fence:

    ```python           is run. A first line `# model.py` makes it that file, in kernels' comments and for sh
    ```python raises    must raise; its output is the error
    ```python no-run    is only shown
    ```sh               of its lines those that start with `fusedsl` are run, beside the files
    ```text output      what the block before it printed; a line of three dots stands for any lines
    ```python output    the same, coloured as Python

`make golden` rewrites the outputs that have no line of dots.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import linecache
import pkgutil
import re
import shlex
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fusedsl import FuseError, dispatch, ir, ops  # noqa: F401  (ops fills the registries)
from fusedsl.cli import app
from tests.test_architecture import MODULES, ROOT, row

DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WORDS = {"raises", "no-run", "output"}
DOTS = "..."

each_doc = pytest.mark.parametrize("doc", DOCS, ids=lambda doc: str(doc.relative_to(ROOT)))


@dataclass(frozen=True)
class Block:
    """A fenced block. span: of its text in the document."""

    doc: Path
    row: int
    language: str
    words: tuple[str, ...]
    text: str
    span: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.doc.relative_to(ROOT)}:{self.row}"


FENCE = re.compile(r"^```(\w+)([^\n`]*)\n(.*?)^```$", re.M | re.S)


def blocks(doc: Path) -> Iterator[Block]:
    page = doc.read_text()
    found = list(FENCE.finditer(page))
    assert 2 * len(found) == page.count("```"), f"{doc.name}: write fences at the start of a line, with a language"
    for each in found:
        row = page.count("\n", 0, each.start()) + 1
        block = Block(doc, row, each[1], tuple(each[2].split()), each[3], each.span(3))
        assert WORDS.issuperset(block.words), f"{block}: the words are {', '.join(sorted(WORDS))}"
        yield block


# ---- running ---------------------------------------------------------------------------------------------------------


class Reader:
    """Does what a document says. files: where its blocks are files, and commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, folder / "files"
        self.files.mkdir()
        self.namespace: dict[str, Any] = {"__name__": "docs"}

    def run(self, block: Block) -> str:
        """What the block prints."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if block.language == "sh":
                self._commands(block)
            else:
                self._code(block)
        return printed.getvalue()

    def _code(self, block: Block) -> None:
        try:
            exec(compile(block.text, self._file(block), "exec"), self.namespace)
        except Exception as error:
            if "raises" not in block.words:
                error.add_note(f"in the block at {block}")
                raise
            print(error if isinstance(error, FuseError) else "".join(traceback.format_exception_only(error)))
            return
        assert "raises" not in block.words, f"{block}: nothing is raised"

    def _file(self, block: Block) -> str:
        """The name that the code has in errors and comments, under which its lines are found."""
        head = re.match(r"# (\w+\.py)\n", block.text)
        if head is None:
            name = f"<block {block.row}>"
            linecache.cache[name] = (len(block.text), None, block.text.splitlines(True), name)
            return name
        (self.files / head[1]).write_text(block.text)
        place = self.folder / str(block.row) / head[1]  # a file of this name may come again, with other lines
        place.parent.mkdir()
        place.write_text(block.text)
        return str(place)

    def _commands(self, block: Block) -> None:
        for line in block.text.replace("\\\n", " ").splitlines():
            if line.startswith("fusedsl "):
                result = CliRunner().invoke(app, shlex.split(line)[1:])
                print(result.output, end="")
                assert bool(result.exit_code) == ("raises" in block.words), f"{block}: {line}\n{result.output}"


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """Whatever a document declares or imports is forgotten afterwards."""
    reader = Reader(tmp_path)
    monkeypatch.chdir(reader.files)
    monkeypatch.setattr(sys, "path", list(sys.path))
    registries: list[tuple[dict, dict]] = [(registry, dict(registry)) for registry in (ir.OPS, ir.SPELLINGS)]
    yield reader
    for registry, before in registries:
        registry.clear()
        registry.update(before)
    dispatch._table.cache_clear()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def agrees(printed: str, shown: str) -> bool:
    """Whether the text shown is the one printed, where lines of dots stand for any lines."""
    parts = [re.escape(part) for part in re.split(rf"^[ ]*{re.escape(DOTS)}\n", clean(shown), flags=re.M)]
    return re.fullmatch(r"(?:[^\n]*\n)*?".join(parts), clean(printed)) is not None


def clean(text: str) -> str:
    """Without what nobody sees: spaces at ends of lines, blank lines at the end."""
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"


@each_doc
def test_blocks_run_and_print_what_is_shown(doc: Path, reader: Reader, golden) -> None:
    page, shift, printed = doc.read_text(), 0, None
    for block in blocks(doc):
        if "output" in block.words:
            assert printed is not None, f"{block}: the block before it is not run"
            if not agrees(printed, block.text):
                if not golden.update or DOTS in map(str.strip, block.text.splitlines()):
                    pytest.fail(mismatch(block, printed), pytrace=False)
                start, end = (at + shift for at in block.span)
                page, shift = page[:start] + clean(printed) + page[end:], shift + len(clean(printed)) - (end - start)
            printed = None
        elif block.language in ("python", "sh") and "no-run" not in block.words:
            printed = reader.run(block)
        else:
            printed = None
    if golden.update:
        doc.write_text(page)


@pytest.mark.parametrize(
    ("shown", "fits"),
    [("a\nb\nc\n", True), ("a\n...\nc\n", True), ("...\nc\n", True), ("a\n    ...\n", True), ("a\n...\nb\nc\n", True),
     ("a\nc\n", False), ("...\nb\n", False), ("a\n...\nx\n...\n", False), ("", False)],
)  # fmt: skip
def test_lines_of_dots_stand_for_any_lines(shown: str, fits: bool) -> None:
    assert agrees("a\nb\nc\n", shown) is fits


def mismatch(block: Block, printed: str) -> str:
    shown, now = block.text.splitlines(), clean(printed).splitlines()
    diff = difflib.unified_diff(shown, now, str(block), "printed", lineterm="")
    return "\n".join([*diff, "", "If this is meant, run `make golden`, or edit an output with dots by hand."])


# ---- what a document names -------------------------------------------------------------------------------------------

def prose(doc: Path) -> str:
    return FENCE.sub("", doc.read_text())


def anchors(doc: Path) -> set[str]:
    """The names of a page's headings in links."""
    heads = re.findall(r"^#+ (.*)$", prose(doc), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@each_doc
def test_links_lead_somewhere(doc: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(doc)):
        path, _, anchor = target.partition("#")
        page = doc.parent / path if path else doc
        if "://" not in target and not (page.exists() and (not anchor or anchor in anchors(page))):
            dead.append(target)
    assert not dead, f"{doc.relative_to(ROOT)} links to {', '.join(dead)}"


@each_doc
def test_what_a_document_names_exists(doc: Path) -> None:
    text = prose(doc)
    missing = [path for path in re.findall(r"`((?:fusedsl|ops|codegen|examples|tests|docs)/[\w./*-]*)`", text)
               if not list(ROOT.glob(path))]  # fmt: skip
    for name in re.findall(r"`(fusedsl(?:\.\w+)+)", text):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            missing.append(name)
    assert not missing, f"{doc.relative_to(ROOT)} names {', '.join(missing)}"


def test_the_table_of_modules_is_whole_and_in_order() -> None:
    modules = {str(file.relative_to(ROOT)): module for module, file in MODULES.items() if file.name[0] != "_"}
    table = re.findall(r"^\| `([\w/]+\.py)` \|", (ROOT / "docs" / "architecture.md").read_text(), re.M)
    assert sorted(table) == sorted(modules), "docs/architecture.md has a row for every module, and for no other"
    assert table == sorted(table, key=lambda name: row(modules[name]) or 0), "keep the order of test_architecture.py"
