"""Does the cascade live? What each stage of a head separates, removes and tells the generator.

Everything is computed from the feature vectors that the last discriminator step has seen, through the head alone: no
further pass through a network, no change to any state.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from gan import distributed
from gan.models.heads import Head
from gan.objectives.losses import Loss
from gan.objectives.regularizers import at_least_float32
from gan.training.state import is_count

DEAD_AUC = 0.52  # a stage that orders no more than this share of real-fake pairs rightly separates nothing


@dataclass(frozen=True)
class Observation:
    """Features `(R + F, features)` of the R real and F fake images of one discriminator step, real ones first."""

    features: Tensor
    labels: Tensor | None
    real_count: int


def concatenated(seen: Sequence[Observation]) -> Observation:
    """Observations of equal parts as one, all real rows first."""
    if len(seen) == 1:
        return seen[0]
    count = seen[0].real_count
    labels = [one.labels for one in seen if one.labels is not None]
    features = _real_first([one.features for one in seen], count)
    return Observation(features, _real_first(labels, count) if labels else None, count * len(seen))


def gathered(seen: Observation) -> Observation:
    """What all ranks have seen, on every rank; not in half precision, for heads are asked outside of autocast here."""
    features = at_least_float32(distributed.gather(seen.features)).tensor_split(distributed.world_size())
    labels: Sequence[Tensor | None] = [None] * len(features)
    if seen.labels is not None:
        labels = distributed.gather(seen.labels).tensor_split(len(features))
    return concatenated([Observation(*rows, seen.real_count) for rows in zip(features, labels, strict=True)])


def _real_first(parts: Sequence[Tensor], count: int) -> Tensor:
    return torch.cat([part[:count] for part in parts] + [part[count:] for part in parts])


def diagnose(head: Head, loss: Loss, stage_weights: Tensor, seen: Observation) -> dict[str, Tensor]:
    """Per stage `(N,)`: accuracy, AUC, gap of second moments, share of the gradient; where it rejects, shares removed.

    Accuracy is the share of scores on their side of the loss's boundary, the mean of real and fake, where it has one;
    AUC the probability that a real score exceeds a fake one. The gap is what is left where means agree,
    `second_moment_gap`. The gradient is that of the stage's part of the generator's loss with respect to the features
    of the fakes. Removed is the stage's share of ‖v‖², over real and fake images apart; a decorrelated stage may add to
    it.
    """
    with torch.no_grad():
        scores = head(seen.features, seen.labels)  # (R + F, N)
        real, fake = scores[: seen.real_count], scores[seen.real_count :]
        stages = {"stages/auc": area_under_curve(real, fake), "stages/second_moment_gap": second_moment_gap(real, fake)}
        if not math.isnan(loss.boundary):
            right = (real > loss.boundary).float().mean(0) + (fake < loss.boundary).float().mean(0)
            stages["stages/accuracy"] = right / 2
        if (all_residuals := getattr(head, "all_residuals", None)) is not None:
            energies = all_residuals(seen.features, seen.labels).square().sum(-1)  # (R + F, N + 1)
            removed = -energies.diff(dim=1) / energies[:, :1].clamp_min(torch.finfo(energies.dtype).tiny)
            stages["stages/removed_from_real"] = removed[: seen.real_count].mean(0)
            stages["stages/removed_from_fake"] = removed[seen.real_count :].mean(0)
    return stages | {"stages/gradient_share": gradient_shares(head, loss, stage_weights, seen)}


def area_under_curve(real: Tensor, fake: Tensor) -> Tensor:
    """P(real > fake) + ½ P(real = fake) for every column: `(R, N)`, `(F, N)` → `(N,)`."""
    columns, queries = fake.T.contiguous().sort(dim=1).values, real.T.contiguous()
    below = torch.searchsorted(columns, queries) + torch.searchsorted(columns, queries, right=True)
    return below.float().mean(dim=1) / (2 * len(fake))


def second_moment_gap(real: Tensor, fake: Tensor) -> Tensor:
    """(Var D(x) − Var D(G(z))) / (Var D(x) + Var D(G(z))) of every column, about each kind's own mean: in [−1, 1]."""
    of_real, of_fake = real.var(0, correction=0), fake.var(0, correction=0)
    return (of_real - of_fake) / (of_real + of_fake).clamp_min(torch.finfo(real.dtype).tiny)


@torch.enable_grad()
def gradient_shares(head: Head, loss: Loss, stage_weights: Tensor, seen: Observation) -> Tensor:
    """‖∂(λ_i L_G(D_i))/∂v‖ over the fakes, scaled to sum 1: `(N,)`."""
    features = seen.features[seen.real_count :].detach().requires_grad_()
    labels = None if seen.labels is None else seen.labels[seen.real_count :]
    with torch.no_grad():
        real_scores = head(seen.features, seen.labels)[: seen.real_count]
    losses = stage_weights * loss.generator_loss(head(features, labels), real_scores).sum(0)  # (N,)
    norms = [torch.autograd.grad(part, features, retain_graph=True)[0].norm() for part in losses]
    total = torch.stack(norms)
    return (total / total.sum().clamp_min(torch.finfo(total.dtype).tiny)).detach()


@torch.no_grad()
def score_correlations(head: Head, seen: Observation) -> dict[str, Tensor]:
    """Correlations of the stages' scores, `(N, N)` each: over all images, and within real and within fake ones.

    Stages that separate alike correlate over all images even where they have nothing else in common: two scores that
    are uncorrelated within either kind do so by (d²/4)/(1 + d²/4), d the distance of the kinds' means in deviations.
    0 where a score is constant.
    """
    scores = head(seen.features, seen.labels)
    return {
        "stages/score_correlation": _correlations(scores),
        "stages/correlation_within_real": _correlations(scores[: seen.real_count]),
        "stages/correlation_within_fake": _correlations(scores[seen.real_count :]),
    }


@torch.no_grad()
def weight_cosines(head: Head) -> Tensor | None:
    """Cosines between the stages' unconditional weight vectors, `(N, N)`; None for a head without a row a stage."""
    weight = getattr(head, "weight", None)
    return _cosines(weight) if isinstance(weight, nn.Parameter) and weight.shape[0] == head.stages else None


def stage_matrices(head: Head, seen: Observation) -> dict[str, Tensor]:
    """How alike the stages are, in their scores and where they have them in their weights, `(N, N)` each."""
    matrices = score_correlations(head, seen)
    if (cosines := weight_cosines(head)) is not None:
        matrices["stages/weight_cosine"] = cosines
    return matrices


def likeness(matrices: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean absolute off-diagonal entry of each of `stage_matrices`, and how many stages their scores amount to."""
    means = {name: mean_off_diagonal(matrix) for name, matrix in matrices.items()}
    return {**means, "stages/effective_number": effective_number(matrices["stages/score_correlation"])}


def effective_number(correlations: Tensor) -> float:
    """exp(−Σ p_i log p_i), p the eigenvalues of `(N, N)` over their sum: N if uncorrelated, 1 if one repeats itself.

    The effective rank of Roy & Vetterli 2007.
    """
    eigenvalues = torch.linalg.eigvalsh(correlations.double()).clamp_min(0)
    shares = eigenvalues / eigenvalues.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return float(torch.special.entr(shares).sum().exp())


def first_non_finite(means: Mapping[str, list[float]]) -> str | None:
    """Which value is NaN or infinite, and of which stage, if any is: "scores/real of stage 2 became inf"."""
    for name, values in means.items():
        for stage, value in enumerate(values, start=1):
            if not math.isfinite(value):
                return f"{name} of stage {stage} became {value}" if len(values) > 1 else f"{name} became {value}"
    return None


def _correlations(scores: Tensor) -> Tensor:
    return _cosines((scores - scores.mean(0)).T)


def _cosines(rows: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(rows.float(), dim=1)
    return unit @ unit.T


def mean_off_diagonal(matrix: Tensor) -> float:
    """The mean absolute entry off the diagonal of `(N, N)`, N > 1."""
    count = len(matrix)
    return float((matrix.abs().sum() - matrix.diagonal().abs().sum()) / (count * (count - 1)))


def gradient_norm(network: nn.Module) -> Tensor:
    """The norm of all gradients of the last step, as one vector."""
    return get_total_norm([parameter.grad for parameter in network.parameters() if parameter.grad is not None])


def name_stages(means: Mapping[str, list[float]]) -> dict[str, float]:
    """Vectors become one name a stage; every stage's margin between real and fake is added."""
    named: dict[str, float] = {}
    for name, values in means.items():
        if name.startswith(("scores/", "stages/")):
            named |= {f"{name}/stage_{stage}": value for stage, value in enumerate(values, start=1)}
        else:
            named[name] = values[0]
    pairs = zip(means["scores/real"], means["scores/fake"], strict=True)
    return named | {f"scores/margin/stage_{stage}": real - fake for stage, (real, fake) in enumerate(pairs, start=1)}


class DeadStageAlarm:
    """Watches the stages' AUC over a window of logged values.

    Args:
        window: how many values a stage is judged by.
    """

    def __init__(self, window: int = 10) -> None:
        self.window = window
        self._seen: dict[int, deque[float]] = {}
        self._dead: set[int] = set()

    def update(self, areas: list[float]) -> list[int]:
        """Add one AUC a stage; returns the stages, from 1, that have died just now."""
        died = []
        for stage, area in enumerate(areas, start=1):
            values = self._seen.setdefault(stage, deque(maxlen=self.window))
            values.append(area)
            dead = len(values) == self.window and sum(values) / self.window <= DEAD_AUC
            if dead and stage not in self._dead:
                died.append(stage)
            (self._dead.add if dead else self._dead.discard)(stage)
        return died

    def dead(self) -> set[int]:
        """The stages, from 1, that separate nothing at present."""
        return set(self._dead)

    def state_dict(self) -> dict[str, Any]:
        """What the window holds."""
        return {"seen": {stage: list(values) for stage, values in self._seen.items()}, "dead": sorted(self._dead)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the window of `state`.

        Raises:
            ValueError: it holds no areas.
        """
        floats = all(isinstance(area, float) for areas in state["seen"].values() for area in areas)
        if not floats or not all(map(is_count, [*state["seen"], *state["dead"]])):
            raise ValueError("areas that no stage has")
        self._seen = {stage: deque(values, maxlen=self.window) for stage, values in state["seen"].items()}
        self._dead = set(state["dead"])
