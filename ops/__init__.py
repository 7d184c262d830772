"""The vocabulary: each op declared once, with everything known about it. Import it as `fusedsl.ops`."""

if not __name__.startswith("fusedsl."):
    raise ImportError("this folder is the package fusedsl.ops: write `import fusedsl.ops`, not `import ops`")

from fusedsl.ir import OPS as _OPS

from . import (  # noqa: F401  (imported for their declarations)
    activation,
    bessel,
    bits,
    compare,
    convert,
    counting,
    differences,
    elementwise,
    factories,
    gammainc,
    indexing,
    layers,
    losses,
    margins,
    matrices,
    movement,
    norms,
    parts,
    polynomials,
    pooling,
    random,
    reduce,
    resample,
    scan,
    scattering,
    selecting,
    sorting,
    source,
    special,
    spell,
    spell_arithmetic,
    spell_assign,
    spell_convert,
    spell_copies,
    spell_factories,
    spell_functional,
    spell_index,
    spell_join,
    spell_reduce,
    spell_split,
    spell_views,
    trigonometry,
)

# After all others, on which they stand: the order of declarations decides what a random graph of a seed is.
from . import attending, contract, einstein, packing, quantizing  # noqa: F401  # isort: skip
from .quantized import quantize as quantize  # isort: skip


def __getattr__(name: str):
    try:
        return _OPS[name]
    except KeyError:
        raise AttributeError(f"fusedsl.ops has no op {name!r}; `fusedsl ops` lists them") from None


def __dir__() -> list[str]:
    return sorted([*_OPS, "quantize"])
