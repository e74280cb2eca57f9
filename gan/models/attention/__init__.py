"""Attention over the positions of a feature map, in linear, quadratic and key-free forms.

Every entry of `ATTENTION` takes `(channels, height, width, *, heads, pooled, spectral_norm, …)` and returns an
`Attention`: maps `(B, channels, height, width)` → the same shape, the identity at first. Options that all entries
share are described at `Layout`, the others at their form.

Raises:
    ValueError: an option does not fit, as "option: X found, … accepted".
"""

from collections.abc import Callable

from gan.models.attention.block import Attention, in_block
from gan.models.attention.mixture import PARTS, Mixture

__all__ = ["ATTENTION", "Attention"]

ATTENTION: dict[str, Callable[..., Attention]] = {
    name: in_block(form) for name, form in {**PARTS, "mixture": Mixture}.items()
}
