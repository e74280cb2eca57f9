"""From losses `(B, N)` to the one that is minimised: which samples count, and how much each stage does."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class StageWeights(nn.Module):
    """λ `(N,)`, non-negative and summing to 1, fixed or learned as a softmax.

    Learned weights are trained by the discriminator, which minimises Σ λ_i L_i: they lean to the stages whose loss is
    smallest, and so tell which stage the discriminator finds easiest. The generator uses them as they are.

    Args:
        weights: λ, or its initial value, up to a factor; `(N,)`.
        learned: whether it is trained; every entry must then be positive.
    """

    def __init__(self, weights: Tensor, *, learned: bool = False) -> None:
        super().__init__()
        self.learned = learned
        if learned:
            self.logits = nn.Parameter(weights.log())
        else:
            self.register_buffer("fixed", weights / weights.sum(), persistent=False)

    def forward(self) -> Tensor:
        """λ, `(N,)`."""
        return self.logits.softmax(dim=0) if self.learned else self.get_buffer("fixed")


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """The scalar that is minimised: Σ_i λ_i E[L_i], with losses `(B, N)` and λ `(N,)`."""
    return torch.dot(losses.mean(dim=0), weights.to(losses.dtype))


def geometric(stages: int) -> Tensor:
    """1, ½, ¼, … `(N,)`: later stages see less of v, and count for less."""
    return 0.5 ** torch.arange(stages, dtype=torch.float32)


@dataclass(frozen=True)
class TopK:
    """Keep the losses of the k fakes that the discriminator finds most real (Sinha et al. 2020, arXiv:2002.06224).

    k falls from the batch size by `decay` every generator step, down to `fraction` of it.

    Args:
        fraction: of the batch, at the end; 1 keeps all.
        decay: factor a step.
    """

    fraction: float = 1.0
    decay: float = 1.0

    def count(self, samples: int, step: int) -> int:
        """k, of so many samples in a step, from 0."""
        return max(1, round(max(self.fraction, self.decay**step) * samples))

    def has_settled(self, samples: int, step: int) -> bool:
        """Whether k, of so many samples, is what it will be in all later steps."""
        return self.count(samples, step) == max(1, round(self.fraction * samples))

    def __call__(self, losses: Tensor, scores: Tensor, stage_weights: Tensor, step: int) -> Tensor:
        """Losses `(B, n)` → `(k, n)` in a step, from 0; samples are ranked by Σ_i λ_i D_i of their scores `(B, N)`."""
        count = self.count(len(losses), step)
        if count == len(losses):
            return losses
        return losses[torch.topk(scores.detach() @ stage_weights, count).indices]
