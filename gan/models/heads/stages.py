"""What a stage makes of what it sees: of its coordinate t_i = <v_i, u_i>, of the vector v_i, or of how much is left.

Where the first stage points along the difference of the means, no later one that is linear in v_i finds any. These are
not linear. With |s| ≤ 1 and unit u_i, `magnitude`, `mlp` and the energy are 1-Lipschitz in v_i; `square` is not.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.models.blocks.layers import Linear
from gan.models.blocks.precision import without_autocast

Stage = Literal["linear", "magnitude", "square", "mlp"]
HIDDEN = 64  # units of the network of an mlp stage
SLOPE = 0.2  # of its activation, where negative


def curved(coordinates: Tensor, stage: Stage) -> Tensor:
    """φ(t_i), `(B, M)`: the first column as it is, of the later ones |t_i| or t_i²."""
    if stage in ("linear", "mlp"):
        return coordinates
    later = coordinates[:, 1:]
    return torch.cat([coordinates[:, :1], later.abs() if stage == "magnitude" else later.square()], dim=1)


def at_most_one(scale: Tensor) -> Tensor:
    """s where |s| ≤ 1, its sign elsewhere; the gradient is that of s everywhere, so that none is held at its bound."""
    return scale.clamp(-1, 1).detach() + (scale - scale.detach())


def bounded_scales(module: nn.Module) -> list[nn.Parameter]:
    """The scales of `module` that are at most 1."""
    return [part.scale for part in module.modules() if isinstance(part, Curves | Energy)]


def keep_bounded(optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
    """Have every step of `optimizer` end with the scales of `module` brought back to [−1, 1], lest they wander off."""
    if scales := bounded_scales(module):
        optimizer.register_step_post_hook(lambda *_: _bound(scales))


@torch.no_grad()
def _bound(scales: list[nn.Parameter]) -> None:
    for scale in scales:
        scale.clamp_(-1, 1)


class Curves(nn.Module):
    """D_1 = t_1, D_i = s_i φ(t_i) + b_i: the sign of s_i says whether reals or fakes are to spread more.

    Args:
        later: how many stages follow the first.
        stage: φ, `magnitude` or `square`.
    """

    def __init__(self, later: int, stage: Stage) -> None:
        super().__init__()
        self.stage: Stage = stage
        self.scale = nn.Parameter(torch.ones(later))
        self.bias = nn.Parameter(torch.zeros(later))

    def forward(self, coordinates: Tensor) -> Tensor:
        """Coordinates `(B, M)` → scores `(B, M)`."""
        first, later = curved(coordinates, self.stage).tensor_split([1], dim=1)
        return torch.cat([first, at_most_one(self.scale) * later + self.bias], dim=1)


class Networks(nn.Module):
    """D_1 = t_1, D_i = <c_i, ρ(A_i v_i + a_i)> − <c_i, a_i>, ρ the leaky ReLU: a network of one hidden layer a stage.

    Its linear part is the vector that it scores along, w_i = A_iᵀ c_i, and what is rejected: with ρ the identity this
    is the linear stage. So D_i = t_i + <c_i, ρ(h_i) − h_i>, h_i = A_i v_i + a_i, with room for a class part in t_i.

    Args:
        later: how many stages follow the first.
        in_features: F.
        spectral_norm: divide A_i by its largest singular value and c_i by its norm.
    """

    def __init__(self, later: int, in_features: int, *, spectral_norm: bool) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(Linear(in_features, HIDDEN, spectral_norm=spectral_norm) for _ in range(later))
        self.output = nn.Parameter(torch.empty(later, HIDDEN))
        nn.init.xavier_uniform_(self.output)
        self.spectral_norm_output = spectral_norm

    def forward(self, coordinates: Tensor, seen: Tensor) -> Tensor:
        """Coordinates `(B, M)` and the vectors that stages see, `(B, M, F)` → scores `(B, M)`."""
        added = [torch.zeros_like(coordinates[:, 0])]
        for hidden, output, vectors in zip(self.hidden, self._output(), seen.unbind(1)[1:], strict=True):
            units = hidden(vectors)
            added.append((F.leaky_relu(units, SLOPE) - units) @ output)
        return coordinates + torch.stack(added, dim=1)

    def weight(self) -> Tensor:
        """The w_i of the later stages, `(M − 1, F)`."""
        rows = []
        for hidden, output in zip(self.hidden, self._output(), strict=True):
            assert isinstance(hidden, Linear)
            norm = hidden.spectral_norm
            with without_autocast(output):
                rows.append(output @ (hidden.weight if norm is None else norm(hidden.weight)))
        return torch.stack(rows)

    def _output(self) -> Tensor:
        return F.normalize(self.output, dim=1) if self.spectral_norm_output else self.output


class Energy(nn.Module):
    """s ‖v‖ + √F b: how much is left, `(B, F)` → `(B, 1)`."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.bias = nn.Parameter(torch.zeros(()))  # in units of √F, the order of ‖v‖: the rate of learning fits both

    def forward(self, left: Tensor) -> Tensor:
        # a norm whose gradient at 0 is 0, not NaN
        norm = (left.square().sum(1, keepdim=True) + torch.finfo(left.dtype).tiny).sqrt()
        return at_most_one(self.scale) * norm + left.shape[1] ** 0.5 * self.bias
