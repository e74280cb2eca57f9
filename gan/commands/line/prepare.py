"""`gan prepare`: images of any number, decoded once; a data set as one file."""

import os
import re
from pathlib import Path

import click

from gan.commands.command_line import FilePath, OneLineCommand, refuse_given
from gan.commands.reporting import one_line_errors
from gan.errors import UserError, printable
from gan.processes import importing

SELECTION = ("classes", "class_pattern", "images_per_class", "subset", "seed", "skip_corrupt", "processes")


@click.command("prepare", cls=OneLineCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", required=False)
@click.option("--out", required=True, type=FilePath(), help="New directory, or .npz file of a data set.")
@click.option("--split", default="train", show_default=True, help="Of a data set that becomes an .npz file.")
@click.option("--cache", type=FilePath(), help="Its downloads. [default: outputs/data or ~/.cache/gan]")
@click.option("--resolution", type=click.IntRange(1, 1024), help="Short side resized to it, the centre cropped.")
@click.option("--classes", help="How many, names separated by commas, or a file with a name on each line.")
@click.option("--class-pattern", metavar="REGEX", help="Only classes whose names have a match.")
@click.option("--images-per-class", type=click.IntRange(1), help="How many of each class.")
@click.option("--subset", type=click.IntRange(1), help="How many in all, at random.")
@click.option("--seed", type=click.IntRange(0), help="Classes and images at random instead of the first ones.")
@click.option("--skip-corrupt", is_flag=True, help="Leave out and list images that cannot be read.")
@click.option("--processes", type=click.IntRange(1), help="How many decode. [default: one for each core]")
@click.option("--verify", is_flag=True, help="Prepare nothing: compare --out with its checksum.")
def main(
    source: str | None,
    out: Path,
    split: str,
    cache: Path | None,
    resolution: int | None,
    classes: str | None,
    class_pattern: str | None,
    images_per_class: int | None,
    subset: int | None,
    seed: int | None,
    skip_corrupt: bool,
    processes: int | None,
    verify: bool,
) -> None:
    """Decode SOURCE into --out, once, for training with data.source=prepared.

    SOURCE is a folder <class>/<image> (or images alone, or either below train, val, test), a .tar, .tar.gz or .zip of
    one, or webdataset shards as 'train-{000..146}.tar'. The same command goes on where it was interrupted.

    A data set by name becomes one file for data.source=npz: gan prepare cifar10 --out cifar10_train.npz.
    """
    with one_line_errors():
        if out.suffix == ".npz" and source is not None:
            refuse_given({*SELECTION, "verify"}, "a data set becomes a file whole; accepted: a directory as --out")
            with importing():
                from gan.commands.image_sets import user_cache
                from gan.commands.prepare_archive import prepare_archive
            click.echo(prepare_archive(source, out, split, resolution, cache or user_cache()))
            return
        with importing():
            from gan.data import preparation

        refuse_given(("split", "cache"), "for a data set that becomes an .npz file alone")
        if verify:
            refuse_given({*SELECTION, "source", "resolution"}, "--verify reads --out as it is")
            done = preparation.verify(out)
        else:
            if source is None or resolution is None:
                raise UserError("SOURCE and --resolution are needed, unless there is --verify")
            selection = preparation.Selection(_classes(classes), class_pattern, images_per_class, subset, seed)
            done = preparation.prepare_directory(
                source,
                out,
                resolution=resolution,
                selection=selection,
                skip_corrupt=skip_corrupt,
                processes=processes,
            )
    for name, store in done.stores.items():
        if store.skipped:
            click.echo(printable(store.skipped_line(str(out / name))), err=True)
        shape = "×".join(map(str, store.images.shape[1:]))
        facts = f"{store.num_images} images of {shape}, {store.num_classes} classes, SHA-256 {store.content_hash}"
        click.echo(printable(f"{out / name}: {facts}"))


def _classes(text: str | None) -> int | list[str] | None:
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", text):
        return int(text)
    if os.path.isfile(text):  # noqa: PTH113 - Path.is_file raises where a list is too long for the name of a file
        try:
            lines = Path(text).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "is no text"
            raise UserError(f"--classes: {text}: {reason}; accepted: a file with a name on each line") from error
        return [line.split("\t")[0].strip() for line in lines if line.strip()]  # after a tab: what people call it
    return [name.strip() for name in text.split(",") if name.strip()]
