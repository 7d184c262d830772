"""What the CPU target refuses, with the way out."""

from __future__ import annotations

from ..ttir import Op

__all__ = ["REFUSED", "CannotCompile"]


REFUSED = {
    "tt.elementwise_inline_asm": "PTX is for a GPU; write it with Triton's own operations, or choose by a constexpr",
}  # what is never there, and the way out


class CannotCompile(RuntimeError):
    """The kernel uses something that the CPU target does not have: why, or what to do instead; which operation, and the
    kernel's line where that is known."""

    def __init__(self, why: str, op: Op | None = None) -> None:
        where = f"{op.line}: " if op is not None and op.line else ""
        super().__init__(f"{where}{op.name}: {why}" if op is not None else why)
        self.op, self.why = op, why
