"""Losses over a vocabulary: from logits to one number, without a tensor of probabilities in memory.

Run it with `python -m examples.losses`.
"""

import torch
import torch.nn.functional as F

from fusedsl import fuse

from .measure import report


@fuse
def cross_entropy(logits, target):
    return F.cross_entropy(logits, target, label_smoothing=0.1)


@fuse
def cross_entropy_with_z_loss(logits, target, share=1e-4):
    """The cross entropy of each token, and a penalty that keeps the softmax's denominators near 1."""
    log_z = torch.logsumexp(logits, -1)
    at_target = logits.gather(-1, target[:, None]).squeeze(-1)
    return log_z - at_target + share * log_z * log_z


@fuse
def distillation(student, teacher, temperature):
    """How far a student's distribution is from its teacher's."""
    p, q = F.log_softmax(student / temperature, -1), F.log_softmax(teacher / temperature, -1)
    return F.kl_div(p, q, reduction="batchmean", log_target=True) * temperature**2


def main(tokens: int = 24, vocabulary: int = 1000) -> float:
    """Runs each loss and returns the greatest error against float64, relative to the greatest value."""
    student, teacher = 3 * torch.randn(2, tokens, vocabulary)
    target = torch.randint(vocabulary, (tokens,))
    return max(
        report(cross_entropy, student, target),
        report(cross_entropy_with_z_loss, student, target),
        report(distillation, student, teacher, 2.0),
    )


if __name__ == "__main__":
    main()
