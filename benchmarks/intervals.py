"""How often 95 % intervals of a Fréchet distance contain its expectation, by four ways of making them.

`python benchmarks/intervals.py`. Gaussian images against a Gaussian reference that is known; the expectation at each N
is the mean of 600 other sets. Prints coverage and mean width, the latter over that of the true interval.
"""

import sys
from pathlib import Path

import click
import numpy as np
import torch
from scipy import stats
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from gan.metrics.formulas import FrechetTarget
from gan.metrics.uncertainty import bootstrap_interval, frechet_influence

GROUPS = 20  # of the jackknife


def distance(target: FrechetTarget, features: Tensor, counts: Tensor | None = None) -> float:
    """The Fréchet distance of features `(N, D)`, each counted `counts` `(N,)` times."""
    counts = features.new_ones(len(features)) if counts is None else counts
    mean = counts @ features / len(features)
    centred = features - mean
    return target.distance(mean, (centred * counts[:, None]).T @ centred / (len(features) - 1)).item()


def intervals(target: FrechetTarget, features: Tensor, replicates: int, random: torch.Generator) -> dict[str, tuple]:
    """The interval of each way, and the resamples' mean less the distance."""
    count, value = len(features), distance(target, features)
    draws = [torch.randint(count, (count,), generator=random).bincount(minlength=count) for _ in range(replicates)]
    resampled = np.array([distance(target, features, drawn.double()) for drawn in draws])
    low, high = np.quantile(resampled, [0.025, 0.975])
    shift = resampled.mean() - value
    groups = torch.randperm(count, generator=random).chunk(min(GROUPS, count))
    kept = [np.setdiff1d(np.arange(count), group.numpy()) for group in groups]
    left_out = np.array([distance(target, features[rows]) for rows in kept])
    error = np.sqrt((len(groups) - 1) / len(groups) * np.square(left_out - left_out.mean()).sum())
    reach = stats.t.ppf(0.975, len(groups) - 1) * error
    return {
        "percentile": (low, high),
        "shifted back": (low - shift, high - shift),
        "jackknife": (value - reach, value + reach),
        "influence": bootstrap_interval(value, frechet_influence(target, features), replicates, 0),
        "bias": (0.0, shift),
    }


def simulate(target: FrechetTarget, factor: Tensor, count: int, sets: int, replicates: int) -> str:
    """A row of the table: bias of a resample over the true deviation, then coverage and relative width of each way."""
    random = torch.Generator().manual_seed(count)

    def draw() -> Tensor:
        return torch.randn(count, len(factor), generator=random, dtype=torch.float64) @ factor.T

    others = np.array([distance(target, draw()) for _ in range(600)])
    made = [intervals(target, draw(), replicates, random) for _ in range(sets)]
    cells = [f"{np.mean([each['bias'][1] for each in made]) / others.std():5.1f}"]
    for way in ("percentile", "shifted back", "jackknife", "influence"):
        bounds = np.array([each[way] for each in made])
        covered = np.mean((bounds[:, 0] <= others.mean()) & (others.mean() <= bounds[:, 1]))
        width = np.mean(bounds[:, 1] - bounds[:, 0]) / (2 * 1.96 * others.std())
        cells.append(f"{covered:12.0%} {width:4.1f}")
    return f"{count:6} " + " ".join(cells)


@click.command()
@click.option("--dimensions", default=16, show_default=True, type=click.IntRange(min=2))
@click.option("--sets", default=150, show_default=True, type=click.IntRange(min=2), help="Independent sets of images.")
@click.option("--replicates", default=200, show_default=True, type=click.IntRange(min=20), help="Of a bootstrap.")
def main(dimensions: int, sets: int, replicates: int) -> None:
    """Simulate and print the tables."""
    random = torch.Generator().manual_seed(0)
    mixings = torch.randn(2, dimensions, dimensions, generator=random, dtype=torch.float64) / dimensions**0.5
    covariances = mixings @ mixings.mT + 0.1 * torch.eye(dimensions, dtype=torch.float64)
    factor = torch.linalg.cholesky(covariances[0])
    mixed = covariances.mean(dim=0)
    other = FrechetTarget(torch.full((dimensions,), 0.05, dtype=torch.float64), mixed)
    same = FrechetTarget(torch.zeros(dimensions, dtype=torch.float64), covariances[0])
    for name, target in (("generator and reference differ", other), ("generator and reference agree", same)):
        click.echo(
            f"{name}: {dimensions} dimensions\n     N  bias   percentile     shifted back    jackknife        influence"
        )
        for multiple in (0.5, 2, 10, 50):
            click.echo(simulate(target, factor, int(multiple * dimensions), sets, replicates))


if __name__ == "__main__":
    main()
