"""Kernels to text and to machines: Triton source, packed bits, tile sizes, the CPU target, inspection.

Import it as `fusedsl.codegen`; the folder stands at the top of the repository and `fusedsl/codegen` links to it.
"""

if not __name__.startswith("fusedsl."):
    raise ImportError(
        f"this package was imported as {__name__!r}; write `import fusedsl.codegen` and keep the repository root, "
        "not its folders, on the path"
    )
