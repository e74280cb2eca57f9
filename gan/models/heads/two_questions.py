"""Is it real, and is it of its class: a stage for each question."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.blocks.layers import Embedding
from gan.models.heads.base import Cascade


class TwoQuestions(Cascade):
    """D_1 = <w, v>, which sees no label, and D_2 = <e(y), v − P_w v>, P_w = w wᵀ/‖w‖²: what speaks for the class.

    The second stage is blind to <w, v>, the realism that needs no class: an image cannot make up by looking real in
    general for not looking like its class. It is the conditional cascade of two stages with u_1 = w and u_2(y) = e(y);
    the projection head scores the sum of its stages without the rejection.

    Args:
        in_features: F, at least 2.
        num_classes: rows of the table e.
        rejection: `sequential` as above; `decorrelated` takes from <e(y), v> what <w, v> tells of it over the batch;
            `none` scores <e(y), v>, the control without rejection.
        spectral_norm: divide w and the table by their largest singular values.
    """

    labels = "required"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        rejection: Literal["sequential", "decorrelated", "none"] = "sequential",
        *,
        spectral_norm: bool = True,
    ) -> None:
        super().__init__(in_features, 2, rejection)
        self.num_classes = num_classes
        self.spectral_norm_weights = spectral_norm
        self.weight = nn.Parameter(torch.empty(1, in_features))
        nn.init.xavier_uniform_(self.weight)
        self.embedding = Embedding(num_classes, in_features, spectral_norm=spectral_norm)

    def effective_weight(self, labels: Tensor | None = None) -> Tensor:
        """w and e(y) of each sample, `(B, 2, F)`."""
        weight = F.normalize(self.weight, dim=1) if self.spectral_norm_weights else self.weight
        of_class = self.embedding(labels)
        return torch.stack([weight.expand_as(of_class), of_class], dim=1)
