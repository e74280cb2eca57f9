"""Damaged and hostile input for every reader: each case must be read or refused in one line, nothing else.

`python benchmarks/fuzz.py --cases 1000000` divides the cases among the readers; `--reader config` fuzzes one. Cases
follow from `--seed` alone. Exits with 1 at the first case that ends in anything but a result or a UserError.
"""

import copy
import json
import random
import string
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gan.build import (
    build_augmentation,
    build_discriminator,
    build_generator,
    build_loss,
    build_regularizers,
    build_stage_weights,
    image_facts,
)
from gan.commands.compare_results import read_result
from gan.config import load_config, parse_yaml, validate
from gan.data.npz import npz
from gan.data.store import prepare
from gan.errors import UserError
from gan.training.checkpoint import read_checkpoint, write_checkpoint

Case = Callable[[], object]
VALID = yaml.safe_load(load_config(ROOT / "configs" / "digits" / "dcgan_cr.yaml").to_yaml())
SMALL = {"generator": {"name": "dcgan", "width": 4, "latent_dim": 8}, "data": {"source": "digits", "resolution": 32}}
JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 3, 2**31, 1e-3, -0.5, 1e300, "", "auto", "dcgan", "sngan", "linear", "hinge", "é\n\t",
    [], [1, 2], ["a"], {}, {"name": "linear"}, {"stages": 10**9}, "../../etc/passwd", "x" * 200, [[[]]], {"weight": 1},
]  # fmt: skip


def keys(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every place in a nested mapping."""
    for key, value in tree.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from keys(value, (*path, key))


def mutated(chance: random.Random) -> dict[str, Any]:
    """A valid config with one to three places removed, replaced by junk, renamed or given a neighbour's value."""
    tree: dict[str, Any] = json.loads(json.dumps({**VALID, **SMALL}))
    tree["discriminator"]["backbone"]["width"] = 4
    for _ in range(chance.randint(1, 3)):
        places = list(keys(tree))
        *parents, key = chance.choice(places)
        section = tree
        for parent in parents:
            section = section[parent]
        change = chance.randrange(4)
        value = section.pop(key)
        if change == 1:
            section[key] = copy.deepcopy(chance.choice(JUNK))
        elif change == 2:
            section[key + chance.choice(string.ascii_letters)] = value
        elif change == 3:
            section[key] = copy.deepcopy(VALID[chance.choice(list(VALID))])
    return tree


def build(tree: dict[str, Any]) -> None:
    """Everything of a config that needs no images, on shapes alone."""
    config = validate(tree)
    if config.data.source not in ("digits", "stacked_digits"):
        return
    if max(config.generator.width, config.discriminator.backbone.width, config.generator.latent_dim) > 512:
        return  # accepted, and too large to build here
    facts = image_facts(config)
    build_generator(config, facts)
    discriminator = build_discriminator(config, facts)
    build_stage_weights(config, discriminator.stages)
    build_loss(config)
    build_regularizers(config, discriminator)
    build_augmentation(config)


def flipped(content: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, removed or put in, or the end cut off."""
    damaged = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(damaged))
        change = chance.randrange(4)
        if change == 0:
            damaged[place] = chance.randrange(256)
        elif change == 1:
            del damaged[place]
        elif change == 2:
            damaged.insert(place, chance.randrange(256))
        elif chance.random() < 0.2:
            del damaged[place:]
        if not damaged:
            break
    return bytes(damaged)


def config_cases(chance: random.Random, folder: Path) -> Case:
    tree = mutated(chance)
    return lambda: build(tree)


def yaml_cases(chance: random.Random, folder: Path) -> Case:
    text = flipped(yaml.safe_dump({**VALID, **SMALL}).encode(), chance).decode(errors="replace")

    def read() -> None:
        tree = parse_yaml(text, "config")
        if isinstance(tree, dict):
            validate(tree)

    return read


def override_cases(chance: random.Random, folder: Path) -> Case:
    place = ".".join(chance.choice(list(keys(VALID))))
    value = chance.choice(
        [repr(chance.choice(JUNK)), "{", "[1,", "&a [*a]", "!!python/object:os.system x", "0x", "1e999"]
    )
    return lambda: load_config(ROOT / "configs" / "digits" / "dcgan_cr.yaml", [f"{place}={value}"])


def checkpoint_cases(chance: random.Random, folder: Path) -> Case:
    whole = folder / "whole.pt"
    if not whole.exists():
        write_checkpoint(whole, {"step": 1, "weights": {"a": torch.arange(40.0)}, "order": [1, "x", None]})
    path = folder / "step_00000001.pt"
    path.write_bytes(flipped(whole.read_bytes(), chance))
    return lambda: read_checkpoint(path)


def npz_cases(chance: random.Random, folder: Path) -> Case:
    whole = folder / "whole.npz"
    if not whole.exists():
        np.savez(whole, images=np.zeros((3, 4, 4, 3), np.uint8), labels=np.arange(3))
    path = folder / "damaged.npz"
    path.write_bytes(flipped(whole.read_bytes(), chance))

    def read() -> None:
        for block in npz(split="train", resolution=8, path=path).read().blocks:
            assert block.dtype == np.uint8

    return read


def image_cases(chance: random.Random, folder: Path) -> Case:
    images = folder / "images"
    images.mkdir(exist_ok=True)
    suffix = chance.choice(["png", "jpeg", "bmp", "webp", "tiff"])
    whole = folder / f"whole.{suffix}"
    if not whole.exists():
        Image.fromarray(np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)).save(whole)
    for old in images.iterdir():
        old.unlink()
    (images / f"damaged.{suffix}").write_bytes(flipped(whole.read_bytes(), chance))
    return lambda: prepare("image_folder", path=images, resolution=8, root=folder / "prepared")


def result_cases(chance: random.Random, folder: Path) -> Case:
    path = folder / "result.json"
    path.write_bytes(flipped((ROOT / "tests" / "result.json").read_bytes(), chance))
    return lambda: read_result(path)


READERS: dict[str, Callable[[random.Random, Path], Case]] = {
    "config": config_cases,
    "yaml": yaml_cases,
    "override": override_cases,
    "checkpoint": checkpoint_cases,
    "npz": npz_cases,
    "image_folder": image_cases,
    "result": result_cases,
}


def fuzz(reader: str, cases: int, seed: int) -> tuple[int, int]:
    """Run `cases` of one reader; returns how many were read and how many refused.

    Raises:
        AssertionError: a case ended otherwise; it says which.
    """
    read = refused = 0
    with tempfile.TemporaryDirectory() as directory:
        for number in range(cases):
            case = READERS[reader](random.Random(f"{reader} {seed} {number}"), Path(directory))
            try:
                case()
                read += 1
            except UserError as error:
                assert error.exit_status == 2 and str(error).strip(), f"{reader} case {number}: an empty message"
                refused += 1
            except Exception as error:
                raise AssertionError(
                    f"{reader} case {number} of seed {seed}: {type(error).__name__}: {error}"
                ) from error
    return read, refused


@click.command()
@click.option("--cases", default=10_000, show_default=True, help="In all.")
@click.option("--seed", default=0, show_default=True)
@click.option("--reader", "readers", type=click.Choice(list(READERS)), multiple=True, default=list(READERS))
def main(cases: int, seed: int, readers: tuple[str, ...]) -> None:
    """Fuzz the readers."""
    for reader in readers:
        start = time.perf_counter()
        read, refused = fuzz(reader, cases // len(readers), seed)
        click.echo(f"{reader:14} {read + refused:9,} cases: {read:9,} read, {refused:9,} refused, "
                   f"{time.perf_counter() - start:7.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
