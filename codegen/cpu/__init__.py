"""The CPU target: kernels in Triton's TTIR become machine code for this computer, made by the LLVM inside Triton.

`machine` says what the CPU is, `toolchain` turns MLIR into a shared object, `wrapper` puts the grid around a kernel,
`native` loads and launches the object, `cache` keeps it on disk.
"""
