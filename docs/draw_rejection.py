"""Draw the figures of docs/cascading_rejection.md.

`python docs/draw_rejection.py geometry docs/rejection.png`
`python docs/draw_rejection.py removed outputs/<run> docs/removed.png`
"""

import json
from pathlib import Path

import click
import matplotlib
import numpy as np

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes


@click.group()
def main() -> None:
    """Figures of the cascade."""


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
def geometry(out: Path) -> None:
    """A vector, its component along each stage's weight, and what is left, in the plane."""
    v = np.array([2.0, 1.6])
    w1, w2 = np.array([1.0, 0.15]), np.array([0.5, 1.0])
    w1, w2 = w1 / np.linalg.norm(w1), w2 / np.linalg.norm(w2)
    v2 = v - (v @ w1) * w1
    v3 = v2 - (v2 @ w2) * w2
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    _stage(axes[0], v, w1, v2, 1)
    _stage(axes[1], v2, w2, v3, 2)
    figure.savefig(out, dpi=110)


def _stage(axis: Axes, v: np.ndarray, w: np.ndarray, left: np.ndarray, stage: int) -> None:
    along = (v @ w) * w
    axis.axline((0, 0), tuple(w), color="tab:blue", linewidth=0.8, linestyle=":")
    for vector, colour, name in (
        (v, "black", f"$v_{stage}$"),
        (along, "tab:red", f"$D_{stage} w_{stage}$: scored, then removed"),
        (left, "tab:green", f"$v_{stage + 1}$: left for stage {stage + 1}"),
    ):
        axis.annotate("", tuple(vector), (0, 0), arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 1.8})
        axis.plot([], [], color=colour, label=name)
    axis.plot(*zip(v, along, strict=True), color="grey", linewidth=0.8, linestyle="--")
    axis.plot([], [], color="tab:blue", linestyle=":", label=f"direction of $w_{stage}$")
    axis.set(xlim=(-0.9, 2.6), ylim=(-0.5, 2.1), aspect="equal", title=f"stage {stage}")
    axis.legend(loc="upper left", fontsize="small", frameon=False)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def removed(run: Path, out: Path) -> None:
    """What each stage removes, separates and tells the generator, over the steps of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "stages/auc/stage_1" in line]
    stages = sum(name.startswith("stages/auc/") for name in lines[0])
    steps = [line["step"] for line in lines]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
    for stage in range(1, stages + 1):
        colour = f"C{stage - 1}"
        for kind, style in (("real", "-"), ("fake", "--")):
            shares = [100 * line[f"stages/removed_from_{kind}/stage_{stage}"] for line in lines]
            axes[0].plot(steps, shares, style, color=colour, label=f"stage {stage}, {kind}")
        axes[1].plot(steps, [line[f"stages/auc/stage_{stage}"] for line in lines], color=colour)
        axes[2].plot(steps, [line[f"stages/gradient_share/stage_{stage}"] for line in lines], color=colour)
    axes[0].set(ylabel="removed share of ‖v‖², %", yscale="log")
    axes[0].legend(fontsize="x-small")
    axes[1].set(ylabel="AUC, real against fake")
    axes[2].set(ylabel="share of the generator's gradient")
    for axis in axes:
        axis.set(xlabel="step")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
