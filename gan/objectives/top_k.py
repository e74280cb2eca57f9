"""Training the generator on its best samples alone."""

from dataclasses import dataclass

import torch
from torch import Tensor


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

    def __call__(self, losses: Tensor, scores: Tensor, stage_weights: Tensor, step: int) -> Tensor:
        """Losses `(B, n)` → `(k, n)` in a step, from 0; samples are ranked by Σ_i λ_i D_i of their scores `(B, N)`."""
        share = max(self.fraction, self.decay**step)
        count = max(1, round(share * len(losses)))
        if count == len(losses):
            return losses
        return losses[torch.topk(scores.detach() @ stage_weights, count).indices]
