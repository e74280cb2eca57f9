"""Attention over the positions of a feature map, in linear, quadratic and key-free forms.

Every entry of `ATTENTION` takes `(channels, height, width, *, heads, pooled, spectral_norm, …)` and returns an
`Attention`: maps `(B, channels, height, width)` → the same shape, the identity at first. Options that all entries
share are described at `Layout`, the others at their form.

Raises:
    ValueError: an option does not fit, as "option: X found, … accepted".
"""

from collections.abc import Callable, Sequence

from gan.models.attention.block import Attention, Layout
from gan.models.attention.dot_product import DotProduct
from gan.models.attention.linear import Efficient, Elu, Taylor
from gan.models.attention.mixture import Combine, Mixture
from gan.models.attention.synthesizer import Dense, FactorizedDense, FactorizedRandom, Random

__all__ = ["ATTENTION", "Attention"]


def dot_product(
    channels: int,
    height: int,
    width: int,
    *,
    heads: int = 1,
    pooled: bool = False,
    spectral_norm: bool = False,
    scaled: bool = True,
) -> Attention:
    """SAGAN's and BigGAN's block with `pooled=True, spectral_norm=True, scaled=False`; see `DotProduct`."""
    layout = Layout(channels, height, width, heads, pooled, spectral_norm)
    return Attention(layout, DotProduct(layout, scaled=scaled))


def elu(
    channels: int, height: int, width: int, *, heads: int = 1, pooled: bool = False, spectral_norm: bool = False
) -> Attention:
    """Linear; see `Elu`."""
    layout = Layout(channels, height, width, heads, pooled, spectral_norm)
    return Attention(layout, Elu(layout))


def efficient(
    channels: int, height: int, width: int, *, heads: int = 1, pooled: bool = False, spectral_norm: bool = False
) -> Attention:
    """Linear; see `Efficient`."""
    layout = Layout(channels, height, width, heads, pooled, spectral_norm)
    return Attention(layout, Efficient(layout))


def taylor(
    channels: int, height: int, width: int, *, heads: int = 1, pooled: bool = False, spectral_norm: bool = False
) -> Attention:
    """Linear; see `Taylor`."""
    layout = Layout(channels, height, width, heads, pooled, spectral_norm)
    return Attention(layout, Taylor(layout))


def dense(
    channels: int,
    height: int,
    width: int,
    *,
    heads: int = 1,
    pooled: bool = False,
    spectral_norm: bool = False,
    hidden: int | None = None,
) -> Attention:
    """Synthesizer; see `Dense`."""
    layout = Layout(channels, height, width, heads, pooled, spectral_norm)
    return Attention(layout, Dense(layout, hidden=hidden))


def random(
    channels: int,
    height: int,
    width: int,
    *,
    heads: int = 1,
    pooled: bool = False,
    spectral_norm: bool = False,
    learned: bool = True,
) -> Attention:
    """Synthesizer; see `Random`."""
    layout = Layout(channels, height, width, heads, pooled, spectral_norm)
    return Attention(layout, Random(layout, learned=learned))


def factorized_dense(
    channels: int,
    height: int,
    width: int,
    *,
    heads: int = 1,
    pooled: bool = False,
    spectral_norm: bool = False,
    rows: int | None = None,
    hidden: int | None = None,
) -> Attention:
    """Synthesizer; see `FactorizedDense`."""
    layout = Layout(channels, height, width, heads, pooled, spectral_norm)
    return Attention(layout, FactorizedDense(layout, rows=rows, hidden=hidden))


def factorized_random(
    channels: int,
    height: int,
    width: int,
    *,
    heads: int = 1,
    pooled: bool = False,
    spectral_norm: bool = False,
    rank: int = 8,
    learned: bool = True,
) -> Attention:
    """Synthesizer; see `FactorizedRandom`."""
    layout = Layout(channels, height, width, heads, pooled, spectral_norm)
    return Attention(layout, FactorizedRandom(layout, rank=rank, learned=learned))


def mixture(
    channels: int,
    height: int,
    width: int,
    *,
    heads: int = 1,
    pooled: bool = False,
    spectral_norm: bool = False,
    parts: Sequence[str] = ("dot_product", "random"),
    combine: Combine = "logits",
) -> Attention:
    """Several of the above; see `Mixture`."""
    layout = Layout(channels, height, width, heads, pooled, spectral_norm)
    return Attention(layout, Mixture(layout, parts=parts, combine=combine))


ATTENTION: dict[str, Callable[..., Attention]] = {
    "dot_product": dot_product,
    "elu": elu,
    "efficient": efficient,
    "taylor": taylor,
    "dense": dense,
    "random": random,
    "factorized_dense": factorized_dense,
    "factorized_random": factorized_random,
    "mixture": mixture,
}
