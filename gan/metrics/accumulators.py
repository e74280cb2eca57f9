"""What is kept of the features while batches stream past: `update`, `merge`, `result`.

Merging two accumulators gives what one pass over both streams gives, so that processes can share the work.
"""

import numpy as np
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
        # Centring first loses no digits, where Σ xxᵀ − n μμᵀ would.
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
    """The features themselves, in order of arrival, as float32 in main memory.

    Args:
        expected: so many will come: room for them is made once, where growing would need twice the memory.
    """

    def __init__(self, expected: int = 0) -> None:
        self.count = 0
        self._expected = expected
        self._rows = torch.empty(0, 0)

    def update(self, features: Tensor) -> None:
        """Keep features `(B, D)`."""
        if len(features):
            count = self.count + len(features)
            self._make_room(count, features.shape[1])
            self._rows[self.count : count] = features.detach()
            self.count = count

    def merge(self, other: "FeatureBank") -> None:
        """Keep what `other` has kept, after one's own."""
        if other.count:
            self.update(other.result())

    def result(self) -> Tensor:
        """`(N, D)` float32, not a copy.

        Raises:
            ValueError: nothing was kept.
        """
        if not self.count:
            raise ValueError("no features were kept")
        return self._rows[: self.count]

    def _make_room(self, count: int, dimensions: int) -> None:
        if count > len(self._rows):
            rows = torch.empty(max(count, self._expected, 2 * len(self._rows)), dimensions)
            if self.count:
                rows[: self.count] = self._rows[: self.count]
            self._rows = rows


class SplitProbabilities:
    """What an inception score needs of the logits of `count` images: sums over each split, in float64.

    The splits are torch-fidelity's: the images are shuffled by `shuffle_seed`, then cut into parts of equal size.

    Raises:
        ValueError: fewer images than splits.
    """

    def __init__(self, count: int, splits: int = 10, shuffle_seed: int = 2020) -> None:
        if not 1 <= splits <= count:
            raise ValueError(f"{count} images cannot be cut into {splits} splits")
        bounds = [split * count // splits for split in range(splits + 1)]
        self.sizes = torch.tensor(bounds).diff()
        parts = torch.arange(splits).repeat_interleave(self.sizes)
        order = np.random.RandomState(shuffle_seed).permutation(count)
        self.split_of = torch.empty(count, dtype=torch.int64)
        self.split_of[torch.from_numpy(order)] = parts
        self.negative_entropy = torch.zeros(splits, dtype=torch.float64)  # Σ_x Σ_y p(y|x) log p(y|x)
        self.probabilities = torch.zeros(splits, 0, dtype=torch.float64)  # Σ_x p(y|x)
        self._seen = 0

    def update(self, logits: Tensor) -> None:
        """Add logits `(B, classes)` of the next images."""
        conditional, entropy = conditional_probabilities(logits.to(self.negative_entropy.device))
        if not self._seen:
            self.probabilities = self.probabilities.new_zeros(len(self.sizes), logits.shape[1])
        parts = self.split_of[self._seen : self._seen + len(logits)]
        self.probabilities.index_add_(0, parts, conditional)
        self.negative_entropy.index_add_(0, parts, entropy)
        self._seen += len(logits)

    def divergences(self) -> tuple[Tensor, Tensor]:
        """E KL(p(y|x) ‖ p(y)) of each split, `(splits,)`, and each split's p(y), `(splits, classes)`.

        Raises:
            ValueError: not all images were seen.
        """
        if self._seen != len(self.split_of):
            raise ValueError(f"{self._seen} of {len(self.split_of)} images were seen")
        marginal = self.probabilities / self.sizes[:, None]
        # Σ_y p̄ log p̄ ≤ mean Σ_y p log p; a class that no image can have adds 0
        return self.negative_entropy / self.sizes - torch.xlogy(marginal, marginal).sum(dim=1), marginal


class ClassCounts:
    """How many images a classifier takes for each class."""

    def __init__(self) -> None:
        self.counts = torch.zeros(0, dtype=torch.int64)  # sized by the first logits

    def update(self, logits: Tensor) -> None:
        """Count the largest of logits `(B, classes)`."""
        counts = torch.bincount(logits.argmax(dim=1).cpu(), minlength=logits.shape[1])
        self.counts = counts if not len(self.counts) else self.counts + counts

    def merge(self, other: "ClassCounts") -> None:
        """Add what `other` has seen."""
        if len(other.counts):
            self.counts = other.counts.clone() if not len(self.counts) else self.counts + other.counts

    def result(self) -> Tensor:
        """int64 `(classes,)`.

        Raises:
            ValueError: nothing was seen.
        """
        if not len(self.counts):
            raise ValueError("no logits were seen")
        return self.counts


def conditional_probabilities(logits: Tensor) -> tuple[Tensor, Tensor]:
    """p(y|x) `(B, classes)` and Σ_y p log p `(B,)` of logits, in float64."""
    log_probabilities = logits.double().log_softmax(dim=1)
    conditional = log_probabilities.exp()
    return conditional, torch.where(conditional > 0, conditional * log_probabilities, 0.0).sum(dim=1)
