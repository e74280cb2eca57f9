"""Every config and every choice builds, takes a step in both precisions, is saved and goes on as if it had not been."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from gan.build import ImageFacts, build_discriminator, build_game, build_generator
from gan.config import Config, load_config
from gan.errors import UserError
from gan.models import BACKBONES, GENERATORS
from gan.models.attention import ATTENTION
from gan.models.heads import HEADS
from gan.objectives import REGULARIZERS
from gan.objectives.losses import LOSSES
from gan.training.steps import Game, discriminator_step, generator_step
from tests import DEFAULT, ROOT

CPU = torch.device("cpu")
DOCS = ROOT / "docs" / "models.md"
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "experiments")
CASCADES = [path for path in CONFIGS if path.stem.endswith("_cr")]
PAIRS = [(path, base) for path in CASCADES if (base := path.with_stem(path.stem.removesuffix("_cr"))).exists()]
BATCH, CLASSES, LATENTS = 2, 10, 60  # 60: a multiple of every number of BigGAN's slots


def tiny(path: Path, *overrides: str) -> Config:
    width = 4 if load_config(path).data.resolution > 64 else 8
    sizes = {"generator.width": width, "discriminator.backbone.width": width, "generator.latent_dim": LATENTS}
    return load_config(path, [*(f"{key}={size}" for key, size in sizes.items()), *overrides])


def facts(config: Config) -> ImageFacts:
    return ImageFacts(config.data.resolution, 3, CLASSES if config.conditional else None)


def build(config: Config, precision: str) -> Game:
    training = config.training.model_copy(update={"precision": precision})
    return build_game(config.model_copy(update={"training": training}), facts(config), CPU)


def play(game: Game, config: Config, round_: int) -> dict[str, Tensor]:
    """One step of both players on what the round's number gives; what they report."""
    random = torch.Generator().manual_seed(round_)
    side = config.data.resolution
    images = torch.rand(BATCH, 3, side, side, generator=random) * 2 - 1
    latents = torch.randn(BATCH, LATENTS, generator=random)
    drawn = torch.randint(CLASSES, (2, BATCH), generator=random)
    labels, fake_labels = drawn if config.conditional else (None, None)
    reported, _ = discriminator_step(game, images, labels, latents, fake_labels)
    return {**reported, **generator_step(game, latents, fake_labels, images, labels)}


def state(game: Game) -> dict[str, Any]:
    return {name: part.state_dict() for name, part in game.parts.items()}


def resume(game: Game, saved: dict[str, Any]) -> None:
    for name, part in game.parts.items():
        part.load_state_dict(saved[name])


def check(config: Config, folder: Path) -> None:
    game = build(config, "float32")
    assert all(value.isfinite().all() for value in play(game, config, 0).values())
    torch.save(state(game), folder / "state.pt")
    twin = build(config, "float32")
    resume(twin, torch.load(folder / "state.pt", weights_only=True))
    reports = [play(player, config, 1) for player in (game, twin)]
    torch.testing.assert_close(*reports, rtol=0, atol=0)
    torch.testing.assert_close(state(game), state(twin), rtol=0, atol=0)
    assert all(value.isfinite().all() for value in play(build(config, "bfloat16"), config, 0).values())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_takes_steps_and_resumes(path: Path, tmp_path: Path) -> None:
    check(tiny(path), tmp_path)


@pytest.mark.parametrize("name", ATTENTION)
def test_every_attention_takes_steps_and_resumes_in_both_players(name: str, tmp_path: Path) -> None:
    players = ("generator", "discriminator.backbone")
    config = tiny(DEFAULT, *(f"{key}.attention={{name: {name}, resolutions: [8]}}" for key in players))
    check(config, tmp_path)


DCGAN = ("generator.name=dcgan", "discriminator.backbone.name=dcgan")


@pytest.mark.parametrize("name", HEADS)
def test_every_head_takes_steps_and_resumes(name: str, tmp_path: Path) -> None:
    overrides = [*DCGAN, f"discriminator.head={{name: {name}}}"]
    if HEADS[name].labels != "ignored":
        overrides.append("conditional=true")
    if HEADS[name].classifies:
        overrides.append("objective.regularizers={classification: {weight: 1.0}}")
    check(tiny(DEFAULT, *overrides), tmp_path)


@pytest.mark.parametrize("name", ["cascading_rejection", "energy_cascade", "sliced_cascade", "two_questions"])
@pytest.mark.parametrize("stage", ["linear", "magnitude", "square", "mlp"])
def test_every_decorrelated_cascade_takes_steps_and_resumes(name: str, stage: str, tmp_path: Path) -> None:
    if (name, stage) == ("sliced_cascade", "mlp"):
        pytest.skip("a direction is no network")
    options = "rejection: decorrelated" + (f", stage: {stage}" if name != "two_questions" else "")
    overrides = [*DCGAN, "conditional=true", f"discriminator.head={{name: {name}, options: {{{options}}}}}"]
    check(tiny(DEFAULT, *overrides), tmp_path)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_takes_steps_and_resumes(name: str, tmp_path: Path) -> None:
    check(tiny(DEFAULT, *DCGAN, f"objective.loss={name}"), tmp_path)


@pytest.mark.parametrize("name", sorted(REGULARIZERS.keys() - {"classification"}))  # it goes with a head, above
def test_every_regulariser_takes_steps_and_resumes(name: str, tmp_path: Path) -> None:
    check(tiny(DEFAULT, *DCGAN, f"objective.regularizers={{{name}: {{weight: 0.1}}}}"), tmp_path)


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_generator_plays_every_backbone(generator: str, backbone: str) -> None:
    config = tiny(DEFAULT, f"generator.name={generator}", f"discriminator.backbone.name={backbone}", "conditional=true")
    reported = play(build(config, "float32"), config, 0)
    assert all(math.isfinite(value.sum()) for value in reported.values())


@pytest.mark.parametrize(("cascade", "base"), PAIRS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_cr_config_differs_from_its_sibling_only_in_the_head(cascade: Path, base: Path) -> None:
    trees = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (cascade, base)]
    heads = [tree["discriminator"].pop("head") for tree in trees]
    assert trees[0] == trees[1]
    assert heads[0]["name"] == "cascading_rejection"
    assert heads[1]["name"] == ("projection" if trees[1].get("conditional") else "linear")


TABLE = re.findall(
    r"^\| 32 \|.*`(cifar10/\w+)` .* ([\d,]{7,}) \| ([\d,]{7,}) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE
)


@pytest.mark.parametrize(("name", "generator", "discriminator"), TABLE)
def test_the_documented_parameters_are_the_networks(name: str, generator: str, discriminator: str) -> None:
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    players = build_generator(config, facts(config)), build_discriminator(config, facts(config))
    counts = [sum(parameter.numel() for parameter in player.parameters()) for player in players]
    assert [f"{count:,}" for count in counts] == [generator, discriminator]


def test_the_table_has_every_model_at_32() -> None:
    assert [name for name, *_ in TABLE] == ["cifar10/sngan", "cifar10/sagan", "cifar10/biggan", "cifar10/r3gan"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["generator.attention={name: dot_produkt, resolutions: [8]}"],
            ["generator.attention.name: no 'dot_produkt'", "'dot_product'"],
        ),
        (
            ["generator.attention={name: elu, resolutions: [12]}"],
            ["generator.attention.resolutions: 12 found", "8, 16, 32 accepted"],
        ),
        (
            ["discriminator.backbone.attention={name: elu, resolutions: [32]}"],
            ["discriminator.backbone.attention.resolutions: 32 found", "8, 16 accepted"],
        ),
        (["generator.attention={name: elu, resolutions: []}"], ["generator.attention.resolutions", "at least 1"]),
        (
            ["generator.attention={name: elu, resolutions: [8], heads: 3}"],
            ["generator.attention.heads: 3 found", "accepted"],
        ),
        (
            ["generator.attention={name: factorized_random, resolutions: [8], options: {rank: 0}}"],
            ["generator.attention.options.rank: 0 found"],
        ),
        (
            ["generator.attention={name: elu, resolutions: [8], options: {poled: true}}"],
            ["generator.attention.options.poled", "'pooled'"],
        ),
        (
            ["generator.name=dcgan", "generator.attention={name: elu, resolutions: [8]}"],
            ["generator.attention: 'dcgan' takes none", "sngan, biggan, r3gan"],
        ),
        (["generator.options={attention: null}"], ["generator.options.attention", "no such option"]),
        (["generator.name=biggan", "generator.latent_dim=18"], ["generator.latent_dim: 18 found", "multiple of 4"]),
        (["generator.name=r3gan", "generator.options={group_width: 3}"], ["generator.options.group_width: 3 found"]),
        (["generator.name=biggan", "data.resolution=48"], ["data.resolution: 48 found", "32, 64, 128"]),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        build(tiny(DEFAULT, *overrides), "float32")
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)
