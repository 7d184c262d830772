"""The CPU target as a backend of Triton, behind the entry point `triton.backends`.

Triton imports `compiler` and `driver` whenever it is imported itself, on every computer that has this package, so they
import nothing but Triton's two base classes, and each has its class whatever this Triton asks of one: what is wrong
shows when a kernel is launched on the CPU, never at `import triton`.
"""

from __future__ import annotations

NAME = "cpu"  # of the backend: in TRITON_DEFAULT_BACKEND, and in a target

import triton.backends  # noqa: E402, F401  (first, since it imports the modules here to their end)
