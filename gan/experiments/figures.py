"""Pictures of a comparison: every run and the differences, curves with bands, sample grids side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from gan.experiments.comparison import Comparison, Plan
from gan.experiments.outcomes import Outcomes
from gan.experiments.verdicts import ArmPair, Verdict
from gan.files import atomic_path
from gan.metrics.table import METRICS

COLOURS = {"better": "tab:green", "worse": "tab:red", "equivalent": "tab:blue", "undecided": "dimgrey"}


def draw_differences(
    config: Plan, outcomes: Outcomes, verdicts: Mapping[ArmPair, Verdict], name: str, out: Path
) -> str | None:
    """Every run's primary measure, runs of one seed joined, and the paired differences or ratios with their intervals.

    Args:
        config: of the comparison.
        outcomes: by arm, then seed.
        verdicts: by pair of arms.
        name: of the measure.
        out: directory of the picture.

    Returns:
        The file's name; None where nothing may be compared.
    """
    from matplotlib.figure import Figure

    if not verdicts:
        return None
    figure = Figure(figsize=(11, 1.2 + 0.3 * max(len(outcomes), len(verdicts))), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_runs(left, config, outcomes, name)
    _draw_pairs(right, config, verdicts, name)
    for axis in (left, right):
        axis.invert_yaxis()
    with atomic_path(out / "differences.png") as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return "differences.png"


def _draw_runs(axis: Any, config: Plan, outcomes: Outcomes, name: str) -> None:
    """A line for each seed; a run that diverged interrupts it."""
    measure, arms = config.primary.measure, list(outcomes)
    values = np.array(
        [[outcomes[arm][seed].measures.get(measure, np.nan) for arm in arms] for seed in outcomes[arms[0]]]
    )
    for row in values:
        axis.plot(row, range(len(arms)), marker="o", markersize=4, linewidth=0.5, alpha=0.6)
    for place, column in enumerate(values.T):
        column = column[np.isfinite(column)]
        if len(column):
            mean = np.exp(np.log(column).mean()) if config.primary.log else column.mean()
            axis.plot([mean], [place], marker="|", markersize=16, color="black")
    if config.primary.log:
        _log_scale(axis)
    axis.set(yticks=range(len(arms)), yticklabels=arms, xlabel=name)


def _draw_pairs(axis: Any, config: Plan, verdicts: Mapping[ArmPair, Verdict], name: str) -> None:
    log = config.primary.log
    names = [f"{arm} / {base}" if log else f"{arm} − {base}" for base, arm in verdicts]
    for row, verdict in enumerate(verdicts.values()):
        found = verdict.contrast.interval
        if found is not None:
            mean, low, high = ((np.exp if log else float)(one) for one in (found.mean, found.low, found.high))
            if np.isfinite([low, high]).all():
                axis.plot([low, high], [row, row], color=COLOURS[verdict.answer])
            axis.plot([mean], [row], marker="o", color=COLOURS[verdict.answer])
    margin = 1 + config.resolve
    if log:
        axis.axvspan(1 / margin, margin, color="lightgrey", alpha=0.5, linewidth=0)
        _log_scale(axis)
    axis.axvline(1 if log else 0, linestyle=":", color="grey")
    what = "ratio" if log else "difference"
    axis.set(yticks=range(len(verdicts)), yticklabels=names, xlabel=f"{what} of {name}, 95 % interval")


def _log_scale(axis: Any) -> None:
    from matplotlib.ticker import LogLocator

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")


def draw_curves(config: Plan, outcomes: Outcomes, out: Path) -> str | None:
    """The primary measure over steps and over training time, mean and range over seeds; None without two points."""
    from matplotlib.figure import Figure  # here, because importing it takes a second

    primary = config.primary.measure
    if primary not in METRICS:
        return None
    name = f"evaluation/{METRICS[primary].keys[0]}"
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
        mean = np.exp(np.log(values).mean(0)) if config.primary.log and values.min() > 0 else values.mean(0)
        for axis, key in zip(axes, ("step", "seconds"), strict=True):
            places = np.mean([[point[key] for point in curve[:length]] for curve in curves], axis=0)
            (line,) = axis.plot(places, mean, label=arm)
            axis.fill_between(places, values.min(0), values.max(0), alpha=0.15, color=line.get_color(), linewidth=0)
            axis.set_xlabel({"step": "steps", "seconds": "seconds of training"}[key])
            axis.set_yscale("log" if config.primary.log else "linear")
    if not drawn:
        return None
    if config.primary.target is not None:
        for axis in axes:
            axis.axhline(config.primary.target, linestyle=":", color="grey")
    axes[0].set_ylabel(name.removeprefix("evaluation/").replace("_", " "))
    axes[0].legend()
    with atomic_path(out / "curves.png") as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return "curves.png"


def draw_samples(comparison: Comparison, out: Path) -> str | None:
    """The last sample grid of every arm with the first seed, side by side; None where the runs are not here."""
    seed, tiles = comparison.config.seeds[0], []
    for arm in comparison.config.arms:
        grids = sorted((out / "runs" / f"{arm}_seed{seed}" / "samples").glob("samples_*.png"))
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
