"""What one pass over the generated images has kept, beside the reference: all that a metric's formula may look at."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from gan.errors import UserError
from gan.metrics.accumulators import ClassCounts, FeatureBank, GaussianStatistics, SplitProbabilities
from gan.metrics.formulas import FrechetTarget
from gan.metrics.protocol import Protocol
from gan.metrics.reference import ReferenceStatistics, kept_rows


@dataclass
class Tally:
    """What one pass keeps: Gaussian statistics always, the rest for the metrics that need it."""

    gaussian: GaussianStatistics
    features: FeatureBank | None = None
    probabilities: SplitProbabilities | None = None
    logits: FeatureBank | None = None
    classes: ClassCounts | None = None

    def update(self, features: Tensor, logits: Tensor | None = None, kept: Tensor | None = None) -> None:
        """Add the features `(B, D)` and logits `(B, classes)` of a batch; of its features `kept` `(B,)` are kept."""
        self.gaussian.update(features)
        if self.features is not None:
            self.features.update(features if kept is None else features[kept.to(features.device)])
        for sums in (self.probabilities, self.logits, self.classes):
            if sums is not None and logits is not None:
                sums.update(logits)

    @property
    def reads_logits(self) -> bool:
        """Whether any of it is of the logits."""
        return any(kept is not None for kept in (self.probabilities, self.logits, self.classes))


@dataclass
class Evidence:
    """One tally against one reference.

    Args:
        tally: its features are given up when nothing needs them any more.
        device: where formulas are computed.
        bootstrapped: whether intervals are wanted, for which formulas give the influence of every image.
        labels: of the generated images `(N,)`, for the distances of each class.
        progress: show a bar where a formula takes long.
    """

    tally: Tally
    reference: ReferenceStatistics
    protocol: Protocol
    device: torch.device
    bootstrapped: bool = False
    labels: Tensor | None = None
    progress: bool = False
    classes: dict[str, float] = field(default_factory=dict)  # what a metric found of each class by its name

    @cached_property
    def target(self) -> FrechetTarget:
        """The reference's Gaussian."""
        return FrechetTarget(self.reference.mean.to(self.device), self.reference.covariance.to(self.device))

    @property
    def fake(self) -> Tensor:
        """Features of the generated images `(N, D)`."""
        assert self.tally.features is not None
        return self.tally.features.result().to(self.device)

    @property
    def real(self) -> Tensor:
        """Features of the reference `(M, D)`."""
        assert self.reference.features is not None
        return self.reference.features.to(self.device)

    def drawn(self, neighbours: int) -> tuple[Tensor, Tensor]:
        """The generated and the real features that neighbourhoods see: all, or a seeded draw.

        Raises:
            UserError: there are too few for so many neighbours.
        """
        protocol = self.protocol
        drawn = []
        counts = (protocol.neighbour_count, protocol.neighbour_reference_count)
        for which, features, count in zip(("generated", "reference"), (self.fake, self.real), counts, strict=True):
            if count <= neighbours:
                raise UserError(f"{neighbours} nearest neighbours need more than {count} {which} images")
            rows = torch.from_numpy(kept_rows(len(features), count, protocol.metric_seed)).to(features.device)
            drawn.append(features if count == len(features) else features[rows])
        return drawn[0], drawn[1]
