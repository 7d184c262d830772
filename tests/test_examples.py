"""Every example runs, and is as exact as its numbers allow."""

import pytest

from examples import cpu_kernels, diffusion, gguf_model, losses, norms, quantize_fp8, rotary, smollm2
from fusedsl.codegen.inspect import TARGETS
from fusedsl.plan import Plan


def test_norms():
    assert norms.main() <= 2**-11


@pytest.mark.parametrize("example", [losses, rotary, diffusion], ids=lambda module: module.__name__)
def test_float32(example):
    assert example.main() <= 2e-6


def test_cpu_kernels():
    assert cpu_kernels.main() <= 2e-6


def test_quantize_fp8():
    assert quantize_fp8.main() <= quantize_fp8.HALF_STEP * 1.001


@pytest.fixture
def weights():
    try:
        return gguf_model.smollm2()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.mark.slow
def test_tokenizer_spells_out_what_it_reads(weights):
    text = "<|im_start|>user\nWhat's 2²  x 1234?\n\n  naïve café 日本 🙂<|im_end|>"
    tokenizer = weights.tokenizer()
    tokens = tokenizer.encode(text).ids
    assert tokenizer.decode(tokens, skip_special_tokens=False) == text
    assert tokens.count(1) == 1 and tokens[-1] == 2


@pytest.mark.slow
def test_smollm2(weights, capsys):
    assert smollm2.main(["--layers", "2", "--tokens", "3"]) <= smollm2.BOUND
    assert "one pass over" in capsys.readouterr().out


@pytest.mark.slow
def test_smollm2_refuses_other_logits(weights, monkeypatch):
    wrong = smollm2.FUSED._replace(swiglu=lambda x, gate, up: (x @ gate.mT) * (x @ up.mT))
    monkeypatch.setattr(smollm2, "FUSED", wrong)
    with pytest.raises(SystemExit, match="differ"):
        smollm2.main(["--layers", "1", "--no-generate"])


@pytest.mark.slow
@pytest.mark.parametrize("example", [norms, losses, rotary, diffusion, quantize_fp8, smollm2], ids=lambda m: m.__name__)
def test_every_kernel_of_an_example_compiles_without_spills(example, monkeypatch, request):
    if example is smollm2:
        request.getfixturevalue("weights")
    plans: dict[str, Plan] = {}
    run = Plan.run

    def recorded(plan, *args):
        plans.setdefault("".join(k.source for k in plan.kernels), plan)
        return run(plan, *args)

    monkeypatch.setattr(Plan, "run", recorded)
    example.main(["--layers", "1", "--no-generate"]) if example is smollm2 else example.main()
    assert plans
    for target in TARGETS:
        for plan in plans.values():
            assert [c.name for c in plan.compile(target) if c.spills] == []
