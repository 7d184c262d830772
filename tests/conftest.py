"""What every test runs in: fixed random numbers, private caches, one thread a worker, and the golden files."""

import difflib
import os
import random
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

GOLDEN = Path(__file__).parent / "golden"

# `default` and `quick` try the same inputs on every run, so a failure is the change's, not the day's.
# `sweep` looks for news: FUSEDSL_SEED repeats one of its runs.
hypothesis.settings.register_profile("quick", derandomize=True, deadline=None, max_examples=10)
hypothesis.settings.register_profile("default", derandomize=True, deadline=None, max_examples=40)
hypothesis.settings.register_profile(
    "sweep", derandomize=False, deadline=None, max_examples=1000, print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)  # fmt: skip
hypothesis.settings.load_profile("default")


class TorchRandom:
    """torch's generator in the shape hypothesis wants, so that an example that failed draws the same tensors again."""

    def seed(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)

    def getstate(self) -> torch.Tensor:
        return torch.default_generator.get_state()

    def setstate(self, state: torch.Tensor) -> None:
        torch.default_generator.set_state(state)


TORCH_RANDOM = TorchRandom()  # hypothesis itself keeps only a weak reference
hypothesis.register_random(TORCH_RANDOM)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="run the golden tests only, and rewrite tests/golden")
    parser.addoption("--all", action="store_true", help="run all cases of the tests that are otherwise run by a sample")
    parser.addoption("--cpu", help="what Triton's kernels are compiled for, such as x86-64, where they run on the CPU")


@pytest.hookimpl(tryfirst=True)  # before hypothesis reads its seed, and before workers start and inherit all this
def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        torch.set_num_threads(1)  # as many workers as cores
        return
    # What an earlier state of the compiler cached would hide a change.
    caches = tempfile.TemporaryDirectory(prefix="fusedsl-tests-")
    config.add_cleanup(caches.cleanup)
    os.environ["FUSEDSL_CACHE_DIR"] = os.path.join(caches.name, "fusedsl")
    keep_machine_code(config, Path(os.environ["FUSEDSL_CACHE_DIR"], "cpu"))
    os.environ["TRITON_CACHE_DIR"] = os.path.join(caches.name, "triton")
    os.environ.setdefault("FUSEDSL_CPU_FORK", "1")  # a crash of the compiler is a test that fails
    if config.getoption("--hypothesis-profile") == "sweep":
        seed = os.environ.setdefault("FUSEDSL_SEED", str(random.SystemRandom().getrandbits(31)))
        config.option.hypothesis_seed = seed
    else:
        os.environ["FUSEDSL_SEED"] = "0"


def keep_machine_code(config: pytest.Config, folder: Path) -> None:
    """Kernels compiled for the CPU are named by all that decides their code, the compiler's own text among it. So they
    may stay from one run to the next, which takes half the time then. What no run of a week has used goes."""
    if config.pluginmanager.has_plugin("cacheprovider"):
        kept = config.rootpath / config.getini("cache_dir") / "kernels"
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.parent.mkdir()
        folder.symlink_to(kept, target_is_directory=True)
        for file in kept.iterdir():
            if time.time() - file.stat().st_atime > 7 * 86400:
                file.unlink(missing_ok=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--hypothesis-profile") == "sweep":
        terminalreporter.write_line(f"FUSEDSL_SEED={os.environ['FUSEDSL_SEED']} repeats this run")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--update-golden"):
        uses = {item: "golden" in getattr(item, "fixturenames", ()) for item in items}
        keep(config, items, [item for item in items if uses[item]])
    if not config.getoption("--all"):
        keep(config, items, [item for item in items if not item.get_closest_marker("sample") or in_sample(item.name)])


def in_sample(name: str) -> bool:
    return zlib.crc32(name.encode()) % 8 == 0


def keep(config: pytest.Config, items: list[pytest.Item], chosen: list[pytest.Item]) -> None:
    left = set(items) - set(chosen)
    config.hook.pytest_deselected(items=list(left))
    items[:] = [item for item in items if item not in left]


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Whatever ran before it on the same worker, a test draws the same tensors."""
    torch.manual_seed(int(os.environ["FUSEDSL_SEED"]))


@pytest.fixture(scope="module")
def cpu_driver(request: pytest.FixtureRequest) -> Iterator[None]:
    """Triton launches on the CPU: with the driver that a computer without a GPU has anyway."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    from fusedsl.codegen.cpu.machine import host
    from fusedsl.codegen.cpu.plugin.driver import CPUDriver
    from fusedsl.errors import UnsupportedDevice

    try:
        host()
    except UnsupportedDevice as error:
        pytest.skip(str(error))
    before, own = driver._active, CPUDriver()
    if level := request.config.getoption("--cpu"):
        own.get_current_target = lambda: GPUTarget("cpu", level, 1)
    driver.set_active(own)
    yield
    driver._active = before


class Golden:
    """Texts under tests/golden that are reviewed as code."""

    def __init__(self, update: bool):
        self.update = update

    def check(self, name: str, text: str) -> None:
        """`text` is what tests/golden/`name` holds; with --update-golden it becomes so."""
        file = GOLDEN / name
        text = text.rstrip("\n") + "\n"
        if self.update:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            return
        if not file.exists():
            pytest.fail(f"no tests/golden/{name}: run `make golden`, read what it wrote, commit it", pytrace=False)
        expected = file.read_text()
        if text != expected:
            diff = difflib.unified_diff(expected.splitlines(), text.splitlines(), f"golden/{name}", "now", lineterm="")
            advice = "If this is meant, run `make golden` and review the diff as code."
            pytest.fail("\n".join([*diff, "", advice]), pytrace=False)


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(update=bool(request.config.getoption("--update-golden")))
