"""Draw a run's distance over its steps: `python docs/plot_run.py outputs/<run> FLOOR docs/curve.png`.

FLOOR is the distance between real images and the same reference (`evaluate.py images TRAIN TEST`); nothing generated
can be expected to come below it.
"""

import json
from pathlib import Path

import click
import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("floor", type=float)
@click.argument("out", type=click.Path(path_type=Path))
def main(run: Path, floor: float, out: Path) -> None:
    """Draw evaluation/frechet_distance and the discriminator's margins of RUN, with FLOOR as a line, to OUT."""
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    scored = [line for line in logged if "evaluation/frechet_distance" in line]
    left.plot([line["step"] for line in scored], [line["evaluation/frechet_distance"] for line in scored], marker="o")
    left.axhline(floor, linestyle=":", color="grey", label="real images")
    left.set(xlabel="step", ylabel="Fréchet distance", ylim=(0, None))
    left.legend()
    trained = [line for line in logged if "loss/discriminator" in line]
    for name in sorted(name for name in trained[0] if name.startswith("scores/margin/")):
        stage = name.rpartition("_")[2]
        right.plot([line["step"] for line in trained], [line[name] for line in trained], label=f"stage {stage}")
    right.set(xlabel="step", ylabel="mean real − mean fake score")
    right.legend()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
