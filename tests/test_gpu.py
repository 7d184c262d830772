"""On a GPU, where there is one: what the other tests show on the CPU, and what only a GPU has. `make gpu` runs them."""

from __future__ import annotations

import os
import threading

import pytest
import torch
from test_kernels import assert_means_the_same
from triton import knobs

from fusedsl import fuse
from fusedsl.comparison import is_random
from fusedsl.errors import UnsupportedDevice
from fusedsl.ir import OPS
from fusedsl.testing import assert_matches
from fusedsl.workloads import Workload, cases, swiglu
from tests.builder import Limits
from tests.strategies import NOT_DRAWN, random_case

SEED = int(os.environ.get("FUSEDSL_SEED", "0"))
GPU = torch.device("cuda", 0)
CASES = [pytest.param(w, dtype, id=f"{w.name}-{str(dtype).removeprefix('torch.')}") for w, dtype in cases()]
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


# Where rounding to halves on the way decides, as eager does and we do not.
BY_ROUNDING = {("grpo_loss", torch.float16), ("sample_top_k", torch.bfloat16)}  # 1 / exp overflows; which are the best


@pytest.mark.parametrize("small", [True, False], ids=["small", "published"])
@pytest.mark.parametrize(("workload", "dtype"), CASES)
def test_workloads(workload: Workload, dtype: torch.dtype, small: bool):
    """Against eager and float64 on the GPU, at the published shape too, where offsets and grids are large."""
    fused, args = fuse(workload.function), workload.args(dtype, "cuda", small)
    if is_random(fused, args) or (not small and (workload.name, dtype) in BY_ROUNDING):
        fused(*args)
    else:
        assert_matches(fused, args)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


@pytest.mark.parametrize("seed", range(SEED, SEED + 200))
def test_random_graphs(seed):
    case = random_case(seed, 30)
    try:
        assert_means_the_same(case)
    except AssertionError:
        pytest.skip("rounding decides, on the CPU too")
    assert_means_the_same(case, device=GPU)


@pytest.mark.parametrize("name", [name for name in OPS if name not in NOT_DRAWN])
def test_every_op(name):
    for seed in range(SEED, SEED + 2):
        assert_means_the_same(random_case(seed, 3, Limits(ops={name})), device=GPU)


# ---- the launch ------------------------------------------------------------------------------------------------------


def test_a_call_is_on_the_current_stream():
    fused, x = fuse(lambda x: torch.exp(x) + 1), torch.randn(1 << 20, device=GPU)
    wanted = torch.exp(x) + 1
    fused(x)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        found = fused(x)
        done = torch.cuda.Event()
        done.record()
    assert not done.query()  # nothing was waited for
    stream.synchronize()
    torch.testing.assert_close(found, wanted)


def test_a_cuda_graph_can_hold_it():
    fused = fuse(lambda x, w: torch.nn.functional.rms_norm(x, (x.shape[-1],), w).sum(0))
    x, w = torch.randn(300, 1000, device=GPU), torch.randn(1000, device=GPU)
    fused(x, w)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = fused(x, w)
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.testing.assert_close(out, fused(x, w), rtol=0, atol=0)


def test_addresses_may_be_aligned_anyhow():
    """Triton compiles for addresses that are multiples of 16; a view may begin elsewhere."""
    fused, memory = fuse(swiglu), torch.randn(2, 5000, device=GPU, dtype=torch.float16)
    for first, second in [(0, 0), (1, 0), (0, 3), (5, 2), (8, 16), (0, 0)]:
        gate, up = memory[0, first : first + 4096], memory[1, second : second + 4096]
        assert_matches(fused, (gate, up))


def test_threads_share_a_function():
    fused = fuse(lambda x: torch.softmax(x * 2, -1))
    xs = [torch.randn(17, n, device=GPU) for n in (100, 700, 3000, 100)]
    found: list[torch.Tensor | None] = [None] * len(xs)

    def call(at: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                found[at] = fused(xs[at])
            torch.cuda.current_stream().synchronize()

    threads = [threading.Thread(target=call, args=(at,)) for at in range(len(xs))]
    torch.cuda.synchronize()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for x, y in zip(xs, found, strict=True):
        torch.testing.assert_close(y, torch.softmax(x * 2, -1))


def test_a_function_without_tensors():
    assert fuse(lambda: torch.arange(5, device="cuda") * 2)().tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("name", ["grid", "num_warps", "num_stages", "stream", "debug", "warmup", "device"])
def test_numbers_may_be_called_as_options_of_a_launch(name):
    f = eval(f"lambda x, {name}: x * {name}")
    assert fuse(f)(torch.ones(3, device=GPU), 2.5).tolist() == [2.5] * 3


def test_f8_truths_and_nothing():
    x = torch.randn(7, 33, device=GPU)
    for f8 in (torch.float8_e4m3fn, torch.float8_e5m2):
        assert torch.equal(fuse(lambda x, f8=f8: x.to(f8))(x).view(torch.uint8), x.to(f8).view(torch.uint8))
        assert_matches(lambda x: x.float() * 2, (x.to(f8),))
    assert_matches(lambda x, t: torch.where((x > 0) == t, x, 1), (x, True))
    assert_matches(lambda x: (x * 2, x.sum(0), x.sum(1)), (x[:0],))
    assert_matches(lambda x: (x * 2, x.sum(0)), (x[:1, :1],))


def test_hooks_of_launches_are_called():
    fused, x = fuse(lambda x: x + 1), torch.randn(9, device=GPU)
    fused(x)
    seen = []
    hook = lambda metadata: seen.append(metadata.get()["name"])
    knobs.runtime.launch_enter_hook.add(hook)
    try:
        fused(x)
    finally:
        knobs.runtime.launch_enter_hook.remove(hook)
    fused(x)
    assert len(seen) == 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_a_function_runs_where_its_tensors_are():
    fused = fuse(lambda x: torch.softmax(x, -1))
    for at in (0, 1, 0):
        assert_matches(fused, (torch.randn(5, 100, device=f"cuda:{at}"),))


def test_numbers_keep_64_bits():
    x = torch.ones(5, dtype=torch.float64, device=GPU)
    assert fuse(lambda x, a: x * a)(x, 0.1).tolist() == [0.1] * 5
    assert fuse(lambda x, n: x.long() * n)(x, 2**40 + 1).tolist() == [2**40 + 1] * 5


def test_tensors_elsewhere_are_refused():
    with pytest.raises(UnsupportedDevice):
        fuse(swiglu)(torch.randn(8, device=GPU), torch.randn(8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_random_numbers_are_the_cpus(dtype):
    """One seed gives the same bits on every target, where no function rounds."""

    def draws(x):
        return torch.rand_like(x, dtype=dtype), torch.randint_like(x, 2**40, dtype=torch.int64), torch.randn_like(x)

    found = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(7)
        found[device] = fuse(draws)(torch.zeros(33, 130, device=device))
    for at, (ours, theirs) in enumerate(zip(found["cuda"], found["cpu"], strict=True)):
        close = 3e-6 if at == 2 else 0
        torch.testing.assert_close(ours.cpu(), theirs, rtol=close, atol=close)


def test_two_graphs_of_one_function_share_no_counts():
    total = fuse(lambda x: (x * x).sum())
    given = [torch.randn(1_000_000, device=GPU) for _ in range(2)]
    wanted, graphs, found = [total(x).item() for x in given], [], []
    for x in given:
        graphs.append(torch.cuda.CUDAGraph())
        with torch.cuda.graph(graphs[-1]):
            found.append(total(x))
    for graph in reversed(graphs):
        graph.replay()
    torch.cuda.synchronize()
    assert [each.item() for each in found] == wanted
