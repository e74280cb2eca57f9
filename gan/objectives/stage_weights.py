"""How much each stage's loss counts."""

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
