"""Score a trained generator: `python evaluate.py checkpoint outputs/<run>`."""

from pathlib import Path
from typing import Any

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure generators; every number carries the protocol it was measured by."""


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--step", type=click.IntRange(min=0), help="Which checkpoint. [default: the newest]")
@click.option("--raw", is_flag=True, help="Score the raw generator instead of its moving average.")
@click.option("--extractor", help="inception or efficientnet_lite0. [default: the config's]")
@click.option("--weights", help="File of the extractor's weights, where they cannot be downloaded.")
@click.option("--metrics", help="Of fid, is, kid; separated by commas. [default: the config's]")
@click.option("--samples", type=click.IntRange(min=2), help="How many images to generate. [default: the config's]")
@click.option("--reference", help="Split to measure against. [default: the config's]")
@click.option("--reference-path", help="File or folder to measure against. [default: the config's]")
@click.option("--seed", type=click.IntRange(min=0), help="Of the latents. [default: the config's]")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images at a time. [default: the config's]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of a table.")
def checkpoint(run: Path, step: int | None, raw: bool, device: str, as_json: bool, **settings: Any) -> None:
    """Score a checkpoint of RUN against real images, with its config's protocol unless told otherwise.

    The result is printed and saved with its protocol in RUN/evaluations.
    """
    from gan.commands.reporting import one_line_errors
    from gan.commands.score_run import score_run

    settings["metrics"] = settings["metrics"].split(",") if settings["metrics"] else None
    chosen = {name: value for name, value in settings.items() if value is not None}
    with one_line_errors("evaluate.py"):
        click.echo(score_run(run, step, "raw" if raw else "ema", device, chosen, as_json))


@main.command()
@click.argument("images")
@click.argument("reference")
@click.option("--extractor", default="efficientnet_lite0", show_default=True, help="inception or efficientnet_lite0.")
@click.option("--weights", help="File of the extractor's weights, where they cannot be downloaded.")
@click.option("--metrics", default="fid", show_default=True, help="Of fid, is, kid; separated by commas.")
@click.option("--resolution", type=click.IntRange(min=8), default=32, show_default=True, help="Both are brought to it.")
@click.option("--limit", type=click.IntRange(min=2), help="At most so many images of each.")
@click.option("--reference-limit", type=click.IntRange(min=2), help="Of REFERENCE, where that differs.")
@click.option("--batch-size", type=click.IntRange(min=1), default=50, show_default=True, help="Images at a time.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of a table.")
def images(images: str, reference: str, metrics: str, **settings: Any) -> None:
    """Score IMAGES against REFERENCE.

    Each is a folder, an .npz file, or the name of a data set with or without a split, such as cifar10:test.
    """
    from gan.commands.reporting import one_line_errors
    from gan.commands.score_images import score_images

    with one_line_errors("evaluate.py"):
        click.echo(score_images(images, reference, metrics=metrics.split(","), **settings))


if __name__ == "__main__":
    main()
