"""The incomplete gamma functions, P and Q = 1 - P: integrals of t^(a-1) e^-t up to x and from x on, over gamma(a).

Ranges are chosen much as in the Cephes Math Library (S. Moshier, 3-clause BSD) and in torch, but so that 100 terms are
enough everywhere; all is computed in f64.
"""

from __future__ import annotations

import textwrap

import torch

from fusedsl.ir import declare

from .helpers import HELPERS
from .rules import floats
from .special import in_f64

# Temme's expansion about x = a: P = erfc(-eta sqrt(a / 2)) / 2 - R with eta^2 / 2 = m - log(1 + m), m = (x - a) / a,
# and R = e^(-a eta^2 / 2) / sqrt(2 pi a) times the sum of c_k(eta) a^-k (N. Temme: The asymptotic expansion of the
# incomplete gamma functions. 1979). These are the power series of c_0, c_1 ..., the last coefficient first, as far as
# they count in f64 for a > 20 and |m| < 0.3: c_0 = 1 / m - 1 / eta, and c_k = c_(k-1)' / eta + (-1)^k g_k / m with the
# g_k of Stirling's series.
_TEMME = (
    (-2.5514193994946248e-11, 9.14769958223679e-10, -4.382036018453353e-09, 1.0261809784240309e-08,
     6.707853543401498e-09, -1.7665952736826078e-07, 8.296711340953087e-07, -1.85406221071516e-06,
     -2.185448510679992e-06, 3.919263178522438e-05, -0.0001787551440329218, 0.0003527336860670194,
     0.0011574074074074073, -0.014814814814814815, 0.08333333333333333, -0.3333333333333333),
    (-1.0091543710600413e-09, -1.7543241719747647e-11, 1.1951628599778148e-08, -5.752545603517705e-08,
     1.378633446915721e-07, 4.647127802807434e-09, -1.6120900894563446e-06, 7.64916091608111e-06,
     -1.8098550334489977e-05, -4.018775720164609e-07, 0.00020576131687242798, -0.0009902263374485596,
     0.0026455026455026454, -0.003472222222222222, -0.001851851851851852),
    (6.228974084922022e-09, -1.409252991086752e-08, -2.0477098421990866e-10, 1.4280614206064242e-07,
     -6.298992138380055e-07, 1.3721957309062934e-06, 3.423578734096138e-08, -1.2760635188618728e-05,
     5.2923448829120125e-05, -0.0001073665322636516, 2.0093878600823047e-06, 0.0007716049382716049,
     -0.0026813271604938273, 0.004133597883597883),
    (-1.9111168485973655e-08, 8.099464905388083e-08, -1.6958404091930278e-07, -2.7861080291528143e-11,
     1.4230900732435883e-06, -5.6749528269915965e-06, 1.1082654115347302e-05, -2.396505113867297e-07,
     -7.561801671883977e-05, 0.00026772063206283885, -0.0004691894943952557, 0.00022947209362139917,
     0.0006494341563786008),
    (-2.292934834000805e-07, 8.907507532205309e-07, -1.6954149536558305e-06, 2.507497226237533e-10,
     1.1375726970678419e-05, -3.968365047179435e-05, 6.641498215465122e-05, -1.4638452578843418e-06,
     -0.0002990724803031902, 0.0007840392217200666, -0.0008618882909167117),
    (3.4652846491085265e-07, -3.252473551298454e-10, -2.291481176508095e-06, 8.018470256334202e-06,
     -1.3594048189768693e-05, 1.419062920643967e-07, 6.797780477937208e-05, -0.00019932570516188847,
     0.0002772753244959392, -6.972813758365857e-05, -0.00033679855336635813),
    (3.465155368803609e-06, -3.0796134506033047e-09, -1.8329116582843375e-05, 5.61168275310625e-05,
     -8.153969367561969e-05, 7.902353232660328e-07, 0.0002708782096718045, -0.0005921664373536939,
     0.0005313079364639922),
    (-1.8263488805711332e-05, 2.7744451511563645e-05, -1.2741009095484485e-07, -0.00010976582244684731,
     0.0002812695154763237, -0.00033493161081142234, 5.171790908260592e-05, 0.00034436760689237765),
    (4.629953263691304e-05, -0.00012783517679769218, 0.00016644846642067547, -6.969091458420552e-07,
     -0.000438297098541721, 0.0008394987206720873, -0.0006526239185953094),
    (0.00027750107634328704, -0.0006401475260262758, 0.0006782308837667328, -7.204895416020011e-05,
     -0.0005967612901927463),
    (0.0011089369134596636, -0.0019144384985654776, 0.0013324454494800656),
)


def _step(row: tuple[float, ...]) -> str:
    """A step of Horner's scheme in 1 / a, whose coefficient is itself a polynomial."""
    line = f"correction = correction / a + _polynomial(eta, ({', '.join(map(repr, row))}))"
    return textwrap.fill(line, 120, initial_indent=" " * 4, subsequent_indent=" " * 8) + "\n"


HELPERS["_temme"] = f"""
@triton.jit
def _temme(a, x, sign: tl.constexpr):
    \"""P for sign -1, Q for sign 1.\"""
    m = (x - a) / a
    s = m / (2.0 + m)
    z = s * s
    rest = _polynomial(z, ({", ".join(f"1.0 / {n}" for n in range(25, 1, -2))}))
    half = tl.maximum(m * s - 2.0 * s * z * rest, 0.0)  # m - log(1 + m), and no digit of it lost
    eta = tl.sqrt(2.0 * half)
    eta = tl.where(m < 0.0, -eta, eta)
    correction = 0.0
{"".join(map(_step, reversed(_TEMME)))}
    correction = correction * tl.exp(-a * half) / tl.sqrt(6.283185307179586 * a)
    return 0.5 * libdevice.erfc(sign * eta * tl.sqrt(0.5 * a)) + sign * correction
"""
# Elsewhere one of three is right, all with the factor x^a e^-x / gamma(a):
# P's series, sum of x^k / (a (a+1) .. (a+k));
# Q's continued fraction 1 / (x+1-a - (1-a) / (x+3-a - 2 (2-a) / (x+5-a ..))), from its end;
# for small x and a, where Q would vanish in 1 - P, 1 - x^a / gamma(a+1) and the sum of -(-x)^k / (k! (a+k)).
HELPERS["_incomplete_gamma"] = """
@triton.jit
def _incomplete_gamma(a, x, upper: tl.constexpr):
    zero = tl.where(a == x, 0.0, 0.0).to(tl.float64)  # of the shape of both
    a += zero
    x += zero
    log_x = tl.log(x)
    near_zero = (x <= 1.1) & (a < tl.where(x <= 0.5, -0.4 / log_x, x * 1.1))
    alternating = near_zero if upper else near_zero & False
    term = tl.where(alternating, 1.0, 1.0 / a)
    series = tl.where(alternating, 0.0, term)
    fraction = zero
    for k in range(1, 101):
        term = term * tl.where(alternating, -x / k, x / (a + k))
        series += tl.where(alternating, term / (a + k), term)
        j = 101.0 - k
        fraction = j * (j - a) / (x + (2.0 * j + 1.0) - a - fraction)
    log_gamma = libdevice.lgamma(a + 1.0)
    factor = a * tl.exp(a * log_x - x - log_gamma)
    p = factor * series
    q = factor / (x + 1.0 - a - fraction)
    small_q = -libdevice.expm1(a * log_x - log_gamma) - a * tl.exp(a * log_x - log_gamma) * series
    beyond = (x > 1.1) & (x > a)
    if upper:
        result = tl.where(beyond, q, tl.where(alternating, small_q, 1.0 - p))
    else:
        result = tl.where(beyond, 1.0 - q, p)
    near = (a > 20.0) & (tl.abs(x - a) < 0.3 * a)
    result = tl.where(near, _temme(a, x, 1 if upper else -1), result)
    none: tl.constexpr = 1.0 if upper else 0.0
    result = tl.where((a != a) | (x != x), float("nan"), result)
    result = tl.where(x == float("inf"), 1.0 - none, result)
    result = tl.where(a == float("inf"), tl.where(x == float("inf"), float("nan"), none), result)
    result = tl.where(x == 0.0, none, result)
    result = tl.where(a == 0.0, tl.where(x > 0.0, 1.0 - none, float("nan")), result)
    return tl.where((x < 0.0) | (a < 0.0), float("nan"), result)
"""


@declare(type=floats, triton=in_f64("_incomplete_gamma({0}, {1}, False)"), torch=("torch.special.gammainc",),
         domain=(0.1, 9), cheap=False)  # fmt: skip
def igamma(x: torch.Tensor, other: torch.Tensor):
    """The integral of t^(x-1) e^-t over t from 0 to other, divided by gamma(x)"""
    return torch.igamma(x, other)


@declare(type=floats, triton=in_f64("_incomplete_gamma({0}, {1}, True)"), torch=("torch.special.gammaincc",),
         domain=(0.1, 9), cheap=False)  # fmt: skip
def igammac(x: torch.Tensor, other: torch.Tensor):
    """The integral of t^(x-1) e^-t over t from other on, divided by gamma(x)"""
    return torch.igammac(x, other)
