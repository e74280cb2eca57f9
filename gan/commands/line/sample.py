"""`gan sample`: images of a trained generator."""

from pathlib import Path
from typing import Any

import click

from gan.commands.command_line import FilePath, OneLineCommand, refuse_given, which_checkpoint
from gan.commands.reporting import one_line_errors
from gan.processes import importing


@click.command("sample", cls=OneLineCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run", type=FilePath())
@click.option("--out", required=True, type=FilePath(), help="A folder, or a file where one is written.")
@click.option(
    "--format", "fmt",
    type=click.Choice(["png", "npz", "grid", "interpolation", "classes"]),
    help="A folder of PNG files, an archive, a picture (with classes: one a row, named), a GIF through latent space, "
    "a picture of one class a row and one latent a column. "
    "[default: grid for FILE.png, npz for FILE.npz, interpolation for FILE.gif, else png]",
)  # fmt: skip
@click.option(
    "--count", type=click.IntRange(min=1),
    help="Images; latents that an interpolation passes; columns of a class grid. "
    "[default: the config's evaluation.samples; grid 64, interpolation 8, classes 10]",
)  # fmt: skip
@click.option("--classes", help="Which labels, as 0,3,5-9 or by name. [default: all, uniformly]")
@click.option("--truncation", type=click.FloatRange(min=0.01), help="Draw latents beyond it again. [default: none]")
@click.option(
    "--seed", type=click.IntRange(min=0), help="Of latents and labels. [default: the config's evaluation.seed]"
)
@click.option("--frames", type=click.IntRange(min=1), default=16, show_default=True, help="From a latent to the next.")
@click.option("--step", type=click.IntRange(min=0), help="Which checkpoint. [default: the newest]")
@click.option("--best", is_flag=True, help="The checkpoint with the best score, where evaluation.best kept one.")
@click.option("--raw", is_flag=True, help="The raw generator instead of its moving average.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images at a time. [default: the config's]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
def main(run: Path, step: int | None, best: bool, raw: bool, device: str, **arguments: Any) -> None:
    """Sample the generator of RUN: a run directory, a checkpoint in one, or a folder exported as safetensors.

    A PNG folder that was begun is gone on with; nothing else is written over.
    """
    with one_line_errors():
        with importing():
            from gan.sampling.open import open_generator
            from gan.sampling.write import form_of, write_samples
        if form_of(arguments["out"], arguments["fmt"]) != "interpolation":
            refuse_given(("frames",), "only an interpolation has them; accepted with --format interpolation")
        generator = open_generator(
            run, step=which_checkpoint(step, best), weights="raw" if raw else None, device=device
        )
        click.echo(write_samples(generator, **arguments))
