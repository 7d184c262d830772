"""Functions that are integrals or series: of the normal distribution, of entropy, and of the gamma function's family.

Coefficients and ranges are those of the Cephes Math Library (S. Moshier, 3-clause BSD), as in torch, where nothing else
is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from fusedsl.errors import BadArgument
from fusedsl.ir import Node, Size, declare

from .compare import eq, isnan, where
from .convert import float_of, narrow, rounded_once, wide
from .elementwise import log, log1p
from .helpers import HELPERS
from .rules import floating

# ---- the normal distribution -----------------------------------------------------------------------------------------

HELPERS["_erfinv"] = """
@triton.jit
def _erfinv(y):
    \"""The x with erf(x) = y: a rational function, and two steps of Newton's. After G. L. Pavlis.\"""
    size = tl.abs(y)
    z = y * y
    x = y * _polynomial(z, (-0.140543331, 0.914624893, -1.645349621, 0.886226899))
    x = x / _polynomial(z, (0.012229801, -0.329097515, 1.442710462, -2.118377725, 1.0))
    z = tl.sqrt(-tl.log((1.0 - size) / 2.0))
    far = _polynomial(z, (1.641345311, 3.429567803, -1.624906493, -1.970840454))
    far = libdevice.copysign(far, y) / _polynomial(z, (1.6370678, 3.5438892, 1.0))
    x = tl.where(size <= 0.7, x, far)
    for _ in tl.static_range(2):
        x = x - (tl.erf(x) - y) / (1.1283791670955126 * tl.exp(-x * x))
    return tl.where(size == 1.0, y / (1.0 - size), x)
"""
HELPERS["_erfcx"] = """
@triton.jit
def _erfcx(x):
    \"""e^(x^2) erfc(x), with the square's rounding error; a series in 1 / x^2 before erfc(x) underflows.\"""
    far: tl.constexpr = 25.0 if x.dtype == tl.float64 else 8.0
    square = x * x
    rest = tl.where(tl.abs(x) < 30.0, tl.fma(x, x, -square), 0.0)
    power = tl.exp(square)
    near = tl.where(power < float("inf"), (power + power * rest) * libdevice.erfc(x), power)
    z = 0.5 / square
    series = _polynomial(z, (-135135.0, 10395.0, -945.0, 105.0, -15.0, 3.0, -1.0, 1.0))
    return tl.where(x < far, near, 0.5641895835477563 / x * series)
"""
HELPERS["_ndtri"] = """
@triton.jit
def _ndtri(p):
    \"""The x below which the normal distribution has p.\"""
    upper = p > 0.8646647167633873
    y = tl.where(upper, 1.0 - p, p)
    c = y - 0.5
    z = c * c
    middle = _polynomial(z, (-59.96335010141079, 98.00107541859997, -56.67628574690703, 13.931260938727968,
                             -1.2391658386738125))
    middle = middle / _polynomial(z, (1.0, 1.9544885833814176, 4.676279128988815, 86.36024213908905,
                                      -225.46268785411937, 200.26021238006066, -82.03722561683334, 15.90562251262117,
                                      -1.1833162112133))
    middle = (c + c * (z * middle)) * 2.5066282746310007
    x = tl.sqrt(-2.0 * tl.log(y))
    z = 1.0 / x
    near = _polynomial(z, (4.0554489230596245, 31.525109459989388, 57.16281922464213, 44.08050738932008,
                           14.684956192885803, 2.1866330685079025, -0.1402560791713545, -0.03504246268278482,
                           -0.0008574567851546854))
    near = near / _polynomial(z, (1.0, 15.779988325646675, 45.39076351288792, 41.3172038254672, 15.04253856929075,
                                  2.504649462083094, -0.14218292285478779, -0.03808064076915783,
                                  -0.0009332594808954574))
    far = _polynomial(z, (3.2377489177694603, 6.915228890689842, 3.9388102529247444, 1.3330346081580755,
                          0.20148538954917908, 0.012371663481782003, 0.00030158155350823543, 2.6580697468673755e-06,
                          6.239745391849833e-09))
    far = far / _polynomial(z, (1.0, 6.02427039364742, 3.6798356385616087, 1.3770209948908132, 0.21623699359449663,
                                0.013420400608854318, 0.00032801446468212774, 2.8924786474538068e-06,
                                6.790194080099813e-09))
    tail = x - tl.log(x) / x - z * tl.where(x < 8.0, near, far)
    result = tl.where(y > 0.1353352832366127, middle, tl.where(upper, tail, -tail))
    result = tl.where(p == 0.0, float("-inf"), tl.where(p == 1.0, float("inf"), result))
    return tl.where((p < 0.0) | (p > 1.0), float("nan"), result)
"""


@declare(type=floating, triton="tl.erf({0})")
def erf(x: torch.Tensor):
    """2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x"""
    return torch.erf(x)


@declare(type=floating, triton="libdevice.erfc({0})")
def erfc(x: torch.Tensor):
    """1 - erf x, exact for large x"""
    return torch.erfc(x)


@declare(type=floating, triton="_erfinv({0})", domain=(-0.99, 0.99))
def erfinv(x: torch.Tensor):
    """The y with erf y = x"""
    return torch.erfinv(x)


@declare(type=floating, triton="_erfcx({0})", cheap=False)
def erfcx(x: torch.Tensor):
    """e^(x^2) erfc x, without overflow"""
    return torch.special.erfcx(x)


@declare(expand=rounded_once(lambda x: 0.5 * erfc(x * -math.sqrt(0.5))))
def ndtr(x: torch.Tensor):
    """What the normal distribution has below x: erfc(-x / sqrt 2) / 2"""
    return torch.special.ndtr(x)


@declare(type=floating, triton="_ndtri({0})", domain=(0.01, 0.99), cheap=False)
def ndtri(x: torch.Tensor):
    """The y with ndtr y = x"""
    return torch.special.ndtri(x)


def _log_ndtr(x: Node) -> Node:
    t = x * math.sqrt(0.5)
    return where(x < -1, log(erfcx(-t) * 0.5) - t * t, log1p(erfc(t) * -0.5))


@declare(expand=rounded_once(_log_ndtr))
def log_ndtr(x: torch.Tensor):
    """ln ndtr x, also where that underflows"""
    return torch.special.log_ndtr(x)


# ---- entropy ---------------------------------------------------------------------------------------------------------


@declare(expand=rounded_once(lambda x: where(x > 0, -x * log(x), where(isnan(x), x, where(eq(x, 0), 0.0, -math.inf)))),
         domain=(0, 4))  # fmt: skip
def entr(x: torch.Tensor):
    """-x ln x, 0 at 0, -inf below"""
    return torch.special.entr(x)


# ---- the gamma function ----------------------------------------------------------------------------------------------

HELPERS["_digamma"] = """
@triton.jit
def _digamma(value):
    \"""Below 0 by reflection, then by recurrence up to 10, and there a series.\"""
    x = tl.where(value < 0.0, 1.0 - value, value)
    result = x * 0.0
    for _ in tl.static_range(10):
        result = tl.where(x < 10.0, result - 1.0 / x, result)
        x = tl.where(x < 10.0, x + 1.0, x)
    z = 1.0 / (x * x)
    y = z * _polynomial(z, (0.08333333333333333, -0.021092796092796094, 0.007575757575757576, -0.004166666666666667,
                            0.003968253968253968, -0.008333333333333333, 0.08333333333333333))
    result = tl.where(x == float("inf"), x, result + tl.log(x) - 0.5 / x - y)
    rest = value - libdevice.rint(value)
    turn = 3.141592653589793 / libdevice.tan(rest.to(tl.float64) * 3.141592653589793)  # in f64 for its zeros
    reflected = result - turn.to(value.dtype)
    result = tl.where(value < 0.0, tl.where(rest == 0.0, float("nan"), reflected), result)
    return tl.where(value == 0.0, -1.0 / value, result)
"""
HELPERS["_trigamma"] = """
@triton.jit
def _trigamma(value):
    \"""Below 1 / 2 by reflection, then by recurrence, and there a series.\"""
    x = tl.where(value < 0.5, 1.0 - value, value)
    sine = tl.sin(value * 3.141592653589793)
    result = tl.where(value < 0.5, -9.869604401089358 / (sine * sine), 0.0)
    for _ in tl.static_range(6):
        result += 1.0 / (x * x)
        x += 1.0
    z = 1.0 / (x * x)
    series = _polynomial(z, (0.023809523809523808, -0.03333333333333333, 0.16666666666666666))
    result += (1.0 + 0.5 / x + z * series) / x
    return tl.where(value < 0.5, -result, result)
"""
# The sum over (q + k)^-s: 16 terms, and what follows them by Euler's and Maclaurin's formula. For a whole s and q < 0
# there are three such sums: of what lies before 0 from its nearest on, of what lies after 0, and of what lies before q.
# They are taken in one loop, because a power of f64s is long, and in f64, because terms of both signs cancel. An
# infinite q gives NaN, as in torch.
HELPERS["_zeta"] = """
@triton.jit
def _zeta(s, q):
    zero = tl.where(s == q, 0.0, 0.0).to(q.dtype)
    total = zero + (q - q)
    a = tl.where(q < 0.0, libdevice.trunc(q) - q, q) + zero
    for part in range(3):
        term = zero
        result = zero
        for k in range(16):
            term = libdevice.pow(a + k, -s)
            result += term
        last = a + 15.0
        r = 1.0 / last
        tail = term * (last / (s - 1.0)) - 0.5 * term
        step = term * (r * s)
        coefficients: tl.constexpr = (
            8.333333333333333e-02, -1.388888888888889e-03, 3.306878306878307e-05, -8.267195767195768e-07,
            2.08767569878681e-08, -5.284190138687493e-10, 1.3382536530684679e-11, -3.3896802963225827e-13)
        for i in tl.static_range(8):
            tail += step * coefficients[i]
            step = step * ((s + (2 * i + 1)) * r) * ((s + (2 * i + 2)) * r)
        result += tl.where(term == 0.0, tl.where(result == 0.0, s - s, 0.0), tail)
        odd = (q < 0.0) & (s * 0.5 != tl.floor(s * 0.5)) & (part != 1)
        result = tl.where(odd != (part == 2), -result, result)
        total += tl.where((q < 0.0) | (part == 0), result, 0.0)
        a = tl.where(part == 0, 1.0 - a, 1.0 - q)
    total = tl.where((q < 0.0) & (s != tl.floor(s)), float("nan"), total)
    total = tl.where((q <= 0.0) & (q == libdevice.trunc(q)), float("inf"), total)
    return tl.where(s > 1.0, total, tl.where(s == 1.0, float("inf"), float("nan")))
"""


def in_f64(call: str) -> Callable[..., str]:
    """The text of a call whose operands are f64s, and whose result is of the type that it is wanted in."""

    def text(expr, *operands: str) -> str:
        wide = (
            f"{text}.to(tl.float64)" if "tl.full" in text or arg.kind != "const" else f"tl.full([], {text}, tl.float64)"
            for arg, text in zip(expr.args, operands, strict=True)
        )
        return f"{call.format(*wide)}.to(tl.{expr.dtype.language})"

    return text


@declare(type=floating, triton="libdevice.lgamma({0})", torch=("torch.special.gammaln",), domain=(2.5, 9), cheap=False)
def lgamma(x: torch.Tensor):
    """ln |gamma(x)|"""
    return torch.lgamma(x)


def _mvlgamma(x: Node, p: int) -> Node:
    if not isinstance(p, int) or p < 1:
        raise BadArgument(op="mvlgamma", name="p", rule="a number of at least 1", got=p, hint="")
    dt = float_of(x)
    z = wide(x, dt)
    total = lgamma(z)
    for j in range(1, p):
        total = total + lgamma(z - j / 2)
    return narrow(total + p * (p - 1) / 4 * math.log(math.pi), dt)


@declare(expand=_mvlgamma, torch=("torch.special.multigammaln",), domain=(4, 9))
def mvlgamma(x: torch.Tensor, p: Size):
    """The sum of ln gamma(x - j / 2) over j < p, and ln(pi) p (p - 1) / 4"""
    return torch.mvlgamma(x, p)


@declare(type=floating, triton="_digamma({0})", torch=("torch.special.psi",), domain=(2, 9), cheap=False)
def digamma(x: torch.Tensor):
    """The derivative of ln gamma(x)"""
    return torch.digamma(x)


@declare(type=floating, triton="_trigamma({0})", domain=(0.5, 9), cheap=False)
def trigamma(x: torch.Tensor):
    """The second derivative of ln gamma(x)"""
    return torch.polygamma(1, x)


@declare(type=floating, triton=in_f64("_zeta({0}, {1})"), domain=((1.5, 9), (0.5, 9)), cheap=False)
def zeta(x: torch.Tensor, other: torch.Tensor):
    """Hurwitz's zeta function: the sum of (other + k)^-x over k >= 0"""
    return torch.special.zeta(x, other)


def _polygamma(x: Node, n: int) -> Node:
    if not isinstance(n, int) or n < 0:
        raise BadArgument(op="polygamma", name="n", rule="a number of at least 0", got=n, hint="")
    if n < 2:
        return trigamma(x) if n else digamma(x)
    dt = float_of(x)
    return narrow(-((-1.0) ** n) * math.factorial(n) * zeta(float(n + 1), wide(x, dt)), dt)


@declare(expand=_polygamma, domain=(0.5, 9))
def polygamma(x: torch.Tensor, n: Size):
    """The nth derivative of digamma(x)"""
    return torch.polygamma(n, x)
