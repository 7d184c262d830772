"""The CPU target on flag_gems' kernels as they are: pointwise ones by its code generator, reductions and norms."""

# Ops of a package that need not be there have no types.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.cpu_packages import FLOATS, assert_near, exact, tuned_once

if torch.cuda.is_available():
    pytest.skip("flag_gems looks for a GPU and would run on it", allow_module_level=True)
for package in ("flag_gems", "sqlalchemy"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}", allow_module_level=True)


pytestmark = [
    pytest.mark.sample,
    pytest.mark.filterwarnings("ignore:Logical operators 'and' and 'or' are deprecated"),
    pytest.mark.filterwarnings("ignore:warmup, rep, and use_cuda_graph parameters are deprecated"),
    pytest.mark.filterwarnings("ignore:tl.where with a non-boolean condition is deprecated"),
    pytest.mark.filterwarnings("ignore:Warning only once for all operators"),
]


# ---- loading ---------------------------------------------------------------------------------------------------------


class Device:
    """What flag_gems asks of the module of a device, such as torch.cuda, answered for this CPU. `torch.cpu` itself
    lacks half of it, and its devices are not numbered."""

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def is_available(self) -> bool:
        return False  # nothing is asked of its architecture then

    def get_device_name(self, device: Any = None) -> str:
        return "cpu"

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        return (0, 0)

    def get_device_properties(self, device: Any = None) -> SimpleNamespace:
        return SimpleNamespace(multi_processor_count=torch.get_num_threads(), L2_cache_size=1 << 20)

    def device(self, device: Any) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


@contextlib.contextmanager
def told_of_the_cpu(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[Any]:
    """flag_gems' ops. Its import stops where it detects no device, so the detection is told of one: GEMS_VENDOR is
    flag_gems' own way to choose, and here the description of that vendor names the CPU. Kernels, the code that
    generates them and that launches them are as they were installed."""
    patch.setenv("GEMS_VENDOR", "nvidia")
    patch.setenv("FLAGGEMS_CACHE_DIR", str(folder))
    spec = importlib.util.find_spec("flag_gems")
    assert spec is not None and spec.submodule_search_locations
    patch.syspath_prepend(str(Path(spec.submodule_search_locations[0], "runtime", "backend")))
    vendor = importlib.import_module("_nvidia").vendor_info
    vendor.device_name = "cpu"
    vendor.triton_extra_name = "cuda"  # whose libdevice has the names that Triton's own knows, too
    device = Device()
    with pytest.MonkeyPatch.context() as meanwhile:
        meanwhile.setattr(torch, "cpu", device)
        ops = importlib.import_module("flag_gems.ops")
    # Some heuristics for tiles ask torch.cuda itself.
    patch.setattr(torch.cuda, "current_device", device.current_device)
    patch.setattr(torch.cuda, "get_device_properties", device.get_device_properties)
    # A later launch gives a kernel its constants from 3.3 on; flag_gems 5.0.2 knows Triton up to 3.6.
    patch.setattr(sys.modules["flag_gems.utils.libentry"], "minor_version", 6)
    # Triton 3.9 has no block pointers. Some vendors' kernels are generated without them, and so are these.
    config = sys.modules["flag_gems.utils.codegen_config_utils"].get_codegen_config()
    patch.setattr(config, "prefer_block_pointer", False)
    yield ops


@pytest.fixture(scope="module")
def gems(cpu_driver, tmp_path_factory):
    with tuned_once() as patch, told_of_the_cpu(patch, tmp_path_factory.mktemp("flag_gems")) as ops:
        yield ops


def each_float(test):
    return pytest.mark.parametrize("dtype", FLOATS, ids=["f32", "bf16", "f16"])(test)


def check(ours: Callable[..., Any], reference: Callable[..., Any], *inputs: Any, roundings: float = 4) -> None:
    """What an op gives twice, as the second launch takes another way than the first, is the reference's in float64."""
    expected = reference(*[exact(x) for x in inputs])
    dtype = next((x.dtype for x in inputs if isinstance(x, torch.Tensor) and x.is_floating_point()), None)
    for _ in range(2):
        actual = ours(*[x.clone() if isinstance(x, torch.Tensor) else x for x in inputs])
        pairs = zip(actual, expected, strict=True) if isinstance(expected, tuple) else [(actual, expected)]
        for one, right in pairs:
            assert_near(one, right, roundings, dtype)


# ---- pointwise -------------------------------------------------------------------------------------------------------

# What flag_gems calls them, what torch does, and between which numbers.
ANY, POSITIVE, INSIDE, UNIT = (-3.0, 3.0), (0.1, 3.0), (-0.9, 0.9), (0.05, 0.95)
UNARY: dict[str, tuple[Callable[..., Any], tuple[float, float]]] = {
    **{name: (getattr(torch, name), ANY) for name in (
        "abs", "angle", "atan", "ceil", "cos", "cosh", "erf", "exp", "exp2", "expm1", "i0", "isfinite", "isinf",
        "isnan", "isneginf", "logical_not", "nan_to_num", "neg", "relu", "round", "sigmoid", "signbit", "sin",
        "square", "tan", "tanh",
    )},
    **{name + "_": (getattr(torch, name), ANY) for name in ("asinh", "floor", "sgn", "sinh")},
    **{name: (getattr(F, name), ANY) for name in (
        "celu", "elu", "gelu", "hardsigmoid", "relu6", "selu", "silu", "softplus", "softshrink",
    )},
    "hardswish_": (F.hardswish, ANY), "log_sigmoid": (F.logsigmoid, ANY),
    **{name: (getattr(torch, name), POSITIVE) for name in ("log", "log10", "reciprocal", "rsqrt", "sqrt")},
    "log1p_": (torch.log1p, POSITIVE), "digamma_": (torch.digamma, POSITIVE),
    "acos": (torch.acos, INSIDE), "arctanh_": (torch.arctanh, INSIDE), "logit": (torch.logit, UNIT),
}  # fmt: skip


def uniform(shape: tuple[int, ...], dtype: torch.dtype, low: float = -3.0, high: float = 3.0) -> torch.Tensor:
    return (torch.rand(shape) * (high - low) + low).to(dtype)


@pytest.mark.parametrize("name", UNARY)
@each_float
def test_unary(gems, dtype, name):
    reference, domain = UNARY[name]
    check(getattr(gems, name), reference, uniform((37, 53), dtype, *domain))


BINARY = [
    "add", "atan2", "copysign", "eq", "fmin", "ge", "gt", "hypot", "isclose", "le", "logaddexp", "logical_and",
    "logical_or", "logical_xor", "lt", "maximum", "minimum", "mul", "ne", "remainder", "sub", "true_divide",
]  # fmt: skip


@pytest.mark.parametrize("name", BINARY)
@each_float
def test_binary(gems, dtype, name):
    x = uniform((37, 53), dtype).round(decimals=1)
    y = uniform((37, 53) if name in ("maximum", "minimum") else (53,), dtype, 0.5, 3.0).round(decimals=1)
    if name == "remainder":  # of a rounded quotient, which near a whole number is another
        x, y = x.round() + 0.25, torch.ones_like(y)
    check(getattr(gems, name), getattr(torch, name), x, y)


MORE: dict[str, tuple[Callable[..., Any], Callable[..., Any], int]] = {
    "addcdiv": (lambda g, x, y, z: g.addcdiv(x, y, z.exp(), value=0.5),
                lambda x, y, z: torch.addcdiv(x, y, z.exp(), value=0.5), 3),
    "addcmul": (lambda g, x, y, z: g.addcmul(x, y, z, value=0.5), lambda x, y, z: x + 0.5 * y * z, 3),
    "add_alpha": (lambda g, x, y: g.add(x, y, alpha=2), lambda x, y: x + 2 * y, 2),
    "add_scalar": (lambda g, x: g.add(x, 2.5), lambda x: x + 2.5, 1),
    "sub_from_scalar": (lambda g, x: g.sub(2.5, x), lambda x: 2.5 - x, 1),
    "clamp": (lambda g, x: g.clamp(x, -0.5, 1.0), lambda x: x.clamp(-0.5, 1.0), 1),
    "clamp_min": (lambda g, x: g.clamp_min(x, -0.5), lambda x: x.clamp_min(-0.5), 1),
    "clamp_tensor": (lambda g, x, y: g.clamp_tensor(x, y, y), lambda x, y: torch.clamp(x, y, y), 2),
    "elu_backward": (lambda g, x, y: g.elu_backward(x, 1.0, 1.0, 1.0, False, y),
                     lambda x, y: torch.ops.aten.elu_backward(x, 1.0, 1.0, 1.0, False, y), 2),
    "gelu_tanh": (lambda g, x: g.gelu(x, approximate="tanh"), lambda x: F.gelu(x, approximate="tanh"), 1),
    "gelu_backward": (lambda g, x, y: g.gelu_backward(x, y), torch.ops.aten.gelu_backward, 2),
    "glu": (lambda g, x: g.glu(x, 0), lambda x: F.glu(x, 0), 1),
    "lerp": (lambda g, x, y: g.lerp_scalar(x, y, 0.3), lambda x, y: x + 0.3 * (y - x), 2),
    "lerp_tensor": (lambda g, x, y, z: g.lerp_tensor(x, y, z), lambda x, y, z: x + z * (y - x), 3),
    "masked_fill": (lambda g, x, y: g.masked_fill(x, y > 0, 7.0), lambda x, y: x.masked_fill(y > 0, 7.0), 2),
    "pow_scalar": (lambda g, x: g.pow_scalar(2.5, x), lambda x: 2.5**x, 1),
    "pow_tensor_scalar": (lambda g, x: g.pow_tensor_scalar(x, 3), lambda x: x**3, 1),
    "silu_backward": (lambda g, x, y: g.silu_backward(x, y), torch.ops.aten.silu_backward, 2),
    "threshold": (lambda g, x: g.threshold(x, 0.1, -3.0), lambda x: F.threshold(x, 0.1, -3.0), 1),
    "threshold_backward": (lambda g, x, y: g.threshold_backward(x, y, 0.1),
                           lambda x, y: torch.ops.aten.threshold_backward(x, y, 0.1), 2),
    "to_copy": (lambda g, x: g.to_copy(x, dtype=torch.float32), lambda x: x, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", MORE)
@each_float
def test_pointwise(gems, dtype, name):
    ours, reference, count = MORE[name]
    check(lambda *xs: ours(gems, *xs), reference, *(uniform((38, 53), dtype) for _ in range(count)))


VIEWS: dict[str, tuple[tuple[int, ...], Callable[[torch.Tensor], torch.Tensor]]] = {
    "number": ((), lambda x: x),
    "one": ((1,), lambda x: x),
    "row": ((1000,), lambda x: x[1:]),
    "transposed": ((53, 37), lambda x: x.t()),
    "every other": ((20, 37), lambda x: x[::2, ::3]),
    "expanded": ((5, 1, 7), lambda x: x.expand(5, 6, 7)),
    "permuted": ((5, 3, 7, 4), lambda x: x.permute(3, 1, 0, 2)),
    "five dimensions": ((3, 3, 2, 7, 4), lambda x: x.transpose(1, 3)[:, ::2]),
    "empty": ((3, 0), lambda x: x),
}


@pytest.mark.parametrize("tiles", ["as many dimensions", "one dimension"])
@pytest.mark.parametrize("name", VIEWS)
def test_pointwise_of_views(gems, name, tiles):
    """By both of the generator's ways to cut a tensor into tiles."""
    shape, view = VIEWS[name]
    x, y = view(uniform(shape, torch.float32)), view(uniform(shape, torch.float32, *POSITIVE))
    generator = sys.modules["flag_gems.utils.pointwise_dynamic"]
    config = generator.CodeGenConfig(512, (65536, 65536, 65536), 32, False, tiles == "one dimension")
    made = sys.modules["flag_gems.ops.add"].add_func
    add = generator.PointwiseDynamicFunction(made.fx, made._scalar_fn, config)
    assert_near(add(x, y, 2.0), x + y * 2)
    made = sys.modules["flag_gems.ops.div"].true_div_func
    divide = generator.PointwiseDynamicFunction(made.fx, made._scalar_fn, config)
    assert_near(divide(x, y), x / y)


INTEGERS: dict[str, tuple[str, Callable[..., Any]]] = {
    "add": ("add", torch.add), "sub": ("sub", torch.sub), "mul": ("mul", torch.mul), "abs": ("abs", torch.abs),
    "and": ("bitwise_and_tensor", torch.bitwise_and), "or": ("bitwise_or_tensor", torch.bitwise_or),
    "not": ("bitwise_not", torch.bitwise_not), "floor_divide": ("floor_divide", torch.floor_divide),
    "remainder": ("remainder", torch.remainder), "maximum": ("maximum", torch.maximum), "eq": ("eq", torch.eq),
    "lt": ("lt", torch.lt),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64], ids=["i8", "i32", "i64"])
@pytest.mark.parametrize("name", INTEGERS)
def test_integers(gems, dtype, name):
    op, reference = INTEGERS[name]
    x, y = torch.randint(-100, 100, (37, 53), dtype=dtype), torch.randint(1, 7, (37, 53), dtype=dtype)
    check(getattr(gems, op), reference, *((x,) if name in ("abs", "not") else (x, y)))


# ---- reductions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["all", "amax", "any", "argmax", "argmin", "count_nonzero", "max", "mean", "min",
                                  "std", "sum"])  # fmt: skip
@each_float
def test_reduction_of_all(gems, dtype, name):
    x = torch.randperm(1961).view(37, 53).to(dtype) / 8 if dtype == torch.float32 else uniform((37, 53), dtype)
    if dtype != torch.float32 and name in ("argmax", "argmin"):
        x[20, 20] = 9 if name == "argmax" else -9  # the only one
    check(getattr(gems, name), getattr(torch, name), x)


ALONG: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "all": (lambda g, x, d: g.all_dim(x > -2.5, d), lambda x, d: (x > -2.5).all(d)),
    "amax": (lambda g, x, d: g.amax(x, [d]), lambda x, d: x.amax(d)),
    "aminmax": (lambda g, x, d: g.aminmax(x, dim=d), lambda x, d: tuple(x.aminmax(dim=d))),
    "any": (lambda g, x, d: g.any_dim(x > 2.5, d), lambda x, d: (x > 2.5).any(d)),
    "cummax": (lambda g, x, d: g.cummax(x, d), lambda x, d: tuple(x.cummax(d))),
    "cummin": (lambda g, x, d: g.cummin(x, d), lambda x, d: tuple(x.cummin(d))),
    "cumsum": (lambda g, x, d: g.cumsum(x, d), lambda x, d: x.cumsum(d)),
    "log_softmax": (lambda g, x, d: g.log_softmax(x, d), lambda x, d: x.log_softmax(d)),
    "max": (lambda g, x, d: g.max_dim(x, d), lambda x, d: tuple(x.max(d))),
    "mean": (lambda g, x, d: g.mean_dim(x, [d]), lambda x, d: x.mean(d)),
    "min": (lambda g, x, d: g.min_dim(x, d), lambda x, d: tuple(x.min(d))),
    "normed_cumsum": (lambda g, x, d: g.normed_cumsum(x.abs() + 1, d),
                      lambda x, d: (x.abs() + 1).cumsum(d) / (x.abs() + 1).sum(d, keepdim=True)),
    "prod": (lambda g, x, d: g.prod_dim(x / 2, d), lambda x, d: (x / 2).prod(d)),
    "softmax": (lambda g, x, d: g.softmax(x, d), lambda x, d: x.softmax(d)),
    "std": (lambda g, x, d: g.std(x, [d], correction=1), lambda x, d: x.std(d)),
    "sum": (lambda g, x, d: g.sum_dim(x, [d]), lambda x, d: x.sum(d)),
    "vector_norm": (lambda g, x, d: g.vector_norm(x, 2, [d]), lambda x, d: torch.linalg.vector_norm(x, 2, d)),
    "vector_norm_1": (lambda g, x, d: g.vector_norm(x, 1, [d]), lambda x, d: torch.linalg.vector_norm(x, 1, d)),
    "vector_norm_inf": (lambda g, x, d: g.vector_norm(x, float("inf"), [d]), lambda x, d: x.abs().amax(d)),
}  # fmt: skip


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("name", ALONG)
@each_float
def test_reduction_along(gems, dtype, name, dim):
    ours, reference = ALONG[name]
    x = uniform((37, 53), dtype)
    check(lambda x: ours(gems, x, dim), lambda x: reference(x, dim), x, roundings=8)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [0, 1])
@each_float
def test_variance(gems, dtype, dim):
    """Tuned over many tiles."""
    x = uniform((37, 53), dtype) + 1
    check(lambda x: gems.var_mean(x, [dim], correction=1), lambda x: torch.var_mean(x, dim), x)
    check(lambda x: gems.var_correction(x, [dim], correction=0), lambda x: torch.var(x, dim, correction=0), x)


@pytest.mark.parametrize("dim", [0, 1])
@each_float
def test_gradients_of_softmax(gems, dtype, dim):
    above, x = uniform((37, 53), dtype), uniform((37, 53), dtype)
    y, logs = x.float().softmax(dim).to(dtype), x.float().log_softmax(dim).to(dtype)
    reference = lambda above, y: y * (above - (above * y).sum(dim, keepdim=True))
    check(lambda above, y: gems.softmax_backward(above, y, dim, dtype), reference, above, y)
    reference = lambda above, logs: above - logs.exp() * above.sum(dim, keepdim=True)
    check(lambda above, logs: gems.log_softmax_backward(above, logs, dim, dtype), reference, above, logs)


@pytest.mark.parametrize("dim", [0, 1])
@each_float
def test_moved_elements(gems, dtype, dim):
    x, rows = uniform((37, 53), dtype), torch.tensor([3, 1, 1, 20])
    places = torch.arange(12).view(3, 4)
    check(lambda x: gems.index_select(x, dim, rows), lambda x: x.index_select(dim, rows), x)
    check(lambda x: gems.gather(x, dim, places), lambda x: x.gather(dim, places), x)
    check(lambda x: gems.scatter(x, dim, places, x + 1), lambda x: x.scatter(dim, places, x + 1), x)
    check(lambda x: gems.cat([x, x + 1], dim), lambda x: torch.cat([x, x + 1], dim), x)
    check(lambda x: gems.flip(x, [dim]), lambda x: x.flip(dim), x)
    check(lambda x: gems.repeat_interleave_self_int(x, 3, dim), lambda x: x.repeat_interleave(3, dim), x)


@each_float
def test_sorted_elements(gems, dtype):
    x = torch.stack([torch.randperm(53) for _ in range(5)]).to(dtype)
    check(lambda x: gems.sort(x, 1), lambda x: tuple(x.sort(1)), x)
    check(lambda x: gems.topk(x, 5), lambda x: tuple(x.topk(5)), x)
    check(lambda x: gems.nonzero(x > 20), lambda x: (x > 20).nonzero(), x)
    check(lambda x: gems.masked_select(x, x > 20), lambda x: x[x > 20], x)


# ---- norms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [53, 64, 1025])
@each_float
def test_norms_of_rows(gems, dtype, n):
    x, weight, bias = uniform((7, n), dtype), uniform((n,), dtype), uniform((n,), dtype)
    check(lambda x, w, b: gems.layer_norm(x, [n], w, b, 1e-5)[0], lambda x, w, b: F.layer_norm(x, [n], w, b, 1e-5),
          x, weight, bias)  # fmt: skip
    check(lambda x, w: gems.rms_norm_forward(x, [n], w, 1e-5)[0], lambda x, w: F.rms_norm(x, [n], w, 1e-5), x, weight)


@each_float
def test_gradients_of_rms_norm(gems, dtype):
    def gradients(norm):
        def apply(x, weight, above):
            leaves = x.requires_grad_(), weight.requires_grad_()
            return torch.autograd.grad(norm(leaves[0], [53], leaves[1], 1e-5), leaves, above)

        return apply

    given = uniform((37, 53), dtype), uniform((53,), dtype), uniform((37, 53), dtype)
    check(gradients(gems.rms_norm), gradients(F.rms_norm), *given)


@pytest.mark.slow
@each_float
def test_gradients_of_layer_norm(gems, dtype):
    """Tuned over many tiles."""
    given = uniform((37, 53), dtype), uniform((37, 53), dtype), uniform((53,), dtype), uniform((53,), dtype)

    def ours(above, x, weight, bias):
        _, mean, rstd = gems.layer_norm(x, [53], weight, bias, 1e-5)
        return gems.layer_norm_backward(above, x, [53], mean, rstd, weight, bias, [True] * 3)

    def reference(above, x, weight, bias):
        leaves = x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()
        return torch.autograd.grad(F.layer_norm(leaves[0], [53], *leaves[1:]), leaves, above)

    check(ours, reference, *given)


@pytest.mark.parametrize(("channels", "groups"), [(8, 4), (6, 6), (4, 1)])  # groups of 3 would overlap
@each_float
def test_group_norm(gems, dtype, channels, groups):
    x, above = uniform((3, channels, 5, 7), dtype), uniform((3, channels, 5, 7), dtype)
    weight, bias = uniform((channels,), dtype), uniform((channels,), dtype)
    sizes = 3, channels, 35, groups

    def ours(above, x, weight, bias):
        y, mean, rstd = gems.group_norm(x, weight, bias, *sizes, 1e-5)
        return y, *gems.group_norm_backward(above, x, mean, rstd, weight, *sizes, [True] * 3)

    def reference(above, x, weight, bias):
        leaves = x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()
        y = F.group_norm(leaves[0], groups, *leaves[1:])
        return y.detach(), *torch.autograd.grad(y, leaves, above)

    check(ours, reference, above, x, weight, bias, roundings=8)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(gems, training):
    x, weight, bias = uniform((3, 6, 5, 7), torch.float32), uniform((6,), torch.float32), uniform((6,), torch.float32)
    mean, var = torch.randn(6), torch.rand(6) + 0.5
    given = x, weight, bias, mean, var
    check(lambda x, w, b, m, v: gems.batch_norm(x, w, b, m, v, training, 0.1, 1e-5)[0],
          lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b, training), *given)  # fmt: skip


# ---- products --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@each_float
def test_products(gems, dtype):
    """Tuned over many tiles."""
    a, b, c = uniform((40, 50), dtype), uniform((50, 33), dtype), uniform((33,), dtype)
    check(gems.mm, torch.mm, a, b)
    check(gems.addmm, torch.addmm, c, a, b)


# ---- in torch's place ------------------------------------------------------------------------------------------------


def test_enabled_for_torch(gems):
    """flag_gems' own way to be used: torch's functions launch its kernels."""
    import flag_gems

    x = uniform((37, 53), torch.float32)
    expected = x.exp(), x.softmax(1), x.abs()
    launched = []
    entry = sys.modules["flag_gems.utils.libentry"].LibEntry
    run = entry.run

    def recorded(self, *args, **kwargs):
        launched.append(self.jit_function.__name__)
        return run(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, "run", recorded)
        with flag_gems.use_gems(include=["exp", "softmax", "abs"]):
            actual = x.exp(), x.softmax(1), x.abs()
    for one, right in zip(actual, expected, strict=True):
        assert_near(one, right)
    assert "softmax_kernel_inner" in launched
