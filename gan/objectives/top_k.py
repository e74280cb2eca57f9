"""Training the generator on its best samples alone."""

import torch
from torch import Tensor, nn


class TopK(nn.Module):
    """Keep the losses of the k fakes that the discriminator finds most real (Sinha et al. 2020, arXiv:2002.06224).

    k falls from the batch size by `decay` every generator step, down to `fraction` of it.

    Args:
        fraction: of the batch, at the end; 1 keeps all.
        decay: factor a step.
    """

    def __init__(self, fraction: float = 1.0, decay: float = 1.0) -> None:
        super().__init__()
        self.fraction = fraction
        self.decay = decay
        self.steps = 0

    def forward(self, losses: Tensor, scores: Tensor, stage_weights: Tensor) -> Tensor:
        """Losses `(B, n)` → `(k, n)`; samples are ranked by Σ_i λ_i D_i of their scores `(B, N)`."""
        share = max(self.fraction, self.decay**self.steps)
        self.steps += 1
        count = max(1, round(share * len(losses)))
        if count == len(losses):
            return losses
        return losses[torch.topk(scores.detach() @ stage_weights, count).indices]

    def get_extra_state(self) -> int:
        return self.steps

    def set_extra_state(self, state: int) -> None:
        self.steps = state
