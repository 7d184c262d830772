"""The integer algebra against plain integers: every simplification holds for every value of every quantity."""

import pickle
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fusedsl.index import (
    Atom,
    Index,
    Poly,
    Symbol,
    Variable,
    bounds,
    cdiv,
    divide_exactly,
    evaluate,
    floordiv,
    free,
    is_less,
    is_nonnegative,
    order_key,
    poly,
    remainder,
    replace,
    sole_atom,
    split,
)

N, M, K = (Symbol(name) for name in "nmk")
n, m, k = (poly(s) for s in (N, M, K))
SYMBOLS = [N, M, K]
VARIABLES = [Variable("i", 7), Variable("j", n), Variable("a", 4 * n), Variable("b", n * m), Variable("z", 1)]
i, j, a, b, z = (poly(v) for v in VARIABLES)


# ---- random expressions, each beside its value under random assignments ----------------------------------------------


def assignment(sizes):
    """A value for every quantity: the symbols' as given, each variable's somewhere in its range by a fraction."""
    numbers, fractions = sizes
    values: dict[Atom, Index] = dict(zip(SYMBOLS, numbers, strict=True))
    for variable, fraction in zip(VARIABLES, fractions, strict=True):
        extent = replace(variable.extent, values)
        values[variable] = int(fraction * (extent - 1))
    return values


SIZES = st.tuples(
    st.tuples(*[st.integers(2, 9)] * len(SYMBOLS)),
    st.tuples(*[st.sampled_from([0.0, 1.0, 0.5, 0.3, 0.8])] * len(VARIABLES)),
)
ASSIGNMENTS = st.lists(SIZES.map(assignment), min_size=6, max_size=6)
DIVISORS = st.sampled_from([1, 2, 3, 4, 8, n, 4 * n, m, n * m, n + 1, n - 1, n * m - 1, 2 * n + 4, n + m])
LEAVES = st.one_of(st.integers(-12, 12), st.sampled_from([n, m, k, i, j, a, b, z]))


@dataclass(frozen=True)
class Expression:
    """An index beside the plain meaning it was built with: a tree of (function, parts)."""

    index: object
    tree: object

    def value(self, values):
        return plain(self.tree, values)


def plain(tree, values):
    if isinstance(tree, tuple):
        function, *parts = tree
        return function(*(plain(p, values) for p in parts))
    return value_of(tree, values)


def value_of(index, values):
    result = replace(index, values)
    assert isinstance(result, int), f"{index} has no value"
    return result


def add(x, y):
    return x + y


def sub(x, y):
    return x - y


def mul(x, y):
    return x * y


def over(x, y):
    return x // y


def modulo(x, y):
    return x % y


def both(function, symbolic, x, y):
    return Expression(symbolic(x.index, y.index), (function, x.tree, y.tree))


def grow(parts):
    divisors = DIVISORS.map(lambda d: Expression(d, d))
    return st.one_of(
        st.builds(lambda x, y: both(add, add, x, y), parts, parts),
        st.builds(lambda x, y: both(sub, sub, x, y), parts, parts),
        st.builds(lambda x, y: both(mul, mul, x, y), parts, st.builds(lambda d: Expression(d, d), LEAVES)),
        st.builds(lambda x, y: both(over, floordiv, x, y), parts, divisors),
        st.builds(lambda x, y: both(modulo, remainder, x, y), parts, divisors),
    )


EXPRESSIONS = st.recursive(LEAVES.map(lambda x: Expression(x, x)), grow, max_leaves=8)


@given(EXPRESSIONS, ASSIGNMENTS)
def test_every_form_has_the_plain_value(expression, assignments):
    for values in assignments:
        assert value_of(expression.index, values) == expression.value(values)


@given(EXPRESSIONS, DIVISORS, ASSIGNMENTS)
def test_division(expression, divisor, assignments):
    index = expression.index
    quotient, rest = floordiv(index, divisor), remainder(index, divisor)
    part, left = split(index, divisor)
    exact = divide_exactly(index, divisor)
    assert part * divisor + left == index
    for values in assignments:
        x, d = value_of(index, values), value_of(divisor, values)
        assert value_of(quotient, values) == x // d
        assert value_of(rest, values) == x % d
        assert value_of(cdiv(index, divisor), values) == -(-x // d)
        if exact is not None:
            assert value_of(exact, values) * d == x


@given(EXPRESSIONS, EXPRESSIONS, ASSIGNMENTS)
def test_what_is_proved_holds(x, y, assignments):
    low, high = bounds(x.index)
    for values in assignments:
        v, w = value_of(x.index, values), value_of(y.index, values)
        assert low is None or value_of(low, values) <= v
        assert high is None or value_of(high, values) >= v
        assert not is_less(x.index, y.index) or v < w
        assert not is_nonnegative(x.index) or v >= 0


@given(EXPRESSIONS, EXPRESSIONS, ASSIGNMENTS)
def test_replace_is_substitution(x, y, assignments):
    replaced = replace(x.index, {VARIABLES[0]: y.index, N: m + 1})
    for values in assignments:
        shifted = {**values, N: values[M] + 1}
        # the variables whose range depends on n may leave it: only substitute where they stay inside
        if any(values[v] >= replace(v.extent, shifted) for v in VARIABLES[1:]):
            continue
        inner = value_of(y.index, values)
        if 0 <= inner < 7:
            assert value_of(replaced, values) == value_of(x.index, {**shifted, VARIABLES[0]: inner})


@given(EXPRESSIONS, EXPRESSIONS, EXPRESSIONS)
def test_sums_and_products_have_one_form(x, y, w):
    x, y, w = x.index, y.index, w.index
    assert x + y == y + x and x * y == y * x
    assert (x + y) + w == x + (y + w)
    assert (x * y) * w == x * (y * w)
    assert x - x == 0 and x + 0 == x and x * 1 == x and x * 0 == 0 and x - y == -(y - x)
    if isinstance(x, Poly):
        assert x + y - y == x


@given(EXPRESSIONS)
def test_same_value_same_object(expression):
    x = expression.index
    assert replace(x, {N: n}) is x or isinstance(x, int)
    sizes = replace(x, dict.fromkeys(VARIABLES, 5))
    assert pickle.loads(pickle.dumps(sizes)) is sizes or isinstance(sizes, int)
    assert order_key(x) == order_key(x + 0)


@given(EXPRESSIONS, st.tuples(*[st.integers(2, 9)] * 3))
def test_text_is_python(expression, sizes):
    x = replace(expression.index, dict.fromkeys(VARIABLES, 0))
    values = dict(zip("nmk", sizes, strict=True))
    assert eval(repr(x), {}, values) == evaluate(x, values)


# ---- what must be simplified -----------------------------------------------------------------------------------------

SIMPLER = [
    (floordiv(i * 8 + 3, 8), i),
    (floordiv(a, n * 4), 0),
    (remainder(a, n * 4), a),
    (floordiv(a * m + remainder(b, m), m), a),
    (remainder(a * 4 * n + j, 4 * n), j),
    (remainder(remainder(b, 4 * n), n), remainder(b, n)),
    (floordiv(floordiv(b, n), m), 0),
    (floordiv(b, n) * n + remainder(b, n), b),
    (floordiv(b, n) * n * k + remainder(b, n) * k, b * k),
    (remainder(b, n) + floordiv(b, n) * n + i, b + i),
    (floordiv(b, 4) * 4 + (floordiv(b, 4) * 4 + remainder(b, 4)), (floordiv(b, 4) * 8 + remainder(b, 4))),
    (floordiv(b, 4) * -4 - remainder(b, 4) * 2, -b - remainder(b, 4)),
    (remainder(floordiv(n, 2), n), floordiv(n, 2)),
    (divide_exactly(n * m * 6, n * 3), m * 2),
    (divide_exactly(n * n - 1, n - 1), n + 1),
    (divide_exactly(n * m + n, m + 1), n),
    (divide_exactly(n + 1, n), None),
    (divide_exactly(7, 2), None),
    (divide_exactly(0, n), 0),
    (divide_exactly(12, 0), None),
    (divide_exactly(0, 0), None),
    (cdiv(n * 8, 8), n),
    (remainder(n * 3 + 5, 1), 0),
    (z, z),
]


@pytest.mark.parametrize("value,simpler", SIMPLER, ids=repr)
def test_simplified(value, simpler):
    assert value is simpler or value == simpler


def test_equal_is_identical():
    assert (n + 1) * (n - 1) is n * n - 1
    assert Symbol("n") is N and poly(Symbol("n")) is n
    assert poly(Variable("i", 7)) is not i, "each variable is its own"
    assert floordiv(n, 2) is floordiv(n * 2 - n, 2)
    assert sole_atom(n) is N and sole_atom(n * 2) is None and sole_atom(3) is None
    assert free(floordiv(j * 3 + n, m)) == {VARIABLES[1], N, M}


def test_known_comparisons():
    assert is_less(j, n) and is_less(a, n * 4) and is_less(b, n * m)
    assert not is_less(a, n)
    assert is_nonnegative(n * m - n - m) and not is_less(0, n * m - n - m)  # 0 at n = m = 2, sizes are at least 2
    assert is_less(remainder(b, n), n) and is_nonnegative(floordiv(b, 3))


@example(None)
@given(st.none())
def test_a_value_without_meaning_asserts(_):
    with pytest.raises(AssertionError):
        evaluate(i, {"n": 3})
