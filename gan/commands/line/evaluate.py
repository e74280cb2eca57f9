"""`gan evaluate`: score generators and images, compare scores, audit runs.

On several devices: `torchrun --nproc_per_node=2 -m gan evaluate checkpoint RUN`, or `images A B`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import click

from gan.commands.command_line import FilePath, OneLineGroup, refuse_given, which_checkpoint
from gan.commands.reporting import one_line_errors
from gan.errors import UserError
from gan.processes import importing, one_voice, started_with_others

EXTRACTORS = "inception, efficientnet_lite0, vgg16, clip-vit-b-32, dinov2-vit-s-14, ..."
SEVERAL = "Several, separated by commas, are measured side by side."
FOLDER = FilePath()
OF_COMMUNITIES = (
    "extractor", "weights", "weights_sha256", "gallery", "held_out", "components", "variance", "neighbours",
    "minimum_size",
)  # fmt: skip
RUN_CACHE = "Where real images and their features are kept. [default: that of training, or data in RUN]"
METRICS = "Names of metrics (docs/evaluation.md), separated by commas; a wrong one is answered with all of them."


@click.group("evaluate", cls=OneLineGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure generators; every number carries the protocol it was measured by."""


@contextmanager
def processes(device: str) -> Iterator[str]:
    """Within the block the processes that torchrun has started, if any, know each other; yields this one's device."""
    with importing():
        from gan import distributed
        from gan.device import resolve_device
    place = resolve_device(distributed.local_device(device))
    with distributed.joined(place):
        yield str(place)


def tell(text: str) -> None:
    """Of several processes one speaks."""
    from gan import distributed

    if distributed.is_main():
        click.echo(text)


def extractor_options(command: Callable[..., None]) -> Callable[..., None]:
    """How features are made of images, and how sure the scores are."""
    dtypes = click.Choice(["float32", "bfloat16", "float16"])
    resizings = click.Choice(["extractor", "antialiased"])
    for option in (
        click.option("--compile", "compiled", is_flag=True, help="Compile the extractor if its features stay equal."),
        click.option(
            "--bootstrap", type=click.IntRange(min=0), help="Resamplings for 95 % intervals. [default: the run's, or 0]"
        ),
        click.option("--resize", type=resizings, help="extractor: its own way; antialiased: bicubic, as clean-fid."),
        click.option(
            "--dtype", type=dtypes, help="Of the extractor's arithmetic, stamped. [default: the run's, or float32]"
        ),
        click.option("--weights-sha256", help="Digest of that file, where it is not the official one."),
        click.option("--weights", help="File of the extractor's weights, where they cannot be downloaded."),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("run", type=FilePath())
@click.option("--step", type=click.IntRange(min=0), help="Which checkpoint. [default: the newest]")
@click.option("--raw", is_flag=True, help="Score the raw generator instead of its moving average.")
@click.option("--best", is_flag=True, help="The checkpoint with the best score, where evaluation.best kept one.")
@click.option("--extractor", help=f"{EXTRACTORS} {SEVERAL} [default: the config's]")
@extractor_options
@click.option("--metrics", help=f"{METRICS} [default: the config's]")
@click.option("--samples", type=click.IntRange(min=2), help="How many images to generate. [default: the config's]")
@click.option("--reference", help="Split to measure against. [default: the config's]")
@click.option("--reference-path", help="File or folder to measure against. [default: the config's]")
@click.option("--seed", type=click.IntRange(min=0), help="Of the latents. [default: the config's]")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images at a time. [default: the config's]")
@click.option("--cache", type=FOLDER, help=RUN_CACHE)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of a table.")
def checkpoint(
    run: Path,
    step: int | None,
    best: bool,
    raw: bool,
    compiled: bool,
    device: str,
    cache: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Score a checkpoint of RUN against real images, with its config's protocol unless told otherwise.

    The result is printed and saved with its protocol in RUN/evaluations. RUN may also be a folder that was exported as
    safetensors: its score is printed, beside the one that it came with.
    """
    settings["metrics"] = settings["metrics"].split(",") if settings["metrics"] else None
    settings["compile"] = compiled or None
    chosen = {name: value for name, value in settings.items() if value is not None}
    weights: Literal["ema", "raw"] = "raw" if raw else "ema"
    with one_line_errors(), one_voice():
        asked = which_checkpoint(step, best)
        with importing():
            from gan.commands.score import score_run
        with processes(device) as place:
            tell(score_run(run, asked, weights, place, chosen, as_json, cache))


@main.command()
@click.argument("images")
@click.argument("reference")
@click.option(
    "--extractor",
    default="efficientnet_lite0",
    show_default=True,
    help=f"{EXTRACTORS} {SEVERAL}",
)
@extractor_options
@click.option("--metrics", default="fid", show_default=True, help=METRICS)
@click.option("--resolution", type=click.IntRange(min=8), help="Both are brought to it. [default: a run's, or 32]")
@click.option("--limit", type=click.IntRange(min=2), help="At most so many images of each.")
@click.option("--reference-limit", type=click.IntRange(min=2), help="Of REFERENCE, where that differs.")
@click.option("--held-out", help="Other real images: FDr is the mean of FD(IMAGES)/FD(held out) over the extractors.")
@click.option("--skip-corrupt", is_flag=True, help="Pass over files of a folder that cannot be read, and count them.")
@click.option("--cache", type=FOLDER, help="For prepared images. [default: outputs/data if there, else ~/.cache/gan]")
@click.option("--batch-size", type=click.IntRange(min=1), default=50, show_default=True, help="Images at a time.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of a table.")
def images(
    images: str,
    reference: str,
    metrics: str,
    extractor: str,
    dtype: str | None,
    resize: str | None,
    bootstrap: int | None,
    **settings: Any,
) -> None:
    """Score IMAGES against REFERENCE.

    Each is a folder, an .npz file, the name of a data set with or without a split (cifar10:test), a run, one of its
    checkpoints or an exported folder, whose images are generated.
    """
    settings |= {"metrics": metrics.split(","), "dtype": dtype or "float32", "bootstrap": bootstrap or 0}
    settings |= {"resize": resize or "extractor", "extractors": extractor.split(",")}
    with one_line_errors(), one_voice():
        with importing():
            from gan.commands.score import score_images
        with processes(settings.pop("device")) as place:
            tell(score_images(images, reference, device=place, **settings))


@main.command()
@click.argument("results", nargs=-1, required=True, type=FilePath())
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON instead of a table.")
def compare(results: tuple[Path, ...], as_json: bool) -> None:
    """Put RESULTS side by side: JSON files, or runs, of which the newest result is taken.

    Results of different protocols are refused, and the fields that differ are named.
    """
    with one_line_errors():
        with importing():
            from gan.scoring.saved_results import compare_results
        click.echo(compare_results(results, as_json))


def audit_command(command: Callable[..., None]) -> Callable[..., None]:
    """The arguments that both audits take."""
    arguments = [
        click.argument("run", type=FilePath()),
        click.option("--step", type=click.IntRange(min=0), help="Which checkpoint. [default: the newest]"),
        click.option("--raw", is_flag=True, help="Audit the raw generator instead of its moving average."),
        click.option("--extractor", help="pixels, or one of the metrics' extractors. [default: the config's]"),
        click.option("--weights", help="File of the extractor's weights, where they cannot be downloaded."),
        click.option("--weights-sha256", help="Digest of that file, where it is not the official one."),
        click.option("--samples", type=click.IntRange(min=10), help="Images to generate. [default: the config's]"),
        click.option("--seed", type=click.IntRange(min=0), help="Of the latents. [default: the config's]"),
        click.option("--batch-size", type=click.IntRange(min=1), help="Images at a time. [default: the config's]"),
        click.option("--gallery", type=click.IntRange(min=10), help="At most so many training images. [default: all]"),
        click.option("--held-out", type=click.IntRange(min=10), help="At most so many held-out images. [default: all]"),
        click.option("--held-out-path", help="File or folder of them. [default: the test split]"),
        click.option("--components", type=click.IntRange(min=1), help="Columns of whitened features to keep."),
        click.option("--variance", type=click.FloatRange(0, 1, min_open=True), help="Or their share of the variance."),
        click.option("--cache", type=FOLDER, help=RUN_CACHE),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ..."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of a table."),
    ]
    for argument in reversed(arguments):
        command = argument(command)
    return command


def open_audit(
    run: Path,
    step: int | None,
    raw: bool,
    device: str,
    cache: Path | None,
    held_out_path: str | None,
    neighbours: int,
    **values: Any,
) -> tuple[Any, Any]:
    """The run that an audit looks at, and what it is asked for."""
    if started_with_others():
        raise UserError("found under torchrun; accepted: one process, which audits alone")
    with importing():
        from gan.scoring.audited_run import AuditOptions, open_run

    names = ("gallery", "held_out", "components", "variance")
    options = AuditOptions(neighbours=neighbours, **{name: values.pop(name) for name in names})
    settings = {"reference_path": held_out_path, **values}
    chosen = {name: value for name, value in settings.items() if value is not None}
    return open_run(run, step, "raw" if raw else "ema", device, chosen, cache), options


@main.command()
@audit_command
@click.option("--neighbours", type=click.IntRange(1, 16), default=4, show_default=True, help="Shown beside an image.")
@click.option(
    "--quantile", type=click.FloatRange(0, 0.5, min_open=True), default=0.001, show_default=True,
    help="Share of held-out images that lie as near to a training image as what is called a duplicate.",
)  # fmt: skip
def neighbours(quantile: float, as_json: bool, **arguments: Any) -> None:
    """Audit whether RUN's generator copies: generated against held-out images, by their nearest training images.

    The result, its protocol and a grid of the closest pairs are saved in RUN/audits.
    """
    with one_line_errors(), one_voice():
        with importing():
            from gan.scoring.audit_neighbours import audit_neighbours
        click.echo(audit_neighbours(*open_audit(**arguments), quantile, as_json))


@main.command()
@audit_command
@click.option(
    "--by", type=click.Choice(["auto", "communities", "digits"]), default="auto", show_default=True,
    help="Communities of the training images, or, for the digit sources, classes that a classifier reads.",
)  # fmt: skip
@click.option("--neighbours", type=click.IntRange(2, 100), default=15, show_default=True, help="In the graph.")
@click.option("--minimum-size", type=click.IntRange(min=1), default=10, show_default=True, help="Of a community.")
def modes(by: str, minimum_size: int, as_json: bool, **arguments: Any) -> None:
    """Audit which modes of the real images RUN's generator leaves out, and which it favours.

    The result, its protocol and grids of examples are saved in RUN/audits.
    """
    with one_line_errors(), one_voice():
        with importing():
            from gan.scoring.audit_modes import audit_modes, reads_digits
        audited, options = open_audit(**arguments)
        if reads_digits(audited, by):
            refuse_given(OF_COMMUNITIES, "a classifier reads the digits; accepted with --by communities")
        click.echo(audit_modes(audited, options, by, minimum_size, as_json))
