"""SmolLM2-135M answers a prompt, all of it in fused kernels: its matrix products, its attention and what lies between.

    python -m examples.smollm2 --prompt "What is the capital of France?" --tokens 8

The chains are ordinary torch functions. The model runs the prompt twice with the same code: once with the functions
as they are, once with `fuse` of each. Their logits must agree, and then the words. The table tells what one pass over
the prompt launches and moves, in eager and fused, and what a layer of it does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tokenizers.decoders import DecodeStream

from fusedsl import fuse

from .gguf_model import GGUF, Layer, Sizes, smollm2
from .measure import Cost, eager_cost, error, planned_cost

BOUND = 1e-4
CHAT = """\
<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
<|im_start|>user
{prompt}<|im_end|>
<|im_start|>assistant
"""

# ---- the chains ------------------------------------------------------------------------------------------------------


def norm(x, weight, eps):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def rotate(x, cos, sin):
    """Turns the pairs (0, 1), (2, 3) ... of each head, as GGUF's weights are laid out for."""
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


def heads_of(x, weight, head):
    """[tokens, features] -> [heads, tokens, head]"""
    return (x @ weight.mT).unflatten(-1, (-1, head)).transpose(0, 1)


def project(x, q, k, v, cos, sin):
    head = 2 * cos.shape[-1]
    return rotate(heads_of(x, q, head), cos, sin), rotate(heads_of(x, k, head), cos, sin), heads_of(x, v, head)


def attend(q, k, v):
    """Several heads of q share one of k and v; the last query sees every key. [tokens, features]"""
    queries, keys = q.shape[1], k.shape[1]
    key = torch.arange(keys, device=q.device)
    last = torch.arange(queries, device=q.device)[:, None] + (keys - queries)
    scores = q.unflatten(0, (k.shape[0], -1)) @ k[:, None].mT * q.shape[-1] ** -0.5
    shares = torch.softmax(scores.masked_fill(key > last, float("-inf")), -1)
    return (shares @ v[:, None]).flatten(0, 1).transpose(0, 1).flatten(1)


def add_norm(x, branch, into, weight, eps):
    x = x + branch @ into.mT
    return x, norm(x, weight, eps)


def swiglu(x, gate, up):
    return F.silu(x @ gate.mT) * (x @ up.mT)


def unembed(x, embedding):
    return x @ embedding.mT


class Chains(NamedTuple):
    """One way to run the model's chains."""

    norm: Callable[..., Any]
    project: Callable[..., Any]
    attend: Callable[..., Any]
    add_norm: Callable[..., Any]
    swiglu: Callable[..., Any]
    unembed: Callable[..., Any]


EAGER = Chains(norm, project, attend, add_norm, swiglu, unembed)
FUSED = Chains(*map(fuse, EAGER))
OF_LAYERS = ("project", "attend", "add_norm", "swiglu")

# ---- the model -------------------------------------------------------------------------------------------------------


class Memory(NamedTuple):
    """The keys and values of the tokens so far, [heads, tokens, head], in one layer."""

    k: torch.Tensor
    v: torch.Tensor

    def append(self, k: torch.Tensor, v: torch.Tensor) -> Memory:
        return Memory(torch.cat((self.k, k), 1), torch.cat((self.v, v), 1))


class Model:
    """A llama whose weights are float32."""

    def __init__(self, file: GGUF, layers: int | None = None) -> None:
        self.sizes: Sizes = file.sizes
        self.embedding = file.tensor("token_embd")
        self.layers: list[Layer] = [file.layer(at) for at in range(self.sizes.layers)[:layers]]
        self.last_norm = file.tensor("output_norm")

    def blank(self) -> list[Memory]:
        """What each layer remembers before the first token."""
        nothing = torch.empty(self.sizes.kv_heads, 0, self.sizes.head)
        return [Memory(nothing, nothing) for _ in self.layers]

    def angles(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The cosine and sine that each position turns each pair by."""
        pair = torch.arange(0, self.sizes.head, 2) / self.sizes.head
        angle = torch.arange(start, stop)[:, None] * self.sizes.rotary_base**-pair
        return angle.cos(), angle.sin()

    @torch.no_grad()
    def __call__(self, run: Chains, tokens: Sequence[int], memory: list[Memory], layers: Iterable[int]) -> torch.Tensor:
        """The logits of the token after each of these. The memory grows by these tokens."""
        start = memory[0].k.shape[1]
        cos, sin = self.angles(start, start + len(tokens))
        after = [*(layer.attention_norm for layer in self.layers[1:]), self.last_norm]
        x, eps = self.embedding[list(tokens)], self.sizes.eps
        y = run.norm(x, self.layers[0].attention_norm, eps)
        for at in layers:
            layer = self.layers[at]
            q, k, v = run.project(y, layer.q, layer.k, layer.v, cos, sin)
            memory[at] = memory[at].append(k, v)
            mixed = run.attend(q, *memory[at])
            x, y = run.add_norm(x, mixed, layer.out, layer.mlp_norm, eps)
            hidden = run.swiglu(y, layer.gate, layer.up)
            x, y = run.add_norm(x, hidden, layer.down, after[at], eps)
        return run.unembed(y, self.embedding)


def continuation(model: Model, chains: Chains, memory: list[Memory], first: int, count: int) -> Iterator[int]:
    """The likeliest next tokens, `count` of them or until the turn ends, beginning with the first."""
    token = first
    for at in range(count):
        if token == model.sizes.end_of_turn:
            return
        yield token
        if at + 1 < count:
            token = int(model(chains, [token], memory, range(len(model.layers)))[-1].argmax())


# ---- what it costs ---------------------------------------------------------------------------------------------------


class Count:
    """A chain that runs in eager and adds up what its calls cost, and what they would cost fused."""

    def __init__(self, fused: Any) -> None:
        self.fused = fused
        self.calls = 0
        self.eager_cost, self.fused_cost = Cost(), Cost()

    def __call__(self, *args: Any) -> Any:
        out, eager = eager_cost(self.fused.function, *args)
        self.calls += 1
        self.eager_cost += eager
        self.fused_cost += planned_cost(self.fused, *args)
        return out


def cost_table(model: Model, tokens: Sequence[int]) -> Table:
    """What one pass over the tokens launches and moves, chain by chain."""
    counts = [Count(chain) for chain in FUSED]
    model(Chains(*counts), tokens, model.blank(), range(len(model.layers)))
    table = Table(title=f"one pass over {len(tokens)} tokens")
    for column in ("chain", "calls", "launches eager", "fused", "MB eager", "fused", "ratio"):
        table.add_column(column, justify="left" if column == "chain" else "right")

    def row(name: str, calls: int, eager: Cost, fused: Cost, last: bool = False) -> None:
        table.add_row(
            name, f"{calls}", f"{eager.launches}", f"{fused.launches}", f"{eager.bytes / 1e6:.2f}",
            f"{fused.bytes / 1e6:.2f}", f"{eager.bytes / fused.bytes:.2f}", end_section=last,
        )  # fmt: skip

    for name, c in zip(Chains._fields, counts, strict=True):
        row(name, c.calls, c.eager_cost, c.fused_cost, last=name == Chains._fields[-1])
    layers = [c for name, c in zip(Chains._fields, counts, strict=True) if name in OF_LAYERS]
    for name, some, share in (("a layer", layers, len(model.layers)), ("all", counts, 1)):
        eager, fused = sum((c.eager_cost for c in some), Cost()), sum((c.fused_cost for c in some), Cost())
        row(name, sum(c.calls for c in some) // share, eager // share, fused // share)
    return table


# ---- the program -----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> float:
    """Runs the demonstration and returns the error of the fused logits; exits if it is too great or a word differs."""
    parser = argparse.ArgumentParser(prog="python -m examples.smollm2", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prompt", default="What is the capital of France?")
    parser.add_argument("--tokens", type=int, default=8, help="how many to generate")
    parser.add_argument("--no-generate", action="store_true", help="only compare the logits of the prompt")
    parser.add_argument("--layers", type=int, help="only the first so many: what it says makes less sense")
    options = parser.parse_args(argv)
    console = Console()

    file = smollm2()
    model, tokenizer = Model(file, options.layers), file.tokenizer()
    tokens = tokenizer.encode(CHAT.format(prompt=options.prompt)).ids
    console.print(f"SmolLM2-135M-Instruct, {len(model.layers)} layers, {len(tokens)} tokens of prompt")

    def read_prompt(name: str, chains: Chains) -> tuple[torch.Tensor, list[Memory]]:
        begin, memory = time.perf_counter(), model.blank()
        bar = track(range(len(model.layers)), name, console=console, transient=True, disable=not console.is_terminal)
        logits = model(chains, tokens, memory, bar)
        console.print(f"{name}: {time.perf_counter() - begin:.1f} s")
        return logits, memory

    eager, eager_memory = read_prompt("eager", EAGER)
    fused, fused_memory = read_prompt("fused", FUSED)
    worst = error(fused, eager)
    console.print(f"logits: max|fused - eager| / max|eager| = {worst:.1e}, at most {BOUND:.0e} allowed")
    if not worst <= BOUND:
        raise SystemExit("the fused logits differ from the eager ones")

    if not options.no_generate:
        first = int(eager[-1].argmax())
        wanted = list(continuation(model, EAGER, eager_memory, first, options.tokens))
        got, text = [], DecodeStream(skip_special_tokens=True)
        console.print(f"\n{options.prompt}", style="bold", markup=False, highlight=False)
        for token in continuation(model, FUSED, fused_memory, int(fused[-1].argmax()), options.tokens):
            got.append(token)
            console.print(text.step(tokenizer, token) or "", end="", markup=False, highlight=False)
        console.print("\n")
        if got != wanted:
            raise SystemExit(f"eager says instead: {tokenizer.decode(wanted)}")
    console.print(cost_table(model, tokens))
    return worst


if __name__ == "__main__":
    main()
