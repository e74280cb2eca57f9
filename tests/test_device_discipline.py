"""No step waits for its device: nothing is read from it, nothing copied to it but the batch, no CPU tensor meets it.

Every step is played twice: on torch's meta device, where tensors have a place and no values, so that a read fails and a
CPU tensor stands out; and on the CPU in bfloat16, which meta does not know.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gan.build import ImageFacts, build_game
from gan.config import Config, load_config
from gan.data.loader import Loader
from gan.data.stacked_mnist import StackedLoader, compose
from gan.data.store import ImageStore
from gan.device import resolve_device
from gan.models import BACKBONES, GENERATORS
from gan.models.attention import ATTENTION
from gan.models.heads import HEADS
from gan.models.heads.linear import LinearHead
from gan.objectives import REGULARIZERS
from gan.objectives.augmentation import OPERATIONS
from gan.objectives.losses import LOSSES, Hinge
from gan.training import latents as latents_module
from gan.training.ema import ExponentialMovingAverage
from gan.training.latents import Latents
from gan.training.noise import Noise
from gan.training.schedule import Schedule
from gan.training.steps import Game, discriminator_step, generator_step
from gan.training.trainer import Trainer
from tests import DEFAULT, ROOT
from tests.discipline import Discipline, UndisciplinedError

BATCH, CLASSES, LATENTS = 4, 10, 60  # 60: a multiple of every number of BigGAN's slots
FOLDERS = ("cifar10", "digits", "stacked_digits", "stacked_mnist")  # the others have these networks at more pixels
CONFIGS = sorted(path for folder in FOLDERS for path in (ROOT / "configs" / folder).glob("*.yaml"))
DCGAN = ("generator.name=dcgan", "discriminator.backbone.name=dcgan")
SIZES = ("generator.width=8", "discriminator.backbone.width=8", f"generator.latent_dim={LATENTS}")
ADAPTIVE = "augmentation={operations: [color, translation, cutout], target: 0.6}"


def test_a_device_of_cuda_has_the_index_that_torch_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.zeros", lambda count, device: SimpleNamespace(item=lambda: 0.0))
    for name in ("auto", "cuda", "cuda:0"):
        assert torch.cuda._utils._get_device_index(resolve_device(name)) == 0  # what torch.cuda.set_device does first


class Undrawn(Noise):
    """Meta tensors have no generators: numbers are drawn from none, on the device that is asked for."""

    def generator(self, player: str, step: int, index: int) -> Any:
        return None

    def again(self, random: Any) -> Any:
        return None


@pytest.fixture(params=["meta", "cpu"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    allow_meta(monkeypatch)
    return request.param


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> str:
    allow_meta(monkeypatch)
    return "meta"


def allow_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta tensors under autocast, which does nothing to them, and in Adam's kernel, as a GPU's are."""
    autocast, module = torch.autocast, sys.modules[torch.optim.Optimizer.__module__]
    supported = module._get_fused_kernels_supported_devices()

    def context(kind: str, *arguments: Any, **options: Any) -> AbstractContextManager[Any]:
        return nullcontext() if kind == "meta" else autocast(kind, *arguments, **options)

    monkeypatch.setattr(torch, "autocast", context)
    monkeypatch.setattr(module, "_get_fused_kernels_supported_devices", lambda: [*supported, "meta"])
    monkeypatch.setattr(latents_module, "seeded_generator", lambda *names, **options: None)


def make_game(config: Config, device: str) -> Game:
    training = config.training.model_copy(update={"precision": "bfloat16" if device == "cpu" else "float32"})
    facts = ImageFacts(config.data.resolution, 3, CLASSES if config.conditional else None)
    game = build_game(config.model_copy(update={"training": training}), facts, torch.device(device))
    return game if device == "cpu" else replace(game, noise=Undrawn(0, torch.device("cpu")))


def play(game: Game, config: Config, device: str) -> None:
    """Two iterations, the first of which makes what is made once."""
    side = config.data.resolution
    images = torch.zeros(BATCH, 3, side, side, device=device)
    latents = torch.zeros(BATCH, config.generator.latent_dim, device=device)
    labels = torch.zeros(BATCH, dtype=torch.int64, device=device) if config.conditional else None
    for _ in range(2):
        with Discipline(device) as mode:
            discriminator_step(game, images, labels, latents, labels)
            generator_step(game, latents, labels, images, labels)
        if mode.copied:
            raise UndisciplinedError(f"a step copies {mode.copied}")
    assert mode.operations > 100


def check(device: str, *overrides: str) -> None:
    config = load_config(DEFAULT, [*SIZES, *overrides])
    play(make_game(config, device), config, device)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_config_waits(path: Path, meta: str) -> None:
    config = load_config(path, list(SIZES))
    play(make_game(config, meta), config, meta)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("head", HEADS)
def test_no_head_waits_with_any_loss(head: str, loss: str, device: str) -> None:
    if device == "cpu" and loss not in ("hinge", "relativistic"):
        pytest.skip("the others have the operations of these")
    overrides = [f"discriminator.head={{name: {head}}}", f"objective.loss={loss}", "objective.top_k={fraction: 0.5}"]
    terms = "r1: {weight: 1.0}, lecam: {weight: 1.0}"
    if HEADS[head].labels != "ignored":
        overrides.append("conditional=true")
    if HEADS[head].classifies:
        terms += ", classification: {weight: 1.0}"
    check(device, *DCGAN, *overrides, f"objective.regularizers={{{terms}}}")


@pytest.mark.parametrize("name", ["cascading_rejection", "energy_cascade", "sliced_cascade", "two_questions"])
@pytest.mark.parametrize("stage", ["linear", "magnitude", "square", "mlp"])
def test_no_decorrelated_cascade_waits(name: str, stage: str, device: str) -> None:
    if (name, stage) == ("sliced_cascade", "mlp"):
        pytest.skip("a direction is no network")
    options = "rejection: decorrelated" + (f", stage: {stage}" if name != "two_questions" else "")
    head = f"discriminator.head={{name: {name}, options: {{{options}}}}}"
    check(device, *DCGAN, "conditional=true", head, "training.batch_size=4", "training.accumulation=2")


@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize("augmentation", ["augmentation=null", ADAPTIVE], ids=["plain", "augmented"])
def test_no_regulariser_waits_with_or_without_augmentation(name: str, augmentation: str, device: str) -> None:
    head = "auxiliary_classifier" if name == "classification" else "cascading_rejection"
    section = f"objective.regularizers={{{name}: {{weight: 0.1}}}}"
    check(device, *DCGAN, "conditional=true", f"discriminator.head={{name: {head}}}", augmentation, section)


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_augmentation_waits(name: str, device: str) -> None:
    check(device, *DCGAN, f"augmentation={{operations: [{name}], probability: 0.5}}")


@pytest.mark.parametrize("name", ATTENTION)
def test_no_attention_waits(name: str, device: str) -> None:
    players = ("generator", "discriminator.backbone")
    check(device, *(f"{key}.attention={{name: {name}, resolutions: [8]}}" for key in players))


@pytest.mark.parametrize("name", sorted(GENERATORS.keys() & BACKBONES.keys()))
@pytest.mark.parametrize("conditional", ["conditional=false", "conditional=true"])
def test_no_network_waits(name: str, conditional: str, device: str) -> None:
    check(device, f"generator.name={name}", f"discriminator.backbone.name={name}", conditional)


@pytest.mark.parametrize(
    "overrides",
    [
        ["objective.stage_weights=learned", "objective.generator_stages=first"],
        ["objective.stage_weights=geometric", "discriminator.packing=2"],
        ["training.shared_latents=true"],
        ["objective.regularizers={contrastive: {weight: 1.0, options: {view: augmentation}}}"],
        ["objective.regularizers={r1: {weight: 1.0, options: {method: finite_difference}}}"],
        ["objective.regularizers={orthogonal: {weight: 1.0, options: {player: both}}}"],
        ["generator.options={spectral_norm: true}", "generator.name=sngan"],
    ],
)  # fmt: skip
def test_no_option_waits(overrides: list[str], device: str) -> None:
    check(device, *DCGAN, *overrides)


def test_every_generator_and_backbone_is_played() -> None:
    assert GENERATORS.keys() == BACKBONES.keys()


# The loop around the steps


def trainer_of(device: str, resident: bool) -> Trainer:
    """A trainer with all that it needs between two lines of its log."""
    config = load_config(DEFAULT, [*SIZES, *DCGAN, "conditional=true", ADAPTIVE])
    game = make_game(config, device)
    images = np.zeros((64, 32, 32, 3), np.uint8)
    names = tuple(map(str, range(CLASSES)))
    store = ImageStore(images, np.arange(64) % CLASSES, names, "hash", "zeros", "train")
    unused: Any = SimpleNamespace()
    return Trainer(
        game, lambda *batch: discriminator_step(game, *batch), lambda *batch: generator_step(game, *batch), game.parts,
        ExponentialMovingAverage(game.generator, 0.99),
        Loader(store, BATCH, device, flip=True, seed=0, resident=resident),
        Latents(0, torch.device(device), LATENTS, CLASSES), Schedule(100, 2, "linear", 10, 100, 100, 0),
        unused, unused, unused, lambda generator: {}, unused,
    )  # fmt: skip


def iterate(trainer: Trainer) -> None:
    trainer.schedule.set_learning_rates(trainer._optimizers, trainer.step)
    for _ in range(trainer.schedule.discriminator_steps):
        trainer._play_discriminator()
    trainer._play_generator()
    trainer.step += 1
    trainer.ema.update(trainer.step)


@pytest.mark.parametrize("resident", [True, False])
def test_an_iteration_copies_the_batch_and_nothing_else(resident: bool, meta: str) -> None:
    trainer = trainer_of(meta, resident)
    iterate(trainer)
    with Discipline(meta) as mode:
        iterate(trainer)
    batch = {(torch.int64, 1): 2, (torch.bool, 1): 2}  # which images, which of them flipped; two batches
    assert mode.copied == Counter(batch if resident else {**batch, (torch.uint8, 4): 2})


def test_composed_batches_copy_which_digits_they_take_and_nothing_else(meta: str) -> None:
    digits = ImageStore(np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 10, ("0",) * 10, "mnist", "train", "0")
    loader = StackedLoader(compose(digits), BATCH, meta, seed=0)
    with Discipline(meta) as mode:
        loader.next_batch()
    assert mode.copied == Counter({(torch.int64, 2): 1})


def test_an_iteration_reads_nothing(device: str) -> None:
    trainer = trainer_of(device, True)
    iterate(trainer)
    with Discipline(device):
        iterate(trainer)


# Faults that must be found


class Asking(Hinge):
    def generator_loss(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        return -fake_scores if fake_scores.sum().item() > 1e9 else -2 * fake_scores


class Choosing(Hinge):
    def discriminator_loss(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        return super().discriminator_loss(real_scores, fake_scores)[real_scores[:, 0] > 0]


class Copying(Hinge):
    def generator_loss(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        return -fake_scores * torch.tensor([2.0], device=fake_scores.device)


class Elsewhere(LinearHead):
    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().forward(features, labels) * torch.ones(1, 1)


class Drawing(LinearHead):
    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().forward(features, labels) * torch.rand(1, 1).to(features.device, non_blocking=True)


class Checking(LinearHead):
    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        scores = super().forward(features, labels)
        return scores * torch.linalg.cholesky(torch.eye(1, device=scores.device))


def with_loss(loss: type[Hinge]) -> Callable[[Game, str], Game]:
    return lambda game, device: replace(game, loss=loss())


def with_head(head: type[LinearHead]) -> Callable[[Game, str], Game]:
    def changed(game: Game, device: str) -> Game:
        game.discriminator.head = head(game.discriminator.backbone.out_features).to(device)
        return game

    return changed


FAULTS: dict[str, tuple[Callable[[Game, str], Game], list[str], str]] = {
    "item in a loss": (with_loss(Asking), ["meta", "cpu"], "_local_scalar_dense.* reads"),
    "mask in a loss": (with_loss(Choosing), ["meta", "cpu"], "index.* reads"),
    "numbers copied in a loss": (with_loss(Copying), ["cpu"], "takes numbers from Python"),
    "CPU tensor in a head": (with_head(Elsewhere), ["meta"], "mul.* mixes"),
    "CPU draw in a head": (with_head(Drawing), ["meta"], "a step copies"),
    "checked factor in a head": (with_head(Checking), ["meta", "cpu"], "_linalg_check_errors.* reads"),
}


def planted() -> Iterator[Any]:
    for name, (plant, devices, words) in FAULTS.items():
        for where in devices:
            yield pytest.param(plant, where, words, id=f"{name} on {where}")


@pytest.mark.parametrize(("plant", "where", "words"), list(planted()))
def test_a_planted_fault_is_found(
    plant: Callable[[Game, str], Game], where: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow_meta(monkeypatch)
    config = load_config(DEFAULT, [*SIZES, *DCGAN, "discriminator.head={name: linear}"])
    play(make_game(config, where), config, where)
    with pytest.raises(UndisciplinedError, match=words):
        play(plant(make_game(config, where), where), config, where)


def test_a_copy_that_waits_is_found(meta: str) -> None:
    with Discipline(meta), pytest.raises(UndisciplinedError, match="waits"):
        torch.ones(3).to(meta)
    with Discipline(meta) as mode:
        torch.ones(3).to(meta, non_blocking=True)
    assert mode.copied == Counter({(torch.float32, 1): 1})
