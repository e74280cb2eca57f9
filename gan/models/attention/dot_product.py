"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762): A = softmax(Q Kᵀ/√d), O(n·m)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gan.models.attention.block import Layout, LogitForm, apply_weights, softmax
from gan.models.blocks.precision import without_autocast

# The CPU's fused kernel wants values as wide as queries. From this many keys on, padding queries with zeros for it is
# cheaper than the n × m matrix (forward and backward, d = 32 against 128).
PADDED_FROM_KEYS = 1024


class DotProduct(LogitForm):
    """A = softmax(Q Kᵀ/√d).

    Args:
        layout: the sizes.
        scaled: divide by √d. SAGAN and BigGAN do not; theirs has `pooled` and `spectral_norm` in its layout.
    """

    def __init__(self, layout: Layout, *, scaled: bool = True) -> None:
        super().__init__(layout)
        self.query = layout.project(layout.channels, layout.query_channels)
        self.key = layout.project(layout.channels, layout.query_channels)
        self.scale = (layout.heads / layout.query_channels) ** 0.5 if scaled else 1.0

    def logits(self, tokens: Tensor) -> Tensor:
        queries, keys = self._project(tokens)
        return (self.scale * queries) @ keys.mT

    def forward(self, tokens: Tensor, values: Tensor) -> Tensor:
        queries, keys = self._project(tokens)
        differentiated = torch.is_grad_enabled() and any(part.requires_grad for part in (queries, keys, values))
        if differentiated and not torch.compiler.is_compiling():
            return _TwiceDifferentiable.apply(queries, keys, values, self.scale)
        return _fused(queries, keys, values, self.scale)

    def _project(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        split, pool = self.layout.split, self.layout.pool
        return split(self.query(tokens)), split(pool(self.key(tokens)))


def _fused(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Torch's kernel for the device; those that never form the n × m matrix have no second derivative."""
    if queries.device.type == "cuda":
        return aligned(queries, keys, values, scale)
    missing = values.shape[-1] - queries.shape[-1]
    if missing > 0 and queries.device.type == "cpu" and keys.shape[-2] >= PADDED_FROM_KEYS:
        queries, keys = F.pad(queries, (0, missing)), F.pad(keys, (0, missing))
    return F.scaled_dot_product_attention(queries, keys, values, scale=scale)


def aligned(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """The same with channels filled up with zeros to multiples of 8; with others GPUs form the n × m matrix."""
    width = values.shape[-1]
    queries, keys, values = (F.pad(part, (0, -part.shape[-1] % 8)) for part in (queries, keys, values))
    return F.scaled_dot_product_attention(queries, keys, values, scale=scale)[..., :width]


class _TwiceDifferentiable(torch.autograd.Function):
    """`_fused`, with the second derivative that its kernels lack.

    The first derivative is the kernel's own. Where the gradient is to be differentiated itself (gradient penalties),
    it goes through the explicit softmax instead, in float32 or wider.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(queries, keys, values)
        ctx.scale = scale
        with torch.enable_grad():
            queries, keys, values = ctx.leaves = [part.detach().requires_grad_() for part in (queries, keys, values)]
            ctx.attended = _fused(queries, keys, values, scale)
        return ctx.attended.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():  # The graph is kept because the caller may keep the one around it.
            return *torch.autograd.grad(ctx.attended, ctx.leaves, gradient, retain_graph=True), None
        inputs = ctx.saved_tensors
        with without_autocast(gradient):
            wide = torch.promote_types(gradient.dtype, torch.float32)
            queries, keys, values = (tensor.to(wide) for tensor in inputs)
            attended = apply_weights(softmax((ctx.scale * queries) @ keys.mT), values)
            wanted = [tensor for tensor in inputs if tensor.requires_grad]
            gradients = iter(torch.autograd.grad(attended, wanted, gradient.to(wide), create_graph=True))
        return *(next(gradients) if tensor.requires_grad else None for tensor in inputs), None
