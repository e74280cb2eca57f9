"""Settings that move: their course, where they arrive in training, resumption to the bit, and what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import train
from gan.build import build_ema, build_game, build_motions, build_schedule, image_facts
from gan.build.motions import ema_decay
from gan.config import load_config
from gan.errors import UserError
from gan.training.motion import Motion
from gan.training.schedule import Schedule
from tests import DEFAULT

TINY = [
    "generator.width=4", "discriminator.backbone.width=4", "generator.latent_dim=8", "training.batch_size=8",
    "training.steps=6", "training.precision=float32", "logging.scalars_every=2", "logging.samples_every=6",
    "logging.sample_count=4", "checkpoint.every=3", "evaluation.at_end=false", "conditional=false",
]  # fmt: skip
MOVING = [
    "optimizer.schedule=constant", "optimizer.generator_lr=2e-4", "ema.half_life=0",
    "augmentation={operations: [color], probability: 0}",
    "objective.regularizers={r1: {weight: 2.0}}",
    "schedules={optimizer.generator_lr: {to: 5e-5, images: 40}, optimizer.betas: {to: [0.0, 0.99], images: 40}, "
    "optimizer.discriminator_lr: {to: 8e-4, images: 24, shape: linear}, ema.half_life: {to: 100, images: 40}, "
    "augmentation.probability: {to: 0.5, images: 40}, objective.regularizers.r1.weight: {to: 0.2, images: 40}}",
]  # fmt: skip


def test_a_cosine_is_halfway_at_half_its_images_and_flat_at_its_ends() -> None:
    motion = Motion([2.0], [0.5], 1000, "cosine", print)
    assert motion.at(0) == [2.0] and motion.at(1000) == [0.5] and motion.at(5000) == [0.5]
    assert motion.at(500) == [pytest.approx(1.25)]
    assert motion.at(250) == [pytest.approx(0.5 + 1.5 * (1 + math.cos(math.pi / 4)) / 2)]
    assert motion.at(10)[0] > 2 - 1.5 * 0.001  # a line would have moved by 0.015
    values = [motion.at(seen)[0] for seen in range(0, 1001, 50)]
    assert values == sorted(values, reverse=True)
    assert Motion([2.0, 0.0], [0.5, 4.0], 1000, "linear", print).at(250) == [1.625, 1.0]


def test_a_half_life_is_that() -> None:
    decay = ema_decay(1000, 8)
    assert decay ** (1000 / 8) == pytest.approx(0.5)
    assert ema_decay(0, 8) == 0


def test_a_half_life_is_of_the_images_of_all_the_discriminators_steps() -> None:
    """After 25 steps of 5 · 8 images half of what was there is left, be it set so from the start or moved there."""
    settings = [*TINY, "training.discriminator_steps=5", "ema.warm_up=false"]
    ema = build_ema(load_config(DEFAULT, [*settings, "ema.half_life=1000"]), nn.Linear(1, 1))
    assert ema.decay**25 == pytest.approx(0.5)
    config = load_config(DEFAULT, [*settings, "ema.half_life=1", "schedules={ema.half_life: {to: 1000, images: 80}}"])
    game = build_game(config, image_facts(config), torch.device("cpu"))
    ema = build_ema(config, game.generator)
    replace(build_schedule(config), motions=build_motions(config, game, ema)).move(2)
    assert ema.decay**25 == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("settings", "kept"), [("{decay: 0.75, warm_up: false}", 0.75), ("{decay: 0.75}", 2 / 11), ("{decay: 0.1}", 0.1)]
)
def test_an_average_warms_up_unless_told_not_to(settings: str, kept: float) -> None:
    network = nn.Linear(1, 1)
    nn.init.ones_(network.weight)
    ema = build_ema(load_config(DEFAULT, [*TINY, f"ema={settings}"]), network)
    nn.init.zeros_(network.weight)
    ema.update(1)
    assert ema.average.get_parameter("weight").item() == pytest.approx(kept)


def test_every_setting_arrives_where_training_reads_it() -> None:
    config = load_config(DEFAULT, [*TINY, *MOVING])
    game = build_game(config, image_facts(config), torch.device("cpu"))
    ema = build_ema(config, game.generator)
    assert ema.decay == 0
    schedule = Schedule(6, 1, "constant", 1, 1, 1, 0, images_per_step=8, motions=build_motions(config, game, ema))
    optimizers = [game.generator_optimizer, game.discriminator_optimizer]
    for step, share in ((0, 0.0), (2, 16 / 40), (5, 1.0), (9, 1.0)):
        schedule.move(step)
        schedule.set_learning_rates(optimizers, step)
        moved = (1 - math.cos(math.pi * share)) / 2
        (ours,), (theirs,) = (optimizer.param_groups for optimizer in optimizers)
        assert ours["lr"] == pytest.approx(2e-4 + (5e-5 - 2e-4) * moved)
        before = config.optimizer.discriminator_lr
        assert theirs["lr"] == pytest.approx(before + (8e-4 - before) * min(1, step * 8 / 24))
        first, second = config.optimizer.betas
        assert (
            ours["betas"] == theirs["betas"] == pytest.approx((first * (1 - moved), second + (0.99 - second) * moved))
        )
        assert ema.decay == pytest.approx(ema_decay(100 * moved, 8))
        assert game.augmentation.probability.item() == pytest.approx(0.5 * moved)
        assert game.regularizers.terms["r1"].weight == pytest.approx(2 - 1.8 * moved)
        assert schedule.moved(step)["optimizer.betas/1"] == ours["betas"][1]


def call(out: Path, data: Path, *overrides: str) -> Result:
    arguments: list[Any] = [DEFAULT, "--device", "cpu", "--out", out]
    for override in (*TINY, f"data.root={data}", *overrides):
        arguments += ["--set", override]
    result = CliRunner().invoke(train.main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def final(out: Path) -> dict[str, Any]:
    (file,) = (out / "checkpoints").glob("*6.pt")
    state: dict[str, Any] = torch.load(file, weights_only=True)
    return state


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def test_a_run_with_moving_settings_goes_on_to_the_bit_and_logs_them(data: Path, tmp_path: Path) -> None:
    call(tmp_path / "whole", data, *MOVING)
    call(tmp_path / "parts", data, *MOVING, "training.steps=3")
    call(tmp_path / "parts", data, *MOVING)
    whole, parts = final(tmp_path / "whole"), final(tmp_path / "parts")
    for name in ("generator", "discriminator", "ema", "generator_optimizer", "discriminator_optimizer"):
        assert same(whole[name], parts[name]), name
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: line for line in lines if "schedules/optimizer.generator_lr" in line}
    assert sorted(found) == [2, 4, 6]
    for step, line in found.items():
        moved = (1 - math.cos(math.pi * min(1, (step - 1) * 8 / 40))) / 2
        assert line["learning_rate/generator"] == pytest.approx(2e-4 - 1.5e-4 * moved)
        assert line["schedules/objective.regularizers.r1.weight"] == pytest.approx(2 - 1.8 * moved)


def test_settings_that_move_nowhere_change_nothing_and_others_do(data: Path, tmp_path: Path) -> None:
    still = "schedules={optimizer.betas: {to: [0.5, 0.999], images: 10}, ema.decay: {to: 0.999, images: 10}}"
    moving = "schedules={optimizer.betas: {to: [0.5, 0.9], images: 10}}"
    for name, overrides in (("without", []), ("still", [still]), ("moving", [moving])):
        call(tmp_path / name, data, "optimizer.betas=[0.5, 0.999]", *overrides)
    without, unmoved, moved = (final(tmp_path / name) for name in ("without", "still", "moving"))
    assert same(without["generator"], unmoved["generator"]) and same(without["ema"], unmoved["ema"])
    assert not same(without["generator"], moved["generator"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["schedules={generator.width: {to: 8, images: 9}}"], ["schedules.generator.width", "accepted", "ema.decay"]),
        (["schedules={optimizer.lr: {to: 8, images: 9}}"], ["schedules.optimizer.lr", "optimizer.generator_lr"]),
        (["schedules={objective.regularizers.r1.weight: {to: 1, images: 9}}"], ["r1.weight", "no number"]),
        (["schedules={augmentation.probability: {to: 1, images: 9}}"], ["augmentation.probability", "no number"]),
        (["schedules={optimizer.betas: {to: 0.9, images: 9}}"], ["optimizer.betas.to", "0.9 found", "list"]),
        (["schedules={optimizer.betas: {to: [0.9, 1.5], images: 9}}"], ["optimizer.betas.to", "less than 1"]),
        (["schedules={optimizer.generator_lr: {to: -1, images: 9}}"], ["generator_lr.to", "greater than 0"]),
        (["schedules={ema.decay: {to: 0.9, images: 0}}"], ["images", "greater than or equal to 1"]),
        (["ema.half_life=9", "schedules={ema.decay: {to: 0.9, images: 9}}"], ["ema.decay", "ema.half_life"]),
        (
            ["augmentation={operations: [color], target: 0.6, probability: 0}",
             "schedules={augmentation.probability: {to: 1, images: 9}}"],
            ["augmentation.probability", "augmentation.target"],
        ),
        (
            ["training.cuda_graphs=true", "schedules={ema.decay: {to: 0.9, images: 9}}"],
            ["schedules.ema.decay", "cuda_graphs", "generator_lr"],
        ),
    ],
)  # fmt: skip
def test_what_cannot_move_is_refused_by_name(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_config(DEFAULT, [*TINY, *overrides])
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)
