"""Fidelity and diversity by nearest neighbours: precision and recall, density and coverage, in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gan.progress import passing_bar

COLUMNS = 10_000  # torch-fidelity's blocks: a matrix product's rounding depends on its shape
ROWS = 1_000  # 40 MB of distances at a time


@dataclass(frozen=True)
class Score:
    """A number, and what its interval is made of.

    `influence` is its influence function at each generated image, `(N,)` of mean 0 (see `uncertainty`), None where it
    has no interval; `noise` is the standard error of what is random in the number itself.
    """

    value: float
    influence: Tensor | None = None
    noise: float = 0.0


def precision_and_recall(
    fake: Tensor, real: Tensor, neighbours: int = 3, progress: bool = False
) -> tuple[Score, Score]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, equations 1 and 2), equal to torch-fidelity's.

    A set's manifold is the union of balls around its features, each reaching to its k-th nearest other feature.
    Precision is the share of generated features in the real manifold, recall that of real ones in the generated.

    Args:
        fake, real: features `(N, D)` and `(M, D)`.
        neighbours: k.

    Raises:
        ValueError: the dimensions differ, or a set has no more than k features.
    """
    fake_radii, real_radii = (_radii(features, neighbours, progress) for features in (fake, real))
    inside = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    found = torch.zeros(len(real), dtype=torch.int64, device=fake.device)  # balls that a real feature lies in
    finder = torch.zeros(len(real), dtype=torch.int64, device=fake.device)  # one of them
    for rows, columns, distances in _blocks(fake, real, "precision and recall", progress):
        inside[rows] |= (distances <= real_radii[columns]).any(dim=1)
        _count(found, finder, rows, columns, distances <= fake_radii[rows, None])
    precision = inside.float().mean().item()  # in float32, as torch-fidelity has it
    return Score(precision, (inside.double() - precision).cpu()), _share_found(found, finder, len(fake))


def density_and_coverage(
    fake: Tensor, real: Tensor, neighbours: int = 5, progress: bool = False
) -> tuple[Score, Score]:
    """Density and coverage (Naeem et al. 2020, equations 3 and 4), with balls around real features only.

    Density is the mean number of real balls that a generated feature lies in, over k; coverage the share of real
    balls with a generated feature in them.

    Args, Raises: as `precision_and_recall`.
    """
    radii = _radii(real, neighbours, progress)
    balls = torch.zeros(len(fake), dtype=torch.float64, device=fake.device)
    found = torch.zeros(len(real), dtype=torch.int64, device=fake.device)
    finder = torch.zeros(len(real), dtype=torch.int64, device=fake.device)
    for rows, columns, distances in _blocks(fake, real, "density and coverage", progress):
        within = distances < radii[columns]
        balls[rows] += within.sum(dim=1)
        _count(found, finder, rows, columns, within)
    return _mean(balls / neighbours), _share_found(found, finder, len(fake))


def authenticity(fake: Tensor, real: Tensor, progress: bool = False) -> Score:
    """The share of generated features that copy no real one (Alaa et al. 2022, arXiv:2102.08921, section 3.3).

    One is a copy where it is no further from its nearest real feature than that is from its own nearest other one. Of
    honest generators as many are authentic as of real images that the reference lacks; copies are not.

    Args, Raises: as `precision_and_recall`; the reference should be the images that the generator was trained on.
    """
    nearest = torch.full((len(fake),), torch.inf, device=fake.device)
    whose = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)
    for rows, columns, distances in _blocks(fake, real, "authenticity", progress):
        closest, place = distances.min(dim=1)
        better = closest < nearest[rows]
        whose[rows] = torch.where(better, place + columns.start, whose[rows])
        nearest[rows] = torch.where(better, closest, nearest[rows])
    return _mean((nearest > _radii(real, 1, progress)[whose]).double())


def _radii(features: Tensor, neighbours: int, progress: bool) -> Tensor:
    """Distance of each feature to its k-th nearest other one, `(N,)`."""
    if len(features) <= neighbours:
        raise ValueError(f"{len(features)} features have no {neighbours} neighbours each")
    radii = features.new_zeros(len(features))
    nearest: Tensor | None = None
    for rows, columns, distances in _blocks(features, features, "neighbours", progress):
        smallest = distances.topk(min(neighbours + 1, distances.shape[1]), largest=False).values
        nearest = smallest if columns.start == 0 or nearest is None else torch.cat([nearest, smallest], dim=1)
        if columns.stop >= len(features):
            radii[rows] = nearest.kthvalue(neighbours + 1, dim=1).values  # the feature itself is the first
    return radii


def _blocks(first: Tensor, second: Tensor, name: str, progress: bool) -> Iterator[tuple[slice, slice, Tensor]]:
    """Euclidean distances in blocks, row by row: which rows, which columns, `(rows, columns)`."""
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"features of {first.shape[1]} and {second.shape[1]} dimensions")
    with passing_bar(len(first), name, "images", progress) as bar:
        for row in range(0, len(first), ROWS):
            rows = slice(row, row + ROWS)
            for column in range(0, len(second), COLUMNS):
                columns = slice(column, column + COLUMNS)
                yield rows, columns, torch.cdist(first[rows], second[columns])
            bar.update(len(first[rows]))


def _count(found: Tensor, finder: Tensor, rows: slice, columns: slice, within: Tensor) -> None:
    found[columns] += within.sum(dim=0)
    hit = within.any(dim=0)
    finder[columns] = torch.where(hit, within.int().argmax(dim=0) + rows.start, finder[columns])


def _mean(values: Tensor) -> Score:
    return Score(values.mean().item(), (values - values.mean()).cpu())


def _share_found(found: Tensor, finder: Tensor, count: int) -> Score:
    """The influence is the jackknife's: without its only finder, a real feature would not be found."""
    lost = torch.zeros(count, dtype=torch.float64, device=found.device)
    only = finder[found == 1]
    lost.index_add_(0, only, torch.ones(len(only), dtype=torch.float64, device=found.device))
    influence = (count - 1) * lost / len(found)
    return Score((found > 0).float().mean().item(), (influence - influence.mean()).cpu())
