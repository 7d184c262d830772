"""The process with the pretended device: `python -m fusedsl.peers.worker TARGET SIDE,SIDE`.

Requests come on its standard input, pickled: a list of chains, each with a dtype. For each it writes a dictionary from
side to what that side makes of the chain, pickled, on its standard output; what libraries print goes to standard error.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from .chains import Chain

    Request = tuple[Chain, torch.dtype]


def works(target: str, sides: Sequence[str], requests: Sequence[Request]) -> Iterator[dict[str, Any]]:
    """What each side makes of each request, by a process that ends with the iteration; None where a side has none."""
    command = [sys.executable, "-m", __name__, target, ",".join(sides)]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
        environment = {**os.environ, "TMPDIR": folder, "TORCHINDUCTOR_CACHE_DIR": folder}  # what is left there goes
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": said}
        with subprocess.Popen(command, env=environment, **pipes) as process:
            assert process.stdin is not None and process.stdout is not None
            try:
                with process.stdin:
                    pickle.dump(list(requests), process.stdin)
                for chain, _ in requests:
                    yield _next(process.stdout, chain.name, said)
            finally:
                process.kill()


def _next(output: IO[bytes], chain: str, said: IO[bytes]) -> dict[str, Any]:
    try:
        return pickle.load(output)
    except EOFError:
        said.seek(0)
        text = said.read().decode(errors="replace")
        raise RuntimeError(f"peers' kernels for {chain} could not be generated:\n{text}") from None


def main(target: str, sides: str) -> None:
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    from . import pretend

    pretend.install(target)
    makers = _makers(sides.split(","))
    for chain, dtype in pickle.load(sys.stdin.buffer):
        pickle.dump({side: make(chain, dtype, target) for side, make in makers.items()}, output)
        output.flush()


def _makers(sides: Sequence[str]) -> dict[str, Any]:
    makers: dict[str, Any] = {}
    if {"inductor", "program"} & {*sides}:
        from . import inductor

        inductor.prepare()
        makers |= {"inductor": inductor.generate, "program": inductor.record}
    if "liger" in sides:
        from . import liger

        makers["liger"] = liger.generate
    return {side: makers[side] for side in sides}


if __name__ == "__main__":
    main(*sys.argv[1:])
