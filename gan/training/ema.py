"""Exponential moving average of a network's weights and buffers."""

import copy

import torch
from torch import nn

from gan.models.blocks.spectral_norm import update_spectral_norms


class ExponentialMovingAverage:
    """Keeps `average`, a copy of `network` whose floating-point state follows it slowly.

    average ← d · average + (1 − d) · network, with d = decay, or min(decay, (1 + t)/(10 + t)) at the t-th update with
    warm-up, so that the initial weights do not linger. Batch-norm statistics are averaged too, counters copied.

    Args:
        network: what to follow; it must not be moved or replaced afterwards.
        decay: d in [0, 1).
        warm_up: whether early updates follow faster.
    """

    def __init__(self, network: nn.Module, decay: float, warm_up: bool = True) -> None:
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.warm_up = warm_up
        pairs = list(zip(self.average.state_dict().values(), network.state_dict().values(), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the `step`-th step towards the network, from 1."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warm_up else self.decay
        torch._foreach_lerp_([mine for mine, _ in self._floats], [theirs for _, theirs in self._floats], 1 - decay)
        for mine, theirs in self._counters:
            mine.copy_(theirs)
        update_spectral_norms(self.average)  # averages of singular vectors are not those of the averaged weight
