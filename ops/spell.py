"""How torch's own functions and methods are written with ops, where their forms of call differ from an op's.

Names: `torch.max`, `Tensor.max`, `F.pad` (torch.nn.functional), `torch.linalg.norm`, and properties as `Tensor.mT`.
What is not here is the op of the same name. A spelling uses ops, Python operators and the `.shape` and `.dtype` of its
arguments, so it takes the tracer's tensors and nodes alike. It compares and divides sizes as Python does, which leaves
guards while tracing.

Families of them are in `spell_*.py`. Here is what these share.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusedsl.ir import OPS, Op
from fusedsl.types import dim_in


class _Ops:
    """Every op that is declared, by its name, whenever it is."""

    def __getattr__(self, name: str) -> Op:
        try:
            return OPS[name]
        except KeyError:
            raise AttributeError(f"no op {name!r}") from None


ops = _Ops()


def flat(sizes: Sequence) -> tuple:
    """Sizes given one by one or as one list."""
    one = len(sizes) == 1 and isinstance(sizes[0], (tuple, list))
    return tuple(sizes[0]) if one else tuple(sizes)


def dim_of(x, dim: int, op: str) -> int:
    """A dimension of x, counted from the front."""
    return dim_in(dim, len(x.shape), op)
