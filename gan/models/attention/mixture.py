"""Mixtures of forms of attention, with softmax weights α that are trained (Synthesizer, arXiv:2005.00743)."""

from collections.abc import Sequence
from functools import reduce
from typing import Literal, cast

import torch
from torch import Tensor, nn

from gan.errors import nearest
from gan.models.attention.block import Form, Layout, LogitForm, apply_weights, softmax
from gan.models.attention.dot_product import DotProduct
from gan.models.attention.linear import Efficient, Elu, Taylor
from gan.models.attention.synthesizer import Dense, FactorizedDense, FactorizedRandom, Random

Combine = Literal["logits", "outputs"]


class Mixture(Form):
    """A = softmax(Σ α_p B_p), or A = Σ α_p A_p; α = softmax(a) with a = 0 at first.

    Args:
        layout: the sizes.
        parts: names of two or more forms, each of which has its default options. They share the values.
        combine: `logits` mixes the B_p before the softmax, as the paper does, and takes parts that have them;
            `outputs` mixes what the parts attend to, which is the same as mixing their weights A_p. It takes any
            part, and a mixture of linear forms stays linear.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        parts: Sequence[str] = ("dot_product", "random"),
        combine: Combine = "logits",
    ) -> None:
        super().__init__(layout)
        _check(parts, combine)
        self.combine = combine
        self.parts = nn.ModuleDict({name: PARTS[name](layout) for name in parts})
        self.mixing = nn.Parameter(torch.zeros(len(parts)))

    def forward(self, tokens: Tensor, values: Tensor) -> Tensor:
        if self.combine == "logits":
            return apply_weights(self.weights(tokens), values)
        return self._mix([part(tokens, values) for part in self._forms()])

    def weights(self, tokens: Tensor) -> Tensor:
        if self.combine == "logits":
            return softmax(self._mix([cast(LogitForm, part).logits(tokens) for part in self._forms()]))
        return self._mix([part.weights(tokens) for part in self._forms()])

    def _forms(self) -> list[Form]:
        return [cast(Form, part) for part in self.parts.values()]

    def _mix(self, tensors: list[Tensor]) -> Tensor:
        shares = self.mixing.softmax(0)
        wide = [tensor.to(torch.promote_types(tensor.dtype, shares.dtype)) for tensor in tensors]
        return reduce(torch.add, (share * tensor for share, tensor in zip(shares, wide, strict=True)))


def _check(parts: Sequence[str], combine: str) -> None:
    if combine not in ("logits", "outputs"):
        raise ValueError(f"combine: {combine!r} found, 'logits' or 'outputs' accepted")
    accepted = [name for name, form in PARTS.items() if combine == "outputs" or issubclass(form, LogitForm)]
    for name in parts:
        if name in PARTS and name not in accepted:
            raise ValueError(f"parts: {name!r} has no logits to mix; accepted with combine: outputs")
        if name not in PARTS:
            raise ValueError(f"parts: no {name!r}{nearest(name, accepted)}")
    if len(parts) < 2 or len(set(parts)) < len(parts):
        raise ValueError(f"parts: {', '.join(parts) or 'none'} found, two or more different ones accepted")


PARTS: dict[str, type[Form]] = {
    "dot_product": DotProduct,
    "elu": Elu,
    "efficient": Efficient,
    "taylor": Taylor,
    "dense": Dense,
    "random": Random,
    "factorized_dense": FactorizedDense,
    "factorized_random": FactorizedRandom,
}
