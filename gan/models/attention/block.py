"""The residual block around every form of attention, and what a form is asked for.

A feature map `(B, C, H, W)` is a sequence of n = H·W positions. A form of attention gives each position a row of
weights over m positions (m = n, or n/4 where keys and values are pooled), in each of h heads, and

    Attention(x) = x + γ · W_out concat_heads(A V),    V = pool(W_value x),    γ = 0 at first

(Zhang et al. 2019, SAGAN, arXiv:1805.08318). Projections are pointwise and have no bias, as in the code of SAGAN and
of BigGAN: queries and keys have C/8 channels, values C/2, over all heads.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.blocks.layers import Linear


@dataclass(frozen=True)
class Layout:
    """The sizes that the block and its form of attention share.

    Args:
        channels: C of the maps, at least 2.
        height, width: H and W of the maps.
        heads: h, a divisor of the channels of queries and of values.
        pooled: whether keys and values are 2×2 max-pooled; H and W must then be even.
        spectral_norm: whether projections are divided by their largest singular value.

    Raises:
        ValueError: the sizes do not fit; the option is named.
    """

    channels: int
    height: int
    width: int
    heads: int = 1
    pooled: bool = False
    spectral_norm: bool = False

    def __post_init__(self) -> None:
        queries, values = self.query_channels, self.value_channels
        if self.heads < 1 or queries % self.heads or values % self.heads:
            accepted = f"a divisor of {queries} (query channels) and of {values} (value channels) accepted"
            raise ValueError(f"heads: {self.heads} found, {accepted}")
        if self.pooled and (self.height % 2 or self.width % 2):
            raise ValueError(f"pooled: true found on maps of {self.height}×{self.width}, accepted where both are even")

    @property
    def query_channels(self) -> int:
        """Of queries and of keys, over all heads."""
        return max(self.channels // 8, 1)

    @property
    def value_channels(self) -> int:
        """Over all heads."""
        return max(self.channels // 2, 1)

    @property
    def key_grid(self) -> tuple[int, int]:
        """Rows and columns of the positions that are attended to."""
        return (self.height // 2, self.width // 2) if self.pooled else (self.height, self.width)

    @property
    def positions(self) -> int:
        """The number n of positions that attend."""
        return self.height * self.width

    @property
    def key_positions(self) -> int:
        """The number m of positions that are attended to."""
        rows, columns = self.key_grid
        return rows * columns

    def project(self, in_features: int, out_features: int, *, bias: bool = False) -> Linear:
        """A pointwise convolution, as a linear layer of positions."""
        return Linear(in_features, out_features, bias=bias, spectral_norm=self.spectral_norm)

    def pool(self, tokens: Tensor) -> Tensor:
        """Keys or values of all positions `(B, n, D)` → of those that are attended to, `(B, m, D)`."""
        if not self.pooled:
            return tokens
        maps = tokens.mT.unflatten(2, (self.height, self.width))
        return F.max_pool2d(maps, 2).flatten(2).mT.contiguous()  # One map leaves its format open, so copy.

    def split(self, tokens: Tensor) -> Tensor:
        """`(B, n, h·d)` → `(B, h, n, d)`."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Form(nn.Module):
    """A form of attention: how the weights A come about. Its parameters do not include the values'."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, tokens: Tensor, values: Tensor) -> Tensor:
        """A V: tokens `(B, n, C)` and values `(B, h, m, d)` → `(B, h, n, d)`."""
        raise NotImplementedError

    def weights(self, tokens: Tensor) -> Tensor:
        """A itself, rows of sum one: `(B, h, n, m)`, or `(h, n, m)` where all samples share it. O(n·m) memory."""
        raise NotImplementedError


class LogitForm(Form):
    """A form whose weights are the softmax of a matrix B over the positions that are attended to."""

    def logits(self, tokens: Tensor) -> Tensor:
        """B: `(B, h, n, m)`, or `(h, n, m)` where all samples share it."""
        raise NotImplementedError

    def weights(self, tokens: Tensor) -> Tensor:
        return softmax(self.logits(tokens))

    def forward(self, tokens: Tensor, values: Tensor) -> Tensor:
        return apply_weights(self.weights(tokens), values)


class Attention(nn.Module):
    """Maps `(B, C, H, W)` → the same shape: the identity at first, then more and more attention.

    Args:
        layout: the sizes.
        form: how weights come about, of the same layout.
    """

    def __init__(self, layout: Layout, form: Form) -> None:
        super().__init__()
        self.layout = layout
        self.form = form
        self.value = layout.project(layout.channels, layout.value_channels)
        self.out = layout.project(layout.value_channels, layout.channels)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, maps: Tensor) -> Tensor:
        """
        Raises:
            ValueError: the maps are not of the layout's size.
        """
        layout = self.layout
        size = (layout.channels, layout.height, layout.width)
        if maps.shape[1:] != size:
            raise ValueError(f"maps of {tuple(maps.shape[1:])} found, {size} accepted: attention is built for one size")
        tokens = maps.flatten(2).mT.contiguous()  # (B, n, C), no copy where maps are channels_last
        values = layout.split(layout.pool(self.value(tokens)))
        attended = self.form(tokens, values).transpose(1, 2).flatten(2)  # (B, n, C/2)
        residual = self.out(attended).mT.unflatten(2, (layout.height, layout.width))
        return maps + self.gamma * residual


def in_block(form: Callable[..., Form]) -> Callable[..., Attention]:
    """`form` in its block, from sizes and options; described as the form is, with the options of both."""

    def build(
        channels: int,
        height: int,
        width: int,
        *,
        heads: int = 1,
        pooled: bool = False,
        spectral_norm: bool = False,
        **options: Any,
    ) -> Attention:
        layout = Layout(channels, height, width, heads, pooled, spectral_norm)
        return Attention(layout, form(layout, **options))

    build.__doc__ = form.__doc__
    *shared, _ = inspect.signature(build).parameters.values()
    _, *own = inspect.signature(form).parameters.values()
    build.__signature__ = inspect.Signature([*shared, *own], return_annotation=Attention)  # type: ignore[attr-defined]
    return build


def softmax(logits: Tensor) -> Tensor:
    """Over the last dimension, in float32 or wider."""
    return logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def apply_weights(weights: Tensor, values: Tensor) -> Tensor:
    """Weights `(B, h, n, m)` or `(h, n, m)` and values `(B, h, m, d)` → `(B, h, n, d)`, in the dtype of the values."""
    weights = weights.to(values.dtype)
    if weights.dim() == 3:  # All samples share them: one product over the whole batch.
        return torch.einsum("hnm,bhmd->bhnd", weights, values)
    return weights @ values
