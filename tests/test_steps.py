"""One update of each player against the same update written out by hand."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.build import build_game, build_latents, build_loader, image_facts
from gan.config import load_config
from gan.data.image_store import ImageStore
from gan.device import resolve_precision
from gan.models.blocks.spectral_norm import update_spectral_norms
from gan.models.heads.cascading import CascadingRejection
from gan.models.heads.decorrelation import MovingMoments
from gan.models.heads.stages import bounded_scales
from gan.objectives.augmentation import Augmentation
from gan.training import steps
from gan.training.accumulation import Accumulation, Update
from gan.training.diagnostics import gradient_norm
from gan.training.ema import ExponentialMovingAverage
from gan.training.noise import Noise
from gan.training.steps import Game, discriminator_step, generator_step
from tests import DEFAULT

EPSILON = 1e-3  # of Adam: large, to be seen
TINY = [
    "generator.width=8", "discriminator.backbone.width=8", "generator.latent_dim=8", "training.precision=float32",
    "optimizer.discriminator_lr=4e-4", f"optimizer.epsilon={EPSILON}",
]  # fmt: skip
CPU = torch.device("cpu")
B = 6


def make_game(*overrides: str) -> Game:
    config = load_config(DEFAULT, [*TINY, *overrides])
    return build_game(config, image_facts(config), CPU)


def batch(conditional: bool = False) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    labels = torch.randint(10, (2, B)) if conditional else (None, None)
    return torch.randn(B, 1, 32, 32).clamp(-1, 1), labels[0], torch.randn(B, 8), labels[1]


def by_hand(parameters: dict[str, torch.Tensor], gradients: dict[str, torch.Tensor], lr: float) -> dict:
    """Adam's first step with betas (0, 0.9): the sign of the gradient, up to epsilon."""
    return {
        name: value - lr * gradients[name] / (gradients[name].abs() + EPSILON) for name, value in parameters.items()
    }


@pytest.mark.parametrize("conditional", [False, True])
def test_discriminator_step_is_adam_on_the_mean_hinge_loss_of_all_stages(conditional: bool) -> None:
    game = make_game(f"conditional={conditional}".lower())
    twin = copy.deepcopy(game)
    images, labels, latents, fake_labels = batch(conditional)
    found, seen = discriminator_step(game, images, labels, latents, fake_labels)

    update_spectral_norms(twin.discriminator)
    fakes = twin.generator(latents, fake_labels).detach()
    real_scores, fake_scores = twin.discriminator(images, labels), twin.discriminator(fakes, fake_labels)  # two passes
    loss = sum((F.relu(1 - real_scores[:, i]) + F.relu(1 + fake_scores[:, i])).mean() for i in range(3)) / 3
    torch.testing.assert_close(found["loss/discriminator"], loss)
    torch.testing.assert_close(found["scores/real"], real_scores.mean(0))
    torch.testing.assert_close(seen.features[B:], twin.discriminator.features(fakes))
    parameters = dict(twin.discriminator.named_parameters())
    gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    expected = by_hand(parameters, gradients, lr=4e-4)
    after = dict(game.discriminator.named_parameters())
    for name, value in expected.items():
        clear = gradients[name].abs() > 1e-4  # where rounding cannot turn the sign
        assert clear.any()
        torch.testing.assert_close(after[name][clear], value[clear], rtol=1e-4, atol=1e-6)
    for mine, theirs in zip(game.generator.parameters(), twin.generator.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_generator_step_moves_the_generator_alone() -> None:
    game = make_game()
    before = copy.deepcopy(game)
    images, _, latents, _ = batch()
    found = generator_step(game, latents, None, images, None)
    twin_scores = before.discriminator(before.generator(latents))
    torch.testing.assert_close(found["loss/generator"], -twin_scores.mean())
    for mine, theirs in zip(
        game.discriminator.state_dict().values(), before.discriminator.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in game.discriminator.parameters())
    pairs = zip(game.generator.parameters(), before.generator.parameters(), strict=True)
    assert any(not torch.equal(mine, theirs) for mine, theirs in pairs)


def test_a_conditional_generator_is_scored_with_the_labels_of_its_latents() -> None:
    game = make_game("conditional=true", "discriminator.head={name: projection}")
    images, labels, latents, fake_labels = batch(conditional=True)
    with torch.no_grad():  # classes start with the same gains and biases
        for parameter in game.generator.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    twin = copy.deepcopy(game)
    expected = -twin.discriminator(twin.generator(latents, fake_labels), fake_labels).mean()
    found = generator_step(game, latents, fake_labels, images, labels)
    torch.testing.assert_close(found["loss/generator"], expected)


def test_a_generator_is_trained_on_the_fakes_that_look_most_real() -> None:
    """Of six all, half of them, and at the end a third, ranked and averaged with the stages' weights."""
    game = make_game("objective.top_k={fraction: 0.3, decay: 0.5}", "objective.stage_weights=[1, 1, 18]")
    images, _, latents, _ = batch()
    for count in (6, 3, 2, 2):
        twin = copy.deepcopy(game)
        scores = twin.discriminator(twin.generator(latents)) @ torch.tensor([0.05, 0.05, 0.9])
        expected = -sum(sorted(scores.tolist())[-count:]) / count
        found = generator_step(game, latents, None, images, None)
        assert found["loss/generator"].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_each_player_takes_steps_of_adam_with_a_rate_and_betas_as_told(player: str) -> None:
    """In the second step both averages of gradients have a memory, so their rates of decay are seen."""
    rates = {"generator": 1e-3, "discriminator": 3e-4}
    game = make_game("optimizer.betas=[0.5, 0.8]", *[f"optimizer.{name}_lr={rate}" for name, rate in rates.items()])
    images, _, latents, _ = batch()
    network: nn.Module = getattr(game, player)
    values = [parameter.detach().clone() for parameter in network.parameters()]
    first, second = [torch.zeros_like(one) for one in values], [torch.zeros_like(one) for one in values]
    for step in (1, 2):
        if player == "generator":
            generator_step(game, latents, None, images, None)
        else:
            discriminator_step(game, images, None, latents, None)
        for index, parameter in enumerate(network.parameters()):
            assert parameter.grad is not None
            first[index] = 0.5 * first[index] + 0.5 * parameter.grad
            second[index] = 0.8 * second[index] + 0.2 * parameter.grad.square()
            mean, root = first[index] / (1 - 0.5**step), (second[index] / (1 - 0.8**step)).sqrt()
            values[index] = values[index] - rates[player] * mean / (root + EPSILON)
            torch.testing.assert_close(parameter.detach(), values[index], rtol=1e-5, atol=1e-7)


def test_a_discriminator_with_r1_descends_the_hinge_loss_and_half_the_squared_gradient_of_reals() -> None:
    """By the gradient of each image's own gradient, weight 10."""
    game = make_game("objective.regularizers={r1: {weight: 10}}")
    images, _, latents, _ = batch()
    twin = copy.deepcopy(game).discriminator
    fakes = game.generator(latents).detach()
    found, _ = discriminator_step(game, images, None, latents, None)

    update_spectral_norms(twin)
    loss = (F.relu(1 - twin(images)) + F.relu(1 + twin(fakes))).mean()
    penalty = torch.zeros(())
    for image in images:
        image = image[None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(twin(image).mean(), image, create_graph=True)
        penalty = penalty + 10 / 2 * gradient.square().sum() / B
    torch.testing.assert_close(found["regularizers/discriminator/r1"], penalty.detach())
    torch.testing.assert_close(found["loss/discriminator"], loss.detach())
    (loss + penalty).backward()
    for mine, theirs in zip(game.discriminator.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


class Darkening(Augmentation):
    """Makes every image darker."""

    def forward(self, images: Tensor, random: torch.Generator) -> Tensor:
        return images / 2 - 0.5


def test_both_players_see_reals_and_fakes_augmented() -> None:
    game = replace(make_game("objective.loss=relativistic"), augmentation=Darkening())
    images, _, latents, _ = batch()
    twin = copy.deepcopy(game)
    found, _ = discriminator_step(game, images, None, latents, None)
    update_spectral_norms(twin.discriminator)
    fakes = twin.generator(latents).detach()
    real_scores, fake_scores = twin.discriminator(images / 2 - 0.5), twin.discriminator(fakes / 2 - 0.5)
    torch.testing.assert_close(found["scores/real"], real_scores.mean(0))
    torch.testing.assert_close(found["loss/discriminator"], F.softplus(fake_scores - real_scores).mean())

    twin = copy.deepcopy(game)
    found = generator_step(game, latents, None, images, None)
    fakes = twin.generator(latents)
    real_scores, fake_scores = twin.discriminator(images / 2 - 0.5), twin.discriminator(fakes / 2 - 0.5)
    torch.testing.assert_close(found["loss/generator"], F.softplus(real_scores - fake_scores).mean())


def test_a_decorrelated_heads_moments_are_those_of_the_raw_scores_of_all_that_a_step_has_seen() -> None:
    game = make_game("discriminator.head.options={stages: 3, rejection: decorrelated}")
    images, _, latents, _ = batch()
    twin = copy.deepcopy(game).discriminator
    found, seen = discriminator_step(game, images, None, latents, None)
    update_spectral_norms(twin)
    assert isinstance(twin.head, CascadingRejection)
    raw_scores = seen.features @ twin.head.effective_weight().detach().T
    moments = game.discriminator.head.moments
    assert isinstance(moments, MovingMoments) and moments.batches == 1
    torch.testing.assert_close(moments.score_mean, raw_scores.mean(0))
    torch.testing.assert_close(moments.score_covariance, raw_scores.T.cov(correction=0))
    torch.testing.assert_close(moments.feature_mean, seen.features.mean(0))
    assert not any(name.startswith("head/") for name in found)


@pytest.mark.parametrize("interval", [1, 2])
def test_lecams_anchors_start_at_the_first_mean_scores_and_follow_those_of_the_steps_it_acts_in(interval: int) -> None:
    game = make_game(f"objective.regularizers={{lecam: {{weight: 1, interval: {interval}, options: {{decay: 0.99}}}}}}")
    images, _, latents, _ = batch()
    steps = [discriminator_step(game, images, None, latents, None)[0] for _ in range(interval + 1)]
    for side in ("real", "fake"):
        first, last = steps[0][f"scores/{side}"], steps[-1][f"scores/{side}"]
        assert not torch.equal(first, last)
        anchor = getattr(game.regularizers.terms["lecam"].penalty, f"{side}_mean")
        torch.testing.assert_close(anchor, 0.99 * first + 0.01 * last, rtol=1e-6, atol=1e-7)


def test_generator_stages_first_trains_on_the_first_score_alone() -> None:
    game = make_game("objective.generator_stages=first", "objective.stage_weights=[1, 1, 2]")
    images, _, latents, _ = batch()
    expected = -copy.deepcopy(game).discriminator(copy.deepcopy(game).generator(latents))[:, 0].mean()
    torch.testing.assert_close(generator_step(game, latents, None, images, None)["loss/generator"], expected)


def test_learned_stage_weights_are_trained_by_the_discriminator_alone() -> None:
    game = make_game("objective.stage_weights=learned")
    images, _, latents, _ = batch()
    generator_step(game, latents, None, images, None)
    assert torch.equal(game.stage_weights.logits, torch.zeros(3))
    discriminator_step(game, images, None, latents, None)
    assert game.stage_weights.logits.abs().min() > 0


@pytest.mark.parametrize("head", ["{name: energy_cascade}", "{name: cascading_rejection, options: {stage: magnitude}}"])
def test_a_scale_is_brought_back_to_its_bound_and_can_turn_back_there(head: str) -> None:
    game = make_game(f"discriminator.head={head}")
    images, _, latents, _ = batch()
    (scale,) = bounded_scales(game.discriminator)
    turned = 0
    for bound in (1.0, -1.0):
        nn.init.constant_(scale, 3 * bound)
        discriminator_step(game, images, None, latents, None)
        assert scale.grad is not None and scale.grad.abs().min() > 0
        assert torch.equal(scale, torch.full_like(scale, bound))  # a step is short
        discriminator_step(game, images, None, latents, None)
        inwards = scale.grad * bound > 0
        assert torch.equal(scale.abs() < 1, inwards) and scale.abs().max() <= 1
        turned += int(inwards.sum())
    assert turned > 0


def test_penalties_leave_learned_stage_weights_alone() -> None:
    terms = "r1: {weight: 10}, lecam: {weight: 10}, balanced_consistency: {weight: 10}"
    images, _, latents, _ = batch()
    plain, penalised = (
        make_game("objective.stage_weights=learned", f"objective.regularizers={{{named}}}") for named in ("", terms)
    )
    for game in (plain, penalised):
        discriminator_step(game, images, None, latents, None)
    torch.testing.assert_close(penalised.stage_weights.logits.grad, plain.stage_weights.logits.grad, rtol=1e-6, atol=0)
    assert gradient_norm(penalised.discriminator) > 1.1 * gradient_norm(plain.discriminator)


def test_directions_leave_learned_stage_weights_alone() -> None:
    game = make_game("discriminator.head.name=sliced_cascade", "objective.stage_weights=learned")
    images, _, latents, _ = batch()
    before = copy.deepcopy(game)
    _, seen = discriminator_step(game, images, None, latents, None)
    scores = before.discriminator.head(seen.features)
    losses = before.loss.discriminator_loss(scores[:B], scores[B:]).mean(0).detach()
    (gradient,) = torch.autograd.grad(before.stage_weights() @ losses, before.stage_weights.logits)
    torch.testing.assert_close(game.stage_weights.logits.grad, gradient, rtol=1e-4, atol=1e-7)


def test_direction_objectives_join_the_discriminators_loss() -> None:
    game = make_game("discriminator.head.name=sliced_cascade")
    images, _, latents, _ = batch()
    before = copy.deepcopy(game.discriminator)
    _, seen = discriminator_step(game, images, None, latents, None)
    slices = before.head.direction_scores(seen.features)
    objective = (slices[B:] - slices[:B]).mean()
    (gradient,) = torch.autograd.grad(objective, before.head.weight)
    torch.testing.assert_close(game.discriminator.head.weight.grad, gradient, rtol=1e-4, atol=1e-6)


def test_all_that_is_random_in_training_follows_from_the_seed() -> None:
    random_images = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 1), dtype=np.uint8)
    store = ImageStore(random_images, None, (), "hash", "digits", "train")

    def drawn(seed: int) -> dict[str, Tensor]:
        config = load_config(DEFAULT, [*TINY, f"seed={seed}"])
        game = build_game(config, facts := image_facts(config), CPU)
        networks = {
            "generator": game.generator, "backbone": game.discriminator.backbone, "head": game.discriminator.head,
        }  # fmt: skip
        latents = build_latents(config, facts, CPU)
        return {
            **{name: torch.cat([one.flatten() for one in part.parameters()]) for name, part in networks.items()},
            "batch": build_loader(config, store, CPU).next_batch()[0],
            **{f"latents of the {player}": latents.next(player, 8)[0] for player in ("discriminator", "generator")},
            "noise": torch.rand(8, generator=game.noise.generator("discriminator", 0, 0)),
            "seed of the noise": torch.tensor(game.noise.seed),
        }

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not [name for name in first if torch.equal(first[name], other[name])]


@pytest.mark.slow
def test_bfloat16_agrees_with_float32_to_its_precision() -> None:
    images, _, latents, _ = batch()
    losses = []
    for precision in ("float32", "bfloat16"):
        game = make_game(f"training.precision={precision}")
        losses.append(discriminator_step(game, images, None, latents, None)[0]["loss/discriminator"])
        assert losses[-1].dtype == torch.float32
    torch.testing.assert_close(losses[0], losses[1], rtol=0.02, atol=0.02)
    assert not torch.equal(*losses)


def test_auto_precision_is_bfloat16_only_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has})
        assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("bfloat16", CPU) == "bfloat16"


def assert_steps_agree(compiled: Game, eager: Game, conditional: bool) -> None:
    """One iteration of both, in float64, compared in what they report, in every gradient, and in all they come to."""
    inputs = [
        tensor.double() if tensor is not None and tensor.is_floating_point() else tensor
        for tensor in batch(conditional)
    ]
    reported = []
    for game in (compiled, eager):
        for network in (game.generator, game.discriminator):
            network.double()
        found, _ = discriminator_step(game, *inputs)
        reported.append({**found, **generator_step(game, inputs[2], inputs[3], inputs[0], inputs[1])})
    torch.testing.assert_close(reported[0], reported[1], rtol=1e-9, atol=1e-9)
    for mine, theirs in ((compiled.generator, eager.generator), (compiled.discriminator, eager.discriminator)):
        assert mine.state_dict().keys() == theirs.state_dict().keys()
        for (name, parameter), twin in zip(mine.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, twin.grad, rtol=1e-5, atol=1e-9, msg=name)
        torch.testing.assert_close(mine.state_dict(), theirs.state_dict(), rtol=1e-6, atol=1e-9)  # stepped, normalised


@pytest.mark.parametrize("player", ["dcgan", "sngan"])
@pytest.mark.parametrize("conditional", [False, True])
def test_both_players_compile_without_graph_breaks_to_the_same_step(player: str, conditional: bool) -> None:
    torch._dynamo.reset()
    overrides = (f"generator.name={player}", f"discriminator.backbone.name={player}")
    game = make_game(*overrides, f"conditional={conditional}".lower())
    twin = copy.deepcopy(game)
    for network in (game.generator, game.discriminator.backbone, game.discriminator.head):
        network.compile(fullgraph=True, dynamic=False, backend="aot_eager")
    iterations = torch.compile(update_spectral_norms, fullgraph=True, dynamic=False, backend="aot_eager")
    assert_steps_agree(replace(game, update_spectral_norms=iterations), twin, conditional)


@pytest.mark.slow
def test_the_compile_option_changes_no_step() -> None:
    torch._dynamo.reset()
    overrides = ("generator.name=dcgan", "discriminator.backbone.name=dcgan")
    assert_steps_agree(make_game(*overrides, "training.compile=true"), make_game(*overrides), False)


def test_a_normalised_generator_and_its_average_keep_unit_norms() -> None:
    game = make_game("generator.options={spectral_norm: true}", "optimizer.generator_lr=2e-3")
    ema = ExponentialMovingAverage(game.generator, decay=0.9)
    images, _, latents, _ = batch()
    for step in range(12):
        discriminator_step(game, images, None, latents, None)
        generator_step(game, latents, None, images, None)
        ema.update(step + 1)
    for network in (game.generator, ema.average):
        norms = [
            torch.linalg.matrix_norm(module.spectral_norm(module.weight).flatten(1), 2).item()
            for module in network.modules()
            if getattr(module, "spectral_norm", None) is not None
        ]
        assert norms and norms == pytest.approx([1.0] * len(norms), abs=0.15)


def test_micro_batches_draw_the_same_numbers_however_they_are_spread_over_ranks() -> None:
    def drawn(micro_batches: int, world_size: int, seed: int = 0, player: str = "generator", step: int = 0) -> list:
        found = []
        for rank in range(world_size):
            weight = torch.nn.Parameter(torch.zeros(1))
            noise, accumulation = Noise(seed, CPU), Accumulation(micro_batches, rank, world_size)
            for _ in range(step + 1):
                update = Update(player, torch.optim.SGD([weight], 1.0), [], accumulation, noise)
            for _, number, random in update.micro_batches(torch.zeros(micro_batches, 1)):
                assert number == step
                found.append((torch.rand(3, generator=random), torch.rand(3)))  # the second as a dropout would
        return found

    expected = drawn(4, 1)
    assert len({tuple(one.tolist()) for pair in expected for one in pair}) == 8
    for spread in (drawn(2, 2), drawn(1, 4)):
        torch.testing.assert_close(spread, expected, rtol=0, atol=0)
    others = [drawn(4, 1, seed=1), drawn(4, 1, player="discriminator"), drawn(4, 1, step=1)]
    assert not any(torch.equal(other[0][0], expected[0][0]) for other in others)


def test_running_statistics_of_micro_batches_follow_one_after_the_other() -> None:
    game = make_game("training.accumulation=3", "training.batch_size=6")
    twin = copy.deepcopy(game).generator
    images, _, latents, _ = batch()
    discriminator_step(game, images, None, latents, None)
    with torch.no_grad():
        for rows in latents.chunk(3):
            twin(rows)
    torch.testing.assert_close(game.generator.state_dict(), twin.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("step", [discriminator_step, generator_step])
def test_a_step_and_its_gradients_fit_a_screen_each(step: Callable[..., Any]) -> None:
    gradients = getattr(steps, step.__name__.replace("_step", "_gradients"))
    assert len(inspect.getsource(step).splitlines()) <= 45
    assert len(inspect.getsource(gradients).splitlines()) <= 45
