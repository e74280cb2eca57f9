"""One head on frozen features: its training, and what its stages separate, repeat and tell together."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gan.config import construct
from gan.errors import UserError, nearest
from gan.experiments.frozen.config import EARLY, FrozenArm, HeadTraining
from gan.experiments.frozen.features import Vectors
from gan.models.blocks.spectral_norm import update_spectral_norms
from gan.models.heads import HEADS, Head
from gan.models.heads.stages import keep_bounded
from gan.objectives.losses import Hinge
from gan.seeds import seeded, seeded_generator
from gan.training.diagnostics import (
    Observation,
    area_under_curve,
    effective_number,
    mean_off_diagonal,
    score_correlations,
    second_moment_gap,
)

READ_EARLY = ("readout_error", "auc_")


@dataclass(frozen=True)
class Trained:
    """What one run came to: its measures by name, none where it diverged."""

    measures: dict[str, float]
    diverged: bool


def build_head(name: str, arm: FrozenArm, width: int, seed: int) -> Head:
    """The arm's head with its initial weights.

    Raises:
        UserError: there is no such head or option, or it needs labels.
    """
    section = arm.head
    if section.name not in HEADS:
        raise UserError(f"arms.{name}.head.name: no {section.name!r}{nearest(section.name, HEADS)}")
    if HEADS[section.name].labels == "required":
        raise UserError(f"arms.{name}.head.name: {section.name!r} needs labels; heads that do without accepted")
    supplied = {} if HEADS[section.name].labels == "ignored" else {"num_classes": None}
    with seeded(seed, "head"):
        return construct(HEADS, f"arms.{name}.head", section.name, section.options, in_features=width, **supplied)


def train_head(head: Head, vectors: Vectors, training: HeadTraining, seed: int) -> Trained:
    """Train a head on real against fake vectors, and measure it at the end and at the early step.

    Arms of one seed see the same batches.
    """
    optimizer = torch.optim.Adam(head.parameters(), training.lr, betas=(0.0, 0.9))
    keep_bounded(optimizer, head)
    random = seeded_generator(seed, "frozen", "batches")
    measures: dict[str, float] = {}
    for step in range(1, training.steps + 1):
        update_spectral_norms(head)
        features = torch.cat([_rows(part, training.batch_size, random) for part in _kinds(vectors)])
        real, fake = head.batch_scores(features).split(training.batch_size)
        loss = Hinge().discriminator_loss(real, fake).mean()
        if head.learns_directions:
            real, fake = head.direction_scores(features).split(training.batch_size)
            loss = loss + fake.mean() - real.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        head.follow(head.batch_statistics(features))
        if step == training.early:
            found = measure(head, vectors)
            measures = {f"{name}{EARLY}": value for name, value in found.items() if name.startswith(READ_EARLY)}
    measures |= measure(head, vectors)
    diverged = not all(map(math.isfinite, measures.values()))
    return Trained({} if diverged else measures, diverged)


def _kinds(vectors: Vectors) -> tuple[Tensor, Tensor]:
    return vectors.train_real, vectors.train_fake


def _rows(features: Tensor, count: int, random: torch.Generator) -> Tensor:
    return features[torch.randint(len(features), (count,), generator=random)]


@torch.no_grad()
def measure(head: Head, vectors: Vectors) -> dict[str, float]:
    """What the stages do on vectors that they were not trained on.

    AUC and gap of second moments of each stage, correlations, the effective number of stages, and the error of a linear
    read-out of all of them, fitted to their scores of the training vectors: what they tell together.
    """
    real, fake = head(vectors.test_real), head(vectors.test_fake)
    found = {f"auc_{stage}": float(area) for stage, area in enumerate(area_under_curve(real, fake), start=1)}
    gaps = second_moment_gap(real, fake)
    found |= {f"second_moment_gap_{stage}": float(gap) for stage, gap in enumerate(gaps, start=1)}
    if head.stages > 1:
        seen = Observation(torch.cat([vectors.test_real, vectors.test_fake]), None, len(real))
        matrices = score_correlations(head, seen)
        names = {"stages/score_correlation": "correlation"}
        found |= {names.get(key, key.removeprefix("stages/")): mean_off_diagonal(one) for key, one in matrices.items()}
        found["effective_number"] = effective_number(matrices["stages/score_correlation"])
    weights = _read_out(head(vectors.train_real), head(vectors.train_fake))
    if weights is None:
        return {**found, "readout_error": math.nan}
    area = area_under_curve((real.double() @ weights)[:, None], (fake.double() @ weights)[:, None])
    return {**found, "readout_error": 1 - float(area)}


def _read_out(real: Tensor, fake: Tensor) -> Tensor | None:
    """The weights `(N,)` of a logistic regression of real on the scores `(n, N)`; None where these are not finite."""
    from sklearn.linear_model import LogisticRegression  # here, because importing it takes a second

    scores = torch.cat([real, fake]).double()
    if not scores.isfinite().all():
        return None
    spread = scores.std(0).clamp_min(1e-12)
    truth = torch.cat([torch.ones(len(real)), torch.zeros(len(fake))])
    fitted = LogisticRegression(C=1e4, max_iter=1000).fit((scores / spread).numpy(), truth.numpy())
    return torch.from_numpy(fitted.coef_[0]) / spread
