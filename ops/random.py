"""Random numbers, by counting: Philox 4x32-10 of a seed, a stream and an element's number.

(J. Salmon, M. Moraes, R. Dror, D. Shaw: Parallel random numbers: as easy as 1, 2, 3. SC 2011.)

An element's number depends on nothing but its place in its tensor, so that it is the same on every device, however the
tensor is cut into programs, and however often it is computed anew. The seed is an input of the graph, which each call
draws of a torch.Generator; each use of random numbers in a function has a stream of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from fusedsl import ir
from fusedsl.errors import BadArgument, DTypesDisagree
from fusedsl.index import Index
from fusedsl.ir import OPS, Node, Number, Op, Size, Sizes, ToDType, TypeRule, declare, spells
from fusedsl.types import DType, Type, broadcast, f32, f64, i32, i64
from fusedsl.types import dtype as dtype_of

from .activation import leaky_relu
from .compare import ge, lt, minimum, where
from .convert import narrow, torch_dtype
from .elementwise import abs, ceil, exp, log, log1p, sqrt
from .factories import full_like, zeros_like
from .helpers import HELPERS
from .movement import expand, reshape, squeeze, unsqueeze
from .reduce import argmax
from .rules import default_float
from .source import numbers
from .spell import flat
from .spell_factories import made
from .trigonometry import sin, tan

# ---- bits ------------------------------------------------------------------------------------------------------------

HELPERS["_philox"] = '''
@triton.jit
def _philox(seed, counter, stream: tl.constexpr, word: tl.constexpr):
    """A word of Philox 4x32-10 with the key `seed`, at the counter (low and high half of `counter`, stream, 0)."""
    counter += seed ^ seed  # a tensor, of a literal too
    low, high = counter.to(tl.int32), (counter.to(tl.int64) >> 32).to(tl.int32)
    return tl.philox(seed, low, high, stream, 0)[word].to(tl.int32, bitcast=True)
'''
_LOW = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_STEPS = 0x9E3779B9, 0xBB67AE85  # of the key from round to round


def _philox(key: torch.Tensor, counter: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Ten rounds, on words of 32 bits in tensors of int64. A product that wraps still has the right high half."""
    words, keys = list(counter), [key & _LOW, key >> 32 & _LOW]
    for _ in range(10):
        first, second = words[0] * _MULTIPLIERS[0], words[2] * _MULTIPLIERS[1]
        words = [second >> 32 & _LOW ^ words[1] ^ keys[0], second & _LOW,
                 first >> 32 & _LOW ^ words[3] ^ keys[1], first & _LOW]  # fmt: skip
        keys = [k + step & _LOW for k, step in zip(keys, _STEPS, strict=True)]
    return words


def _bits_text(expr, seed: str, counter: str) -> str:
    return f"_philox({seed}, {counter}, {expr.attrs['stream']}, {expr.attrs['word']})"


def _bits_operands(types: Sequence[Type], op: str) -> list[DType | None]:
    if any(t.dtype.is_float for t in types):
        raise DTypesDisagree(op=op, rule="operands must be integers", got=str(types), hint="Cast with .long().")
    return [i64, i64]


def _bits_type(types: Sequence[Type], *, stream: int, word: int) -> Type:
    return Type(i32, broadcast([t.shape for t in types], "random_bits"))


@declare(type=TypeRule(_bits_type, _bits_operands), triton=_bits_text, domain=((0, 2**62), (0, 2**40)))
def random_bits(seed: torch.Tensor, counter: torch.Tensor, stream: Size = 0, word: Size = 0):
    """32 random bits: a word, 0 to 3, of Philox 4x32-10 with key `seed`, at (counter % 2^32, counter // 2^32, stream,
    0)"""
    seed, counter = torch.as_tensor(seed), torch.as_tensor(counter)
    zero = torch.zeros_like(counter + seed)
    words = _philox(seed + zero, (counter + zero & _LOW, (counter >> 32 & _LOW) + zero, zero + stream, zero))
    return words[word].to(torch.int32)


def _words(seed: Node, size: Sequence[Index], stream: int, *words: int) -> list[Node]:
    """Words of random bits for every element of that size, numbered row by row."""
    counter = reshape(numbers(math.prod(size)), size)  # type: ignore[arg-type]  # sizes may be symbolic
    return [random_bits(seed, counter, stream, word) for word in words]


def _reference_words(seed: torch.Tensor, size: Sequence[int], stream: int) -> list[torch.Tensor]:
    """The same in torch: four words from 0 to 2^32 - 1 for every element, as f64."""
    counter = torch.arange(math.prod(size)).reshape(size)
    words = (random_bits.reference(seed, counter, stream, word) for word in range(4))
    return [(word.long() & _LOW).double() for word in words]


# ---- distributions ---------------------------------------------------------------------------------------------------


def _float(dt: DType, op: str) -> DType:
    if not dt.is_float:
        raise BadArgument(op=op, name="dtype", rule="that of floats", got=str(dt), hint="Use torch.randint.")
    return dt


def _fraction(high: Node, low: Node | None, digits: int) -> Node:
    """k 2^-digits, of the first digits of two words, or of one if it has enough."""
    if low is None:
        return ir.cast(high >> (32 - digits) & (1 << digits) - 1, f32) * 2.0**-digits
    top, rest = ir.cast(high >> 5 & (1 << 27) - 1, f64), ir.cast(low >> 6 & (1 << 26) - 1, f64)
    return (top * 2.0**26 + rest) * 2.0**-53


_DIGITS = {"f32": 24, "f16": 11, "bf16": 8, "f8e4m3": 4, "f8e5m2": 3}  # of the significand: no rounding up to 1


def _uniform(seed: Node, size: Sequence[Index], stream: int, dtype: DType) -> Node:
    dt = _float(dtype, "random_uniform")
    high, low = _words(seed, size, stream, 0, 1)
    return _fraction(high, low, 53) if dt is f64 else narrow(_fraction(high, None, _DIGITS[dt.name]), dt)


@declare(expand=_uniform)
def random_uniform(seed: torch.Tensor, size: Sizes, stream: Size, dtype: ToDType):
    """Evenly spread in [0, 1): multiples of 2^-24 in f32, of 2^-53 in f64, of 2^-11 in f16, of 2^-8 in bf16"""
    dt = dtype_of(dtype)
    high, low, *_ = _reference_words(seed, size, stream)
    if dt is f64:
        return ((high / 2**5).floor() * 2**26 + (low / 2**6).floor()) / 2**53
    digits = _DIGITS[dt.name]
    return ((high / 2 ** (32 - digits)).floor() / 2**digits).to(dt.torch)


def _normal(seed: Node, size: Sequence[Index], stream: int, dtype: DType) -> Node:
    """By Box and Muller: sqrt(-2 ln u) cos(2 pi v), with u in (0, 1] to 31 bits, or 53."""
    dt = _float(dtype, "random_normal")
    a, b, c, d = _words(seed, size, stream, 0, 1, 2, 3)
    if dt is f64:
        u, v = 1.0 - _fraction(a, b, 53), _fraction(c, d, 53)
    else:
        u, v = (ir.cast(a & 0x7FFFFFFF, f32) + 0.5) * 2.0**-31, _fraction(b, None, 24)
    turned = abs(v - 0.5) - 0.25  # exactly; cos(2 pi v) = sin(2 pi turned), and small angles are rounded less
    return narrow(sqrt(log(u) * -2.0) * sin(turned * (2 * math.pi)), dt)


@declare(expand=_normal, cheap=False)
def random_normal(seed: torch.Tensor, size: Sizes, stream: Size, dtype: ToDType):
    """Normally distributed, with mean 0 and variance 1"""
    a, b, c, d = _reference_words(seed, size, stream)
    if dtype_of(dtype) is f64:
        u, v = (((x / 2**5).floor() * 2**26 + (y / 2**6).floor()) / 2**53 for x, y in ((a, b), (c, d)))
        u = 1 - u
    else:
        u, v = ((a % 2**31).float() + 0.5).double() / 2**31, (b / 2**8).floor() / 2**24
    return ((-2 * u.log()).sqrt() * (2 * math.pi * v).cos()).to(torch_dtype(dtype))


def _random_exponential(seed: Node, size: Sequence[Index], stream: int, dtype: DType) -> Node:
    """The least numbers are the ones that win a race: u is fine where it is small, and neither 0 nor 1."""
    dt = _float(dtype, "random_exponential")
    a, b = _words(seed, size, stream, 0, 1)
    u = _fraction(a, b, 53) + 2.0**-54 if dt is f64 else (ir.cast(a & 0x7FFFFFFF, f32) + 0.5) * 2.0**-31
    return narrow(-log1p(-minimum(u, 1 - 2.0**-53 if dt is f64 else 1 - 2.0**-24)), dt)


@declare(expand=_random_exponential)
def random_exponential(seed: torch.Tensor, size: Sizes, stream: Size, dtype: ToDType):
    """Exponentially distributed, with mean 1; never 0"""
    a, b, *_ = _reference_words(seed, size, stream)
    if dtype_of(dtype) is f64:
        u = ((a / 2**5).floor() * 2**26 + (b / 2**6).floor()) / 2**53 + 2.0**-54
    else:
        u = ((a % 2**31).float() + 0.5).double() / 2**31
    most = 1 - 2.0**-53 if dtype_of(dtype) is f64 else 1 - 2.0**-24
    return (-torch.log1p(-u.clamp(max=most))).to(torch_dtype(dtype))


def _integers(seed: Node, low: int, high: int, size: Sequence[Index], stream: int, dtype: DType) -> Node:
    if low >= high:
        raise BadArgument(op="randint", name="low", rule=f"less than high, {high}", got=low, hint="")
    first, second = (ir.cast(word, i64) & _LOW for word in _words(seed, size, stream, 0, 1))
    bits = first if high - low <= 2**32 else (first & 0x7FFFFFFF) << 32 | second
    return ir.cast((bits % (high - low) if high - low < 2**63 else bits) + low, dtype)


@declare(expand=_integers)
def random_integers(seed: torch.Tensor, low: Number, high: Number, size: Sizes, stream: Size, dtype: ToDType):
    """Whole numbers from low to high - 1: random bits, 32 where that many are enough and else 63, modulo high - low"""
    first, second, *_ = (word.long() for word in _reference_words(seed, size, stream))
    bits = first if high - low <= 2**32 else (first & 0x7FFFFFFF) << 32 | second
    return ((bits % (high - low) if high - low < 2**63 else bits) + low).to(torch_dtype(dtype))


# ---- torch's functions -----------------------------------------------------------------------------------------------


def _drawn(op: Op, size: Sequence[Any], dtype: Any, generator: Any, *parameters: int, **options: Any) -> Any:
    """Random numbers with a stream of their own."""
    seed, stream = ir.new_stream(generator)
    return made(op, seed, *parameters, tuple(size), stream, dtype=dtype, **options)


def _factory(name: str, op: Op) -> None:
    @spells(f"torch.{name}")
    def of_size(*size, generator=None, dtype=None, **options):
        size = flat((options.pop("size"),) if "size" in options else size)
        return _drawn(op, size, dtype or default_float(), generator, **options)

    @spells(f"torch.{name}_like")
    def like(input, *, generator=None, dtype=None, **options):
        return _like(input, _drawn(op, input.shape, dtype or input.dtype, generator, **options))


def _like(input: Any, drawn: Any) -> Any:
    """Random numbers that lie in memory as the tensor they are like."""
    return OPS["laid_out"](drawn, input)


_factory("rand", random_uniform)
_factory("randn", random_normal)


@spells("torch.randint")
def randint(*bounds, low=0, high=None, size=None, generator=None, dtype=None, **options):
    if size is None:
        *bounds, size = bounds
    if len(bounds) == 2:
        low, high = bounds
    elif bounds:
        low, high = (low, bounds[0]) if high is None else (bounds[0], high)
    return _drawn(random_integers, size, dtype or i64, generator, int(low), int(high), **options)  # type: ignore[arg-type]


@spells("torch.randint_like")
def randint_like(input, low=0, high=None, *, dtype=None, generator=None, **options):
    low, high = (0, low) if high is None else (low, high)
    drawn = _drawn(random_integers, input.shape, dtype or input.dtype, generator, int(low), int(high), **options)
    return _like(input, drawn)


@spells("torch.normal")
def normal(mean: Any, std: Any = 1.0, size=None, *, generator=None, dtype=None, **options):
    if size is not None:
        return _drawn(random_normal, size, dtype or default_float(), generator, **options) * std + mean
    of_both, first = mean * 0 + std, mean if hasattr(mean, "dtype") else std
    drawn = _drawn(random_normal, of_both.shape, of_both.dtype, generator, **options) * std + mean
    return drawn.to(first.dtype)


@spells("torch.bernoulli", "Tensor.bernoulli")
def bernoulli(input, p=None, *, generator=None):
    chance = input if p is None else p
    return _happens(input.shape, chance, generator).to(input.dtype)


def _happens(size: Sequence[Any], chance: Any, generator: Any = None) -> Any:
    """True with that probability."""
    return lt(_drawn(random_uniform, size, _fine(getattr(chance, "dtype", f32)), generator), chance)


@spells("torch.multinomial", "Tensor.multinomial")
def multinomial(input, num_samples, replacement=False, *, generator=None):
    """The race of exponential variables: the first of those with rates p is of each with probability p / sum(p)."""
    if num_samples == 1 or replacement:
        shape = (*input.shape[:-1], num_samples, input.shape[-1])
        return argmax(unsqueeze(input, -2) / _exponential(shape, f32, generator), -1)
    return OPS["topk"](input / _exponential(input.shape, f32, generator), num_samples)[1]


def _fine(dtype: Any) -> DType:
    """The dtype to draw fractions in for numbers of a dtype."""
    return f64 if dtype_of(dtype) is f64 else f32


def _exponential(size: Sequence[Any], dtype: Any, generator: Any) -> Any:
    """-ln(1 - u)"""
    return _drawn(random_exponential, size, _fine(dtype), generator)


# ---- in place: what a tensor is filled with --------------------------------------------------------------------------


def _bounds(args: Sequence[Any], named: dict[str, Any], low: Any, high: Any) -> tuple[Any, Any]:
    """`from`, which Python keeps for itself, and `to`."""
    given = dict(zip(("from", "to"), args, strict=False)) | named
    return given.get("from", low), given.get("to", high)


@spells("Tensor.uniform_")
def uniform_(input, *args, generator=None, **named):
    low, high = _bounds(args, named, 0.0, 1.0)
    found = (_drawn(random_uniform, input.shape, input.dtype, generator) * (high - low) + low).to(input.dtype)
    return where(ge(found, high), low, found)  # rounded to the end, which does not belong to it


@spells("init.uniform_")
def init_uniform(tensor, a=0.0, b=1.0, generator=None):
    return uniform_(tensor, a, b, generator=generator)


@spells("init.constant_")
def init_constant(tensor, val):
    return full_like(tensor, val)


@spells("init.kaiming_uniform_")
def init_kaiming_uniform(tensor, a=0, mode: Any = "fan_in", nonlinearity: Any = "leaky_relu", generator=None):
    fan = torch.nn.init._calculate_correct_fan(tensor, mode)
    bound = math.sqrt(3.0) * torch.nn.init.calculate_gain(nonlinearity, a) / math.sqrt(fan)
    return uniform_(tensor, -bound, bound, generator=generator)


@spells("Tensor.normal_", "init.normal_")
def normal_(tensor, mean=0.0, std=1.0, generator=None):
    return _drawn(random_normal, tensor.shape, tensor.dtype, generator) * std + mean


@spells("Tensor.log_normal_")
def log_normal_(input, mean=1.0, std=2.0, *, generator=None):
    return exp(normal_(input, mean, std, generator=generator))


@spells("Tensor.exponential_")
def exponential_(input, lambd=1.0, *, generator=None):
    return (_exponential(input.shape, input.dtype, generator) / lambd).to(input.dtype)


@spells("Tensor.cauchy_")
def cauchy_(input, median=0.0, sigma=1.0, *, generator=None):
    fraction = _drawn(random_uniform, input.shape, _fine(input.dtype), generator)
    return (tan((fraction - 0.5) * math.pi) * sigma + median).to(input.dtype)


@spells("Tensor.geometric_")
def geometric_(input, p, *, generator=None):
    if not 0 < p < 1:
        raise BadArgument(op="geometric_", name="p", rule="in (0, 1)", got=p, hint="")
    return ceil(_exponential(input.shape, f32, generator) / -math.log1p(-p)).to(input.dtype)


@spells("Tensor.bernoulli_")
def bernoulli_(input, p=0.5, *, generator=None):
    return _happens(input.shape, p, generator).to(input.dtype)


@spells("Tensor.random_")
def random_(input, *args, generator=None, **named):
    if len(args) == 1 and "to" not in named:
        args = (0, *args)
    dt = dtype_of(input.dtype)
    most = 2 ** _DIGITS.get(dt.name, 53) + 1 if dt.is_float else 2 ** (dt.bits - (dt.kind == "i"))
    low, high = _bounds(args, named, 0, most)
    return _drawn(random_integers, input.shape, i64, generator, int(low), int(high)).to(input.dtype)


# ---- layers ----------------------------------------------------------------------------------------------------------


def _drops(p: Any, training: bool, op: str) -> bool:
    """Whether anything may be dropped."""
    if p < 0 or p > 1:
        raise BadArgument(op=op, name="p", rule="a probability, in [0, 1]", got=p, hint="")
    return training and p != 0


def _kept(x: Any, p: Any, size: Sequence[Any]) -> Any:
    """1 / (1 - p) with probability 1 - p, else 0: in x's dtype, for a tensor of that size."""
    return where(_happens(size, 1.0 - p), 1.0 / (1.0 - p) if p != 1 else 0.0, 0.0).to(x.dtype)


def _over_channels(x: Any, op: str) -> tuple:
    if len(x.shape) < 2:
        raise BadArgument(op=op, name="the input", rule="of at least 2 dimensions", got=len(x.shape), hint="")
    return (*x.shape[:2], *(1,) * (len(x.shape) - 2))


@spells("F.dropout", "torch.dropout")
def dropout(input, p=0.5, training=True, inplace=False, *, train=None):
    drops = _drops(p, training if train is None else train, "dropout")
    return input * _kept(input, p, input.shape) if drops else input


@spells("torch.feature_dropout", "F.dropout2d")
def feature_dropout(input, p=0.5, training=True, inplace=False, *, train=None):
    drops = _drops(p, training if train is None else train, "feature_dropout")
    return input * _kept(input, p, _over_channels(input, "feature_dropout")) if drops else input


@spells("F.dropout1d")
def dropout1d(input, p=0.5, training=True, inplace=False):
    return _batched(input, 3, p, training)


@spells("F.dropout3d")
def dropout3d(input, p=0.5, training=True, inplace=False):
    return _batched(input, 5, p, training)


def _batched(x: Any, rank: int, p: Any, training: bool) -> Any:
    """Over channels, of a batch or of one of its elements."""
    if len(x.shape) == rank - 1:
        return squeeze(feature_dropout(unsqueeze(x, 0), p, training), 0)
    return feature_dropout(x, p, training)


_ALPHA = 1.7580993408473766  # what SELU takes -inf to, negated


def _alpha_dropout(x: Any, p: Any, size: Sequence[Any]) -> Any:
    """Elements at SELU's least value instead of 0, then to mean 0 and variance 1 again. (G. Klambauer et al.:
    Self-normalizing neural networks. 2017.)"""
    if p == 1:
        return x * zeros_like(x)
    scale = ((_ALPHA**2 * p + 1) * (1 - p)) ** -0.5
    kept = _happens(size, 1.0 - p)
    shift = where(kept, _ALPHA * scale * p, _ALPHA * scale * (p - 1)).to(x.dtype)
    return x * where(kept, scale, 0.0).to(x.dtype) + shift


@spells("F.alpha_dropout", "torch.alpha_dropout")
def alpha_dropout(input, p=0.5, training=False, inplace=False, *, train=None):
    drops = _drops(p, training if train is None else train, "alpha_dropout")
    return _alpha_dropout(input, p, input.shape) if drops else input


@spells("F.feature_alpha_dropout", "torch.feature_alpha_dropout")
def feature_alpha_dropout(input, p=0.5, training=False, inplace=False, *, train=None):
    drops = _drops(p, training if train is None else train, "feature_alpha_dropout")
    return _alpha_dropout(input, p, _over_channels(input, "feature_alpha_dropout")) if drops else input


@spells("F.rrelu", "torch.rrelu")
def rrelu(input, lower=1 / 8, upper=1 / 3, training=False, inplace=False, *, generator=None):
    if not training:
        return leaky_relu(input, (lower + upper) / 2)
    slope = _drawn(random_uniform, input.shape, input.dtype, generator) * (upper - lower) + lower
    return where(input <= 0, input * slope, input)


@spells("F.gumbel_softmax")
def gumbel_softmax(logits, tau=1, hard=False, eps=1e-10, dim=-1):
    gumbels = -log(_exponential(logits.shape, logits.dtype, None)).to(logits.dtype)
    soft = OPS["softmax"]((logits + gumbels) / tau, dim)
    if not hard:
        return soft
    best = argmax(soft, dim, True)
    axis = dim % len(logits.shape)
    shape = tuple(n if d == axis else 1 for d, n in enumerate(logits.shape))
    return (reshape(OPS["arange"](0, logits.shape[axis]), shape) == expand(best, logits.shape)).to(logits.dtype)
