"""`gan export`: a trained generator as a folder to share."""

from pathlib import Path
from typing import Literal

import click

from gan.commands.command_line import FilePath, OneLineCommand, which_checkpoint
from gan.commands.reporting import one_line_errors
from gan.processes import importing


@click.command("export", cls=OneLineCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("run", type=FilePath())
@click.option(
    "--format", "fmt", required=True, type=click.Choice(["safetensors", "onnx", "torchscript", "huggingface"]),
    help="Of the weights: a state dict, a graph for onnxruntime, one for torch, or a folder for the Hugging Face Hub.",
)  # fmt: skip
@click.option("--out", required=True, type=FilePath(), help="A new or empty folder.")
@click.option("--license", "licence", help="Of the weights, for the model card: mit, cc-by-4.0, ... [default: unknown]")
@click.option(
    "--dtype", default="float32", show_default=True, type=click.Choice(["float32", "float16"]),
    help="Of the stored state dict; the halves that are loaded are what is shared.",
)  # fmt: skip
@click.option("--step", type=click.IntRange(min=0), help="Which checkpoint. [default: the newest]")
@click.option("--best", is_flag=True, help="The checkpoint with the best score, where evaluation.best kept one.")
@click.option("--raw", is_flag=True, help="The raw generator instead of its moving average.")
def main(
    run: Path,
    fmt: str,
    out: Path,
    licence: str | None,
    dtype: Literal["float32", "float16"],
    step: int | None,
    best: bool,
    raw: bool,
) -> None:
    """Export the generator of RUN: a run directory, a checkpoint in one, or a folder exported as safetensors.

    The folder holds the weights, the config, a model card with the measured scores, and a grid of samples.
    """
    with one_line_errors():
        with importing():
            from gan.sampling.export import export
        chosen = which_checkpoint(step, best)
        weights: Literal["raw"] | None = "raw" if raw else None
        click.echo(export(run, fmt, out, licence=licence, dtype=dtype, step=chosen, weights=weights))
