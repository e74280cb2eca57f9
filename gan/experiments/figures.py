"""Pictures of a comparison: every run and the differences, curves with bands, sample grids side by side."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from gan.experiments.comparison_config import Comparison
from gan.experiments.outcomes import Outcome
from gan.experiments.statistics import Estimate
from gan.files import atomic_path
from gan.metrics.results import RESULT_KEYS


def draw_differences(
    values: Mapping[str, Mapping[int, float]], pairs: Mapping[str, Estimate], name: str, out: Path
) -> str | None:
    """Every run's measure, runs of one seed joined, and the paired differences with their intervals.

    Args:
        values: by arm, then seed.
        pairs: differences by what they are called.
        name: of the measure.
        out: directory of the picture.

    Returns:
        The file's name; None without two arms.
    """
    from matplotlib.figure import Figure

    if sum(map(bool, values.values())) < 2:
        return None
    figure = Figure(figsize=(11, 1.2 + 0.3 * max(len(values), len(pairs))), layout="constrained")
    left, right = figure.subplots(1, 2)
    arms = list(values)
    for seed in sorted({seed for seeds in values.values() for seed in seeds}):
        places = [(values[arm][seed], row) for row, arm in enumerate(arms) if seed in values[arm]]
        left.plot(*zip(*places, strict=True), marker="o", markersize=4, linewidth=0.5, alpha=0.6, label=f"seed {seed}")
    for row, arm in enumerate(arms):
        if values[arm]:
            left.plot([np.mean(list(values[arm].values()))], [row], marker="|", markersize=16, color="black")
    left.set(yticks=range(len(arms)), yticklabels=arms, xlabel=name)
    for row, found in enumerate(pairs.values()):
        if np.isfinite(found.low):
            right.plot([found.low, found.high], [row, row], color="black")
        right.plot([found.mean], [row], marker="o", color="black")
    right.axvline(0, linestyle=":", color="grey")
    right.set(yticks=range(len(pairs)), yticklabels=list(pairs), xlabel=f"difference in {name}, 95 % t interval")
    for axis in (left, right):
        axis.invert_yaxis()
    with atomic_path(out / "differences.png") as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return "differences.png"


def draw_curves(comparison: Comparison, outcomes: Mapping[str, Mapping[int, Outcome]], out: Path) -> str | None:
    """The primary measure over steps and over training time, mean and range over seeds; None without two points."""
    from matplotlib.figure import Figure  # here, because importing it takes a second

    primary = comparison.config.primary
    if primary not in RESULT_KEYS:
        return None
    name = f"evaluation/{RESULT_KEYS[primary][0]}"
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    drawn = False
    for arm, seeds in outcomes.items():
        curves = [[point for point in outcome.curve if name in point] for outcome in seeds.values()]
        curves = [curve for curve in curves if len(curve) > 1]
        if not curves:
            continue
        drawn = True
        length = min(map(len, curves))
        values = np.array([[point[name] for point in curve[:length]] for curve in curves])
        for axis, key in zip(axes, ("step", "seconds"), strict=True):
            places = np.mean([[point[key] for point in curve[:length]] for curve in curves], axis=0)
            (line,) = axis.plot(places, values.mean(0), label=arm)
            axis.fill_between(places, values.min(0), values.max(0), alpha=0.15, color=line.get_color(), linewidth=0)
            axis.set_xlabel({"step": "steps", "seconds": "seconds of training"}[key])
    if not drawn:
        return None
    axes[0].set_ylabel(name.removeprefix("evaluation/").replace("_", " "))
    axes[0].legend()
    with atomic_path(out / "curves.png") as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return "curves.png"


def draw_samples(comparison: Comparison, out: Path) -> str | None:
    """The last sample grid of every arm with the first seed, side by side; None where the runs are not here."""
    seed, tiles = comparison.config.seeds[0], []
    for arm in comparison.config.arms:
        grids = sorted((out / "runs" / f"{arm}-seed{seed}" / "samples").glob("samples_*.png"))
        if grids:
            with Image.open(grids[-1]) as image:
                tiles.append((arm, image.convert("RGB")))
    if not tiles:
        return None
    width, height = max(tile.width for _, tile in tiles), max(tile.height for _, tile in tiles)
    columns = min(len(tiles), 4)
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (width + 6), rows * (height + 20)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (arm, tile) in enumerate(tiles):
        corner = (number % columns * (width + 6), number // columns * (height + 20))
        draw.text((corner[0] + 2, corner[1] + 4), arm, fill="black")
        sheet.paste(tile, (corner[0], corner[1] + 18))
    with atomic_path(out / "samples.png") as temporary:
        sheet.save(temporary, format="png")
    return "samples.png"
