"""Random kernels in TTIR, which ttir_fuzz.py compiles for the CPU and interprets.

A kernel is made so that one result is right: accesses stay inside their arguments, lanes of a store have addresses of
their own, a masked load says what the other lanes are. A value carries what is known of it (`Facts`): whole numbers
small enough that a sum in any order is exact, or the relative error that two right answers may differ by.

facts.py and cases.py are the data. Each file from writer.py on adds what it is named after to the class of the one
before: elementwise, casts, views, masks, memory, sources, reductions, accesses, control, handing. generator.py puts
the kernel together.
"""

from .cases import BEFORE, SPAN, Argument, Case
from .facts import BYTES, SMALL_FLOATS
from .generator import Generator

__all__ = ["BEFORE", "BYTES", "SMALL_FLOATS", "SPAN", "Argument", "Case", "Generator"]
