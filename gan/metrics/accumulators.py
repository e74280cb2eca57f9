"""What is kept of the features while batches stream past: `update`, `merge`, `result`.

Merging two accumulators gives what one pass over both streams gives, so that processes can share the work.
"""

import torch
from torch import Tensor


class GaussianStatistics:
    """Count, mean and covariance of a stream of features, in float64 (Chan, Golub & LeVeque 1979, equations 2.1)."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.mean = torch.zeros(0, dtype=torch.float64, device=device)  # sized by the first features
        self.scatter = torch.zeros(0, 0, dtype=torch.float64, device=device)  # Σ (x − μ)(x − μ)ᵀ

    def update(self, features: Tensor) -> None:
        """Add features `(B, D)`.

        Raises:
            ValueError: they are not `(B, D)`, or of another D than before.
        """
        if features.ndim != 2:
            raise ValueError(f"expected features (B, D), got {tuple(features.shape)}")
        if not len(features):
            return
        self._size(features.shape[1])
        features = features.to(self.mean.device).double()
        mean = features.mean(dim=0)
        centred = features - mean
        # centring first loses no digits, where Σ xxᵀ − n μμᵀ would
        self.scatter.addmm_(centred.T, centred)
        self._shift(mean, len(features))

    def merge(self, other: "GaussianStatistics") -> None:
        """Add what `other` has seen.

        Raises:
            ValueError: its features have other dimensions.
        """
        if other.count:
            self._size(other.mean.numel())
            self.scatter += other.scatter.to(self.scatter.device)
            self._shift(other.mean.to(self.mean.device), other.count)

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean `(D,)` and unbiased covariance `(D, D)`, as `numpy.cov` has it.

        Raises:
            ValueError: fewer than two features were seen.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 features, got {self.count}")
        return self.mean.clone(), self.scatter / (self.count - 1)

    def _size(self, dimensions: int) -> None:
        if not self.count:
            self.mean = self.mean.new_zeros(dimensions)
            self.scatter = self.scatter.new_zeros(dimensions, dimensions)
        elif dimensions != self.mean.numel():
            raise ValueError(f"features of {dimensions} dimensions after {self.mean.numel()}")

    def _shift(self, mean: Tensor, count: int) -> None:
        """S ← S + δδᵀ n·m/(n + m), μ ← μ + δ m/(n + m), for m more features whose mean is μ + δ."""
        total = self.count + count
        delta = mean - self.mean
        self.scatter.addr_(delta, delta, alpha=self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total


class FeatureBank:
    """The features themselves, in order of arrival, as float32 in main memory; the first `limit` of them if given."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.count = 0
        self._batches: list[Tensor] = []

    def update(self, features: Tensor) -> None:
        """Keep features `(B, D)`, as far as the limit allows."""
        room = len(features) if self.limit is None else min(len(features), self.limit - self.count)
        if room > 0:
            # a slice would hold on to its whole batch
            self._batches.append(features[:room].detach().to("cpu", torch.float32, copy=True))
            self.count += room

    def merge(self, other: "FeatureBank") -> None:
        """Keep what `other` has kept, after one's own, as far as the limit allows."""
        for batch in list(other._batches):
            self.update(batch)

    def result(self) -> Tensor:
        """`(N, D)` float32.

        Raises:
            ValueError: nothing was kept.
        """
        if not self._batches:
            raise ValueError("no features were kept")
        self._batches = [torch.cat(self._batches)]
        return self._batches[0]
