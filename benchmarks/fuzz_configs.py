"""Cases for what reads settings: configs, YAML, overrides, files of experiments."""

import copy
import random
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.fuzz_bytes import Case, flipped
from gan.build import (
    build_augmentation,
    build_discriminator,
    build_generator,
    build_loss,
    build_regularizers,
    build_stage_weights,
    image_facts,
)
from gan.config import load_config, parse_yaml, validate
from gan.experiments.comparison import load_comparison

EXPERIMENTS = ROOT / "configs" / "experiments"
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


def mutate(tree: dict[str, Any], chance: random.Random) -> None:
    """Remove, rename, or replace by junk or by another section one to three places of a nested mapping."""
    sections = copy.deepcopy(list(tree.values()))
    for _ in range(chance.randint(1, 3)):
        *parents, key = chance.choice(list(keys(tree)))
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
            section[key] = copy.deepcopy(chance.choice(sections))


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


def config_cases(chance: random.Random, folder: Path) -> Case:
    tree: dict[str, Any] = copy.deepcopy({**VALID, **SMALL})
    tree["discriminator"]["backbone"]["width"] = 4
    mutate(tree, chance)
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


def experiment_cases(chance: random.Random, folder: Path) -> Case:
    """An experiment's file, with places removed, replaced or renamed, or with damaged bytes."""
    text = (EXPERIMENTS / "smoke.yaml").read_text(encoding="utf-8").replace("../", f"{EXPERIMENTS.parent}/")
    if chance.random() < 0.5:
        tree = yaml.safe_load(text)
        mutate(tree, chance)
        text = yaml.safe_dump(tree)
    else:
        text = flipped(text.encode(), chance).decode(errors="replace")
    path = folder / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return lambda: load_comparison(path, (), folder)
