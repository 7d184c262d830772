"""Our kernels beside those of torch Inductor and of Liger for the same chains, without a GPU: docs/peers.md.

A process of its own pretends to have a device (pretend.py), in which both peers launch what they would launch there
(inductor.py, liger.py); the launches are caught and compiled as ours are (record.py). What a kernel executes is found
by following a thread through its machine code (sass.py, thread.py, integers.py, registers.py).
"""
