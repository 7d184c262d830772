"""Conversions between element types."""

from __future__ import annotations

from dataclasses import replace

from .elementwise import Elementwise
from .facts import BYTES, FLOATS, INTS, MANTISSA, SMALL_FLOATS, Facts, Value, any_of, between, typed


class Casts(Elementwise):
    """Conversions."""

    def cast(self) -> None:
        self.converted(self.something(), self.rng.choice([*INTS, *FLOATS, *SMALL_FLOATS]))

    def converted(self, x: Value, element: str) -> Value | None:
        """Another element type; None where there is no way, or the result would not be certain."""
        if x.element == element:
            return x
        conversion = self._conversion(x, element)
        if conversion is None:
            return None
        text, facts = conversion
        arrow = "->" if text.startswith("tt.") else "to"
        target = typed(element, x.shape)
        return self.op(
            text.replace("$", f"{self.use(x)}", 1) + f" : {x.type} {arrow} {target}", element, x.shape, facts
        )

    def _conversion(self, x: Value, element: str) -> tuple[str, Facts] | None:
        rng, source = self.rng, x.element
        if source[0] == "i" and element[0] == "i":
            if element == "i1":
                return "arith.trunci $", Facts(0, 1)
            if BYTES[element] > BYTES[source] or source == "i1":
                if source != "i1" and rng.random() < 0.6:
                    return "arith.extsi $", Facts(x.facts.low, x.facts.high, distinct=x.facts.distinct)
                if source == "i1" and rng.random() < 0.3:
                    return "arith.extsi $", Facts(-1, 0)
                fits = x.facts.low >= 0
                return "arith.extui $", between(element, x.facts.low if fits else None, x.facts.high)
            return "arith.trunci $", between(element, x.facts.low, x.facts.high)
        if source[0] == "i":
            if element in SMALL_FLOATS:
                return None
            most = max(abs(x.facts.low), abs(x.facts.high))
            if source != "i1" and rng.random() < 0.7:
                bound = most if most <= 1 << MANTISSA[element] else None
                return "arith.sitofp $", Facts(bound=bound, positive=x.facts.low >= 0)
            bound = most if x.facts.low >= 0 and most <= 1 << MANTISSA[element] else None
            return "arith.uitofp $", Facts(bound=bound, positive=True)
        if element[0] == "i":
            if x.facts.error or source in SMALL_FLOATS or element == "i1":
                return None
            return f"arith.fpto{rng.choice('su')}i $", any_of(element)
        return self._float_conversion(x, element)

    def _float_conversion(self, x: Value, element: str) -> tuple[str, Facts] | None:
        source, facts = x.element, x.facts
        if source in SMALL_FLOATS or element in SMALL_FLOATS:
            if (source in SMALL_FLOATS and element in SMALL_FLOATS) or facts.error:
                return None
            rounding = ", rounding = rtne" if element in SMALL_FLOATS else ""
            few = facts.bound is not None and facts.bound <= 1 << MANTISSA[element]
            return f"tt.fp_to_fp ${rounding}", replace(facts, bound=facts.bound if few else None)
        if BYTES[element] > BYTES[source]:
            return "arith.extf $", facts
        if BYTES[element] == BYTES[source]:
            return None
        few = facts.bound is not None and facts.bound <= 1 << MANTISSA[element]
        error = facts.error + 2.0 ** (1 - MANTISSA[element]) if facts.error else 0.0
        facts = replace(facts, bound=facts.bound if few else None, error=error)
        if self.rng.random() < 0.2 and element in ("f16", "bf16") and source == "f32" and not error:
            return "tt.fp_to_fp $, rounding = rtz", facts
        return "arith.truncf $", facts
