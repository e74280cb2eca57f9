"""Regularisers and augmentation against plain formulas, and inside a game."""

import copy
import math
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.build import ImageFacts, build_discriminator, build_game, image_facts
from gan.commands.gamma import gamma_remark, stylegan2_gamma
from gan.config import load_config
from gan.errors import UserError
from gan.models.blocks.spectral_norm import update_spectral_norms
from gan.models.heads import HEADS
from gan.objectives import REGULARIZERS
from gan.objectives.augmentation import Augmentation, cutout, flip, translate
from gan.objectives.consistency import BalancedConsistency, LatentConsistency, LeCam
from gan.objectives.feature_terms import Contrastive, FeatureMatching, MomentMatching, Orthogonal
from gan.objectives.gradient_penalties import R1, R2, GradientPenalty, finite_differences, squared_gradients
from gan.objectives.reduction import TopK
from gan.objectives.regularizers import Scheduled, StepBatch
from gan.training.steps import Game, discriminator_step, generator_step
from tests import DEFAULT

B, N = 6, 2
CPU = torch.device("cpu")
SHARES = torch.tensor([0.75, 0.25], dtype=torch.float64)


class Critic(nn.Module):
    """Scores <a_i, x> + ½‖x‖² s_i of flattened 1×4×4 images, whose gradient is a_i + s_i x."""

    def __init__(self, squares: float = 0.0) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(16, N, dtype=torch.float64))
        self.s = nn.Parameter(torch.full((N,), squares, dtype=torch.float64))

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def features_of_both(self, images: Tensor, real_count: int) -> Tensor:
        return self.features(images)

    def head(self, v: Tensor, labels: Tensor | None = None) -> Tensor:
        return v @ self.a + v.square().sum(1, keepdim=True) / 2 * self.s

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.head(self.features(images), labels)


class Deep(Critic):
    """A critic of 16 features that are trained themselves, of images of any size."""

    def __init__(self) -> None:
        super().__init__(squares=0.3)
        self.kernel = nn.Parameter(torch.randn(4, 1, 3, 3, dtype=torch.float64))

    def features(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(F.conv2d(images, self.kernel, padding=1).tanh(), 2).flatten(1)


class Labelled(Critic):
    """Scores <a_{y,i}, x> of an image x with the label y, of three."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(3, 16, N, dtype=torch.float64))

    def head(self, v: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.einsum("bf,bfn->bn", v, self.a[labels])


REAL_LABELS, FAKE_LABELS = torch.tensor([0, 2, 1, 1, 0, 2]), torch.tensor([1, 0, 0, 0, 2, 0])


class Mirror(nn.Module):
    """Latents (B, 16) as images."""

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return latents.view(-1, 1, 4, 4)


class Painter(nn.Module):
    """Latents (B, 16) and labels as images, bent and in another place for every label."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(16, 16, dtype=torch.float64) / 4)
        self.table = nn.Parameter(torch.randn(3, 16, dtype=torch.float64))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return (latents @ self.matrix + self.table[labels]).tanh().view(-1, 1, 4, 4)


def seen(
    critic: Any,
    seed: int = 0,
    step: int = 0,
    real_labels: Tensor | None = None,
    fake_labels: Tensor | None = None,
) -> StepBatch:
    torch.manual_seed(seed)
    real, latents = torch.randn(B, 1, 4, 4, dtype=torch.float64), torch.randn(B, 16, dtype=torch.float64)
    fake = Mirror()(latents)
    real_features, fake_features = critic.features(real), critic.features(fake)
    random = torch.Generator().manual_seed(seed)
    autocast = lambda: torch.autocast("cpu", enabled=False)  # noqa: E731
    return StepBatch(
        discriminator=critic, generator=Mirror(), autocast=autocast, latents=latents,
        real_images=real, real_labels=real_labels, real_features=real_features,
        fake_images=fake, fake_labels=fake_labels, fake_features=fake_features,
        real_scores=critic.head(real_features, real_labels), fake_scores=critic.head(fake_features, fake_labels),
        stage_weights=SHARES, step=step, random=random, augment=lambda fakes: fakes,
    )  # fmt: skip


def seen_at_8(critic: Any) -> StepBatch:
    """A batch of images of 8×8, which a shift by an eighth moves."""
    here = seen(critic)
    real, fake = torch.randn(2, B, 1, 8, 8, dtype=torch.float64)
    features = {"real_features": critic.features(real), "fake_features": critic.features(fake)}
    return replace(here, real_images=real, fake_images=fake, **features)


def assert_equal_with_gradients(found: Tensor, expected: Tensor, player: nn.Module) -> None:
    torch.testing.assert_close(found, expected)
    gradients = (
        torch.autograd.grad(value, list(player.parameters()), retain_graph=True, materialize_grads=True)
        for value in (found, expected)
    )
    torch.testing.assert_close(*gradients)


def test_r1_and_r2_are_half_the_mean_squared_gradient_and_can_be_trained() -> None:
    torch.manual_seed(1)
    critic = Critic(squares=0.7)
    here = seen(critic)
    for penalty, images in ((R1(), here.real_images), (R2(), here.fake_images)):
        found = penalty.discriminator_penalty(here)
        gradient = critic.a @ SHARES + (critic.s @ SHARES) * images.flatten(1)
        expected = gradient.square().sum(1).mean() / 2
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found, [critic.a, critic.s]), torch.autograd.grad(expected, [critic.a, critic.s])
        )


def repeated(critic: Any, point: Tensor, count: int) -> StepBatch:
    """A batch of `count` times one real image, whose noise is always the same."""
    real = point.expand(count, -1, -1, -1)
    return replace(
        seen(critic), real_images=real, real_features=critic.features(real), random=torch.Generator().manual_seed(3)
    )


def test_finite_differences_of_a_quadratic_critic_have_the_expectation_of_the_closed_form() -> None:
    """D(x + σε) − D(x) = σ gᵀε + ½ σ² s ‖ε‖², so its square over σ² is ‖g‖² + ¼ σ² s² E‖ε‖⁴, E‖ε‖⁴ = n(n + 2)."""
    torch.manual_seed(2)
    critic, sigma = Critic(squares=0.7), 0.5
    here = repeated(critic, torch.randn(1, 1, 4, 4, dtype=torch.float64), 200_000)
    drawn = finite_differences(here, here.real_images, here.real_features, None, sigma).detach()
    slope = critic.s @ SHARES
    gradient = critic.a @ SHARES + slope * here.real_images[0].flatten()
    expected = gradient.square().sum() + sigma**2 / 4 * slope**2 * 16 * 18
    assert (drawn.mean() - expected).abs() < 4 * drawn.std() / len(drawn) ** 0.5
    assert expected / gradient.square().sum() > 1.2  # so the test tells the second term from nothing


class Bent(nn.Module):
    """Scores of a smooth critic that is no polynomial, or of its image in a mirror at `point`."""

    def __init__(self, point: Tensor, mirrored: bool = False) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.a = nn.Parameter(torch.randn(16, N, dtype=torch.float64))
        self.point, self.mirrored = point, mirrored

    def features(self, images: Tensor) -> Tensor:
        return ((2 * self.point - images if self.mirrored else images).flatten(1) / 4).exp()

    def head(self, v: Tensor, labels: Tensor | None = None) -> Tensor:
        return v @ self.a

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def test_finite_differences_come_to_the_exact_penalty_with_the_square_of_sigma() -> None:
    """With ε and −ε the odd terms cancel, so with the same draws the error falls by four where σ is halved."""
    point = torch.randn(1, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def penalty(sigma: float) -> float:
        both = [repeated(Bent(point, mirrored), point, 64) for mirrored in (False, True)]
        return sum(float(R1("finite_difference", sigma).discriminator_penalty(one).detach()) / 2 for one in both)

    limit = penalty(1e-5)
    errors = [penalty(sigma) - limit for sigma in (0.2, 0.1, 0.05)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05) and errors[1] / errors[2] == pytest.approx(4, rel=0.02)
    count = 100_000
    many = repeated(Bent(point), point, count)
    assert many.real_features is not None
    drawn = finite_differences(many, many.real_images, many.real_features, None, 1e-5).detach()
    critic = Bent(point)
    x = point.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((critic(x) @ SHARES).sum(), x)
    assert (drawn.mean() - gradient.square().sum()).abs() < 4 * drawn.std() / count**0.5


def test_finite_differences_train_the_critic_with_the_gradient_of_what_they_report() -> None:
    critic = Critic(squares=0.7)
    here = seen(critic)

    def value() -> Tensor:
        critic_batch = replace(
            here,
            fake_features=critic.features(here.fake_images),
            random=torch.Generator().manual_seed(6),
        )
        return R2("finite_difference", 0.1).discriminator_penalty(critic_batch)

    (gradient,) = torch.autograd.grad(value(), critic.a)
    with torch.no_grad():
        critic.a[3, 1] += 1e-6
        above = value()
        critic.a[3, 1] -= 2e-6
        below = value()
    assert gradient[3, 1].item() == pytest.approx((above - below).item() / 2e-6, rel=1e-6)


def test_gradient_penalty_of_a_linear_critic_is_known_and_its_points_lie_between() -> None:
    critic = Critic()
    norm = (critic.a @ SHARES).norm()
    torch.testing.assert_close(GradientPenalty().discriminator_penalty(seen(critic)), (norm - 1).square())
    curved = Critic(squares=0.5)
    here = seen(curved)
    found = GradientPenalty().discriminator_penalty(here)
    share = torch.rand(B, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = (share * here.real_images + (1 - share) * here.fake_images).flatten(1)
    gradients = curved.a @ SHARES + (curved.s @ SHARES) * points
    torch.testing.assert_close(found, (gradients.norm(dim=1) - 1).square().mean())


def test_balanced_consistency_is_the_sum_of_both_mean_squares_and_blind_to_blind_critics() -> None:
    critic = Critic(squares=0.3)
    here = seen(critic)
    found = BalancedConsistency().discriminator_penalty(here)
    images = torch.cat([here.real_images, here.fake_images])
    random = torch.Generator().manual_seed(0)
    moved = translate(flip(images, random), random, 0.125)
    squares = (critic(images) - critic(moved)).square() @ SHARES
    torch.testing.assert_close(found, squares[:B].mean() + squares[B:].mean())
    nn.init.ones_(critic.a)  # only sums of pixels, which flips keep
    nn.init.zeros_(critic.s)
    assert BalancedConsistency(shift=0).discriminator_penalty(seen(critic)).item() == pytest.approx(0, abs=1e-20)


def test_latent_consistency_of_linear_players_is_the_size_of_the_move() -> None:
    critic = Critic()
    here = seen(critic)
    move = 0.05 * torch.randn(B, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(
        LatentConsistency().discriminator_penalty(here), ((move @ critic.a).square() @ SHARES).mean()
    )
    found = LatentConsistency(generator_share=0.5).generator_penalty(seen(critic))
    torch.testing.assert_close(found.double(), -0.5 * move.square().mean(), rtol=1e-4, atol=1e-9)


def test_both_sides_of_a_consistency_train_the_critic() -> None:
    critic = Deep()
    here = seen_at_8(critic)
    images, random = torch.cat([here.real_images, here.fake_images]), torch.Generator().manual_seed(0)
    moved = translate(flip(images, random), random, 0.125)
    squares = (critic(images) - critic(moved)).square() @ SHARES
    expected = squares[:B].mean() + squares[B:].mean()
    assert_equal_with_gradients(BalancedConsistency().discriminator_penalty(here), expected, critic)
    here = seen(critic)
    move = 0.05 * torch.randn(B, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = ((critic(here.fake_images) - critic(Mirror()(here.latents + move))).square() @ SHARES).mean()
    assert_equal_with_gradients(LatentConsistency().discriminator_penalty(here), expected, critic)


def test_both_sides_of_latent_consistency_train_the_generator_with_the_labels_of_its_fakes() -> None:
    painter = Painter()
    move = 0.05 * torch.randn(B, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    here = replace(seen(Labelled(), real_labels=REAL_LABELS, fake_labels=FAKE_LABELS), generator=painter)
    there = painter(here.latents + move, FAKE_LABELS)
    expected = -0.1 * (painter(here.latents, FAKE_LABELS) - there).square().mean()
    assert_equal_with_gradients(LatentConsistency().generator_penalty(here), expected, painter)


def test_consistency_scores_images_with_their_own_labels() -> None:
    critic, painter = Labelled(), Painter()
    here = seen(critic, real_labels=REAL_LABELS, fake_labels=FAKE_LABELS)
    expected = torch.zeros((), dtype=torch.float64)
    images, random = torch.cat([here.real_images, here.fake_images]), torch.Generator().manual_seed(0)
    moved = translate(flip(images, random), random, 0.125)
    for part, labels in ((slice(None, B), REAL_LABELS), (slice(B, None), FAKE_LABELS)):
        expected += ((critic(images[part], labels) - critic(moved[part], labels)).square() @ SHARES).mean()
    torch.testing.assert_close(BalancedConsistency().discriminator_penalty(here), expected)
    here = replace(here, generator=painter, random=torch.Generator().manual_seed(0))
    move = 0.05 * torch.randn(B, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    there = painter(here.latents + move, FAKE_LABELS)
    squares = (critic(here.fake_images, FAKE_LABELS) - critic(there, FAKE_LABELS)).square()
    torch.testing.assert_close(LatentConsistency().discriminator_penalty(here), (squares @ SHARES).mean())


@pytest.mark.parametrize(("penalty", "labels"), [(R1, REAL_LABELS), (R2, FAKE_LABELS)])
def test_r1_and_r2_score_images_with_their_own_labels(penalty: type[R1 | R2], labels: Tensor) -> None:
    critic = Labelled()
    here = seen(critic, real_labels=REAL_LABELS, fake_labels=FAKE_LABELS)
    slopes = critic.a[labels] @ SHARES  # (B, 16)
    torch.testing.assert_close(penalty().discriminator_penalty(here), slopes.square().sum(1).mean() / 2)
    noise = torch.randn(B, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (slopes * noise).sum(1).square().mean() / 2
    torch.testing.assert_close(penalty("finite_difference").discriminator_penalty(here), expected)


def test_the_gradient_penalty_scores_what_lies_between_with_the_labels_of_the_reals() -> None:
    critic = Labelled()
    here = seen(critic, real_labels=REAL_LABELS, fake_labels=FAKE_LABELS)
    norms = (critic.a[REAL_LABELS] @ SHARES).norm(dim=1)
    torch.testing.assert_close(GradientPenalty().discriminator_penalty(here), (norms - 1).square().mean())


@pytest.mark.parametrize("backbone", ["dcgan", "unrolled_dcgan"])  # without and with batch norm
def test_consistency_asks_nothing_of_images_that_nothing_moves(backbone: str) -> None:
    head = "{name: cascading_rejection, options: {stages: 3, rejection: decorrelated}}"
    overrides = [f"discriminator.backbone={{name: {backbone}, width: 8}}", f"discriminator.head={head}"]
    if backbone == "unrolled_dcgan":
        overrides += ["data.source=stacked_mnist", "data.resolution=28", "conditional=false"]
    resolution, channels = (28, 3) if backbone == "unrolled_dcgan" else (32, 1)
    config = load_config(DEFAULT, ["conditional=false", *overrides])
    discriminator = build_discriminator(config, ImageFacts(resolution, channels, None))
    random = torch.Generator().manual_seed(0)
    half = torch.randn(2 * B, channels, resolution, resolution // 2, generator=random)
    real, fake = torch.cat([half, half.flip(3)], dim=3).chunk(2)  # mirrored, they are as they were
    features = discriminator.features_of_both(torch.cat([real, fake]), B)
    scores = discriminator.head.batch_scores(features)
    batch = StepBatch(
        discriminator=discriminator, generator=Mirror(), latents=torch.zeros(B, 1),
        autocast=lambda: torch.autocast("cpu", enabled=False),
        real_images=real, real_labels=None, real_features=features[:B], real_scores=scores[:B],
        fake_images=fake, fake_labels=None, fake_features=features[B:], fake_scores=scores[B:],
        stage_weights=torch.full((3,), 1 / 3), step=0, random=random, augment=lambda fakes: fake,
    )  # fmt: skip
    assert not torch.allclose(scores, discriminator.head(features))  # by the batch's moments, not the average's
    assert BalancedConsistency(shift=0).discriminator_penalty(batch).item() == pytest.approx(0, abs=1e-9)
    batch = replace(batch, generator=lambda latents, labels: fake)
    assert LatentConsistency().discriminator_penalty(batch).item() == pytest.approx(0, abs=1e-9)


def test_lecam_follows_the_running_means_of_the_other_side() -> None:
    critic, penalty = Critic(), LeCam(decay=0.5)
    means = None
    for seed in range(4):
        here = seen(critic, seed)
        real, fake = here.real_scores.detach(), here.fake_scores.detach()
        means = means or (real.mean(0), fake.mean(0))
        expected = (((real - means[1]) ** 2 + (fake - means[0]) ** 2) @ SHARES).mean()
        for _ in range(2):  # micro-batches, which move nothing
            torch.testing.assert_close(penalty.discriminator_penalty(here), expected)
        penalty.follow({"scores/real": real.mean(0), "scores/fake": fake.mean(0)})
        means = tuple(0.5 * mean + 0.5 * scores.mean(0) for mean, scores in zip(means, (real, fake), strict=True))
    twin = LeCam(decay=0.5)
    twin.load_state_dict(penalty.state_dict())
    assert torch.equal(twin.real_mean, penalty.real_mean)


def test_lecam_trains_the_critic_towards_means_that_are_held_fixed() -> None:
    critic, penalty = Critic(squares=0.3), LeCam()
    here = seen(critic)
    real, fake = here.real_scores, here.fake_scores
    means = real.detach().mean(0), fake.detach().mean(0)  # before the first batch has been followed
    for _ in range(2):
        expected = (((real - means[1]) ** 2 + (fake - means[0]) ** 2) @ SHARES).mean()
        assert_equal_with_gradients(penalty.discriminator_penalty(here), expected, critic)
        means = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64).unbind()
        penalty.follow({"scores/real": means[0], "scores/fake": means[1]})


@pytest.mark.parametrize("view", ["dropout", "augmentation"])
def test_both_views_of_simcse_train_the_critic(view: Literal["dropout", "augmentation"]) -> None:
    critic = Deep()
    here = seen_at_8(critic)
    found = Contrastive(temperature=0.3, view=view, dropout=0.25).discriminator_penalty(here)
    random = torch.Generator().manual_seed(0)
    first = second = critic.features(here.real_images)
    if view == "dropout":
        first, second = (first * (torch.rand(B, 16, generator=random) >= 0.25) / 0.75 for _ in range(2))
    else:
        second = critic.features(translate(flip(here.real_images, random), random, 0.125))
    shares = torch.stack([F.cosine_similarity(one[None], second) for one in first]).div(0.3).exp()  # (B, B)
    assert_equal_with_gradients(found, -(shares.diagonal() / shares.sum(1)).log().mean(), critic)


def test_contrastive_is_simcse() -> None:
    critic = Critic()
    here = seen(critic)
    found = Contrastive(temperature=0.3, view="dropout", dropout=0.25).discriminator_penalty(here)
    random = torch.Generator().manual_seed(0)
    features = here.real_images.flatten(1).float()
    first, second = (features * (torch.rand(B, 16, generator=random) >= 0.25) / 0.75 for _ in range(2))
    expected = 0.0
    for i in range(B):
        similarities = [math.exp(F.cosine_similarity(first[i], second[j], dim=0) / 0.3) for j in range(B)]
        expected -= math.log(similarities[i] / sum(similarities)) / B
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_feature_matching_compares_means() -> None:
    critic = Critic()
    here = seen(critic)
    gap = here.real_images.flatten(1).mean(0) - here.fake_images.flatten(1).mean(0)
    torch.testing.assert_close(
        FeatureMatching().generator_penalty(here).double(), gap.square().mean(), rtol=1e-5, atol=0
    )


def test_moment_matching_compares_means_and_variances() -> None:
    here = seen(Critic())
    real, fake = here.real_images.flatten(1), here.fake_images.flatten(1)
    expected = ((real.mean(0) - fake.mean(0)) ** 2).sum() / 16
    expected += ((real.var(0, correction=0) - fake.var(0, correction=0)) ** 2).sum() / 16
    torch.testing.assert_close(MomentMatching().generator_penalty(here), expected)


def test_a_generator_that_hears_of_features_only_learns_from_the_moments_alone() -> None:
    game = make_game("objective.loss=features_only", "objective.regularizers.moment_matching.weight=1")
    images, _, latents, _ = inputs(False)
    reported = generator_step(game, latents, None, images, None)
    assert reported["loss/generator"] == 0
    found = {name: parameter.grad.clone() for name, parameter in game.generator.named_parameters()}
    twin = make_game("objective.loss=features_only")
    features = [twin.discriminator.features(some) for some in (images, twin.generator(latents))]
    moments = [[one.mean(0), one.var(0, correction=0)] for one in features]
    sum((a - b).square().mean() for a, b in zip(*moments, strict=True)).backward()
    for name, parameter in twin.generator.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


def test_orthogonal_is_zero_for_orthogonal_rows_and_counts_every_pair_else() -> None:
    layer = nn.Linear(5, 3).double()
    nn.init.orthogonal_(layer.weight)
    here = seen(Critic())
    here.generator.layer = layer
    assert Orthogonal().generator_penalty(here).item() == pytest.approx(0, abs=1e-12)
    nn.init.normal_(layer.weight)
    rows = layer.weight
    expected = sum((rows[i] @ rows[j]) ** 2 for i in range(3) for j in range(3) if i != j)
    torch.testing.assert_close(Orthogonal().generator_penalty(here), expected)
    assert Orthogonal().discriminator_penalty(here) is None


@pytest.mark.parametrize(
    ("player", "of_discriminator", "of_generator"),
    [("generator", False, True), ("discriminator", True, False), ("both", True, True)],
)
def test_orthogonal_reads_the_weights_of_its_player(
    player: Literal["generator", "discriminator", "both"], of_discriminator: bool, of_generator: bool
) -> None:
    here, penalty = seen(Critic()), Orthogonal(player)
    for network, reads, found in (
        (here.discriminator, of_discriminator, penalty.discriminator_penalty),
        (here.generator, of_generator, penalty.generator_penalty),
    ):
        layer = nn.Linear(5, 3).double()
        network.add_module("layer", layer)
        gram = layer.weight @ layer.weight.T
        expected = (gram - torch.diag(gram.diag())).square().sum()
        value = found(here)
        assert (value is not None) == reads
        if value is not None:
            torch.testing.assert_close(value, expected)


def test_lazy_terms_act_every_interval_with_as_much_more_weight() -> None:
    term = Scheduled(R1(), weight=3.0, interval=4)
    critic = Critic()
    once = R1().discriminator_penalty(seen(critic))
    found = [term("discriminator", seen(critic, step=step)) for step in range(9)]
    assert [value is not None for value in found] == [True, False, False, False] * 2 + [True]
    torch.testing.assert_close(found[4], 12 * once)
    assert term("generator", seen(critic)) is None


def test_top_k_keeps_the_best_and_falls_to_its_fraction() -> None:
    scores = torch.tensor([[0.0, 9.0], [3.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    losses, shares = -scores, torch.tensor([1.0, 0.0])
    top = TopK(fraction=0.5, decay=0.8)
    sizes = [len(top(losses, scores, shares, step)) for step in range(6)]
    assert sizes == [4, 3, 3, 2, 2, 2]
    assert sorted(top(losses, scores, shares, 6)[:, 0].tolist()) == [-3.0, -2.0]
    assert TopK()(losses, scores, shares, 6) is losses


def test_translation_moves_whole_pixels_and_brings_in_zeros() -> None:
    images = torch.randn(200, 2, 8, 16) + 5
    moved = translate(images, torch.Generator().manual_seed(0), 0.25)
    shifts = set()
    for image, after in zip(images, moved, strict=True):
        padded = F.pad(image, (4, 4, 2, 2))
        fits = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-4, 5)
            if torch.equal(padded[:, 2 - down : 10 - down, 4 - right : 20 - right], after)
        ]
        assert len(fits) == 1
        shifts.add(fits[0])
    assert len(shifts) > 35  # of 45


def test_cutout_removes_half_the_side_wherever_it_lies_inside() -> None:
    holes = (cutout(torch.ones(300, 1, 16, 16), torch.Generator().manual_seed(0)) == 0).sum(dim=(1, 2, 3))
    assert holes.max() == 64 and holes.min() >= 16
    assert 0.2 < (holes == 64).float().mean() < 0.4  # centres 4 … 12 of 17, both ways: 0.28


def test_augmentation_with_probability_zero_changes_nothing_and_passes_gradients_with_one() -> None:
    images = torch.randn(8, 3, 16, 16, requires_grad=True)
    operations = ("color", "translation", "cutout")
    random = torch.Generator().manual_seed(0)
    assert torch.equal(Augmentation(operations, probability=0.0)(images, random), images)
    assert Augmentation()(images, random) is images
    changed = Augmentation(operations)(images, random)
    assert changed.shape == images.shape and not torch.equal(changed, images)
    changed.sum().backward()
    assert (images.grad != 0).float().mean() > 0.5


def test_adaptive_probability_follows_the_sign_of_real_scores() -> None:
    augmentation = Augmentation(("color",), 0.0, target=0.6, images_to_full=1000)
    for _ in range(8):
        augmentation.follow(torch.tensor(1.0), 50)  # overfitted: every real is told
    assert augmentation.probability.item() == pytest.approx(2 * 4 * 50 / 1000)
    for _ in range(16):
        augmentation.follow(torch.tensor(0.0), 50)
    assert augmentation.probability.item() == 0.0
    twin = Augmentation(("color",), 0.0, target=0.6)
    twin.load_state_dict(augmentation.state_dict())
    assert twin.observed == 24


TINY = ["generator.width=8", "discriminator.backbone.width=8", "generator.latent_dim=8", "training.precision=float32"]


def make_game(*overrides: str) -> Game:
    config = load_config(DEFAULT, [*TINY, *overrides])
    return build_game(config, image_facts(config), CPU)


def inputs(conditional: bool) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    torch.manual_seed(0)
    images, latents = torch.randn(B, 1, 32, 32).clamp(-1, 1), torch.randn(B, 8)
    labels = torch.randint(10, (2, B)) if conditional else (None, None)
    return images, labels[0], latents, labels[1]


def play(game: Game, conditional: bool) -> dict[str, Tensor]:
    images, labels, latents, fake_labels = inputs(conditional)
    found, _ = discriminator_step(game, images, labels, latents, fake_labels)
    return found | generator_step(game, latents, fake_labels, images, labels)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("name", [name for name in REGULARIZERS if name != "classification"])
def test_every_regulariser_joins_the_loss_of_its_player(name: str, conditional: bool) -> None:
    label = f"conditional={conditional}".lower()
    plain = play(make_game(label), conditional)
    game = make_game(label, f"objective.regularizers.{name}.weight=0.1")
    found = play(game, conditional)
    added = {key: value for key, value in found.items() if key.startswith("regularizers/")}
    assert added and all(value.isfinite() for value in added.values())
    assert {key.split("/")[2] for key in added} == {name}
    torch.testing.assert_close(found["loss/discriminator"], plain["loss/discriminator"])  # beside it, not within it
    for player in {key.split("/")[1] for key in added}:
        twin = make_game(label)
        play(twin, conditional)
        pairs = zip(getattr(game, player).parameters(), getattr(twin, player).parameters(), strict=True)
        assert any(not torch.equal(mine, theirs) for mine, theirs in pairs)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("head", [name for name in HEADS if name != "auxiliary_classifier"])
def test_finite_differences_go_with_every_head_and_precision(head: str, precision: str) -> None:
    """The penalty of a step is near the exact one of the same step: within what few draws and the rounding leave."""
    conditional = HEADS[head].labels == "required"
    options = ["conditional=true"] if conditional else ["conditional=false"]
    options += [f"discriminator.head={{name: {head}}}", f"training.precision={precision}"]
    sigma = {"float32": 0.01, "bfloat16": 0.05}[precision]
    forms = ["", f", options: {{method: finite_difference, sigma: {sigma}}}"]
    exact, found = (
        play(
            make_game(*options, f"objective.regularizers={{r1: {{weight: 1{form}}}, r2: {{weight: 1{form}}}}}"),
            conditional,
        )
        for form in forms
    )
    for name in ("r1", "r2"):
        ratio = (found[f"regularizers/discriminator/{name}"] / exact[f"regularizers/discriminator/{name}"]).item()
        assert 0.1 < ratio < 10, name  # of six images; one draw of one image has a deviation of 1.4
    torch.testing.assert_close(found["loss/discriminator"], exact["loss/discriminator"])


def test_finite_differences_of_a_discriminator_average_to_the_exact_penalty() -> None:
    game = make_game("conditional=false")
    images = inputs(False)[0]
    features = game.discriminator.features(images)
    here = replace(
        seen(Critic()),
        discriminator=game.discriminator,
        real_images=images,
        stage_weights=game.stage_weights().detach(),
    )
    with torch.no_grad():
        drawn = torch.stack([finite_differences(here, images, features, None, 0.003).mean() for _ in range(400)])
    exact = squared_gradients(here, images, None).mean()
    assert (drawn.mean() - exact).abs() < 4 * drawn.std() / 20 + 0.01 * exact


def test_an_auxiliary_classifier_is_trained_by_both_players() -> None:
    overrides = ("conditional=true", "discriminator.head.name=auxiliary_classifier", "discriminator.head.options={}")
    images, labels, latents, fake_labels = inputs(True)
    for fakes in (False, True):
        term = f"objective.regularizers={{classification: {{weight: 2, options: {{fakes: {str(fakes).lower()}}}}}}}"
        game = make_game(*overrides, term)
        twin = copy.deepcopy(game)
        found, _ = discriminator_step(game, images, labels, latents, fake_labels)
        update_spectral_norms(twin.discriminator)
        features = twin.discriminator.features(torch.cat([images, twin.generator(latents, fake_labels)]))
        log_shares = twin.discriminator.head.class_logits(features).log_softmax(1)
        reals, fake_term = log_shares[range(B), labels].mean(), log_shares[range(B, 2 * B), fake_labels].mean()
        expected = -2 * (reals + fake_term if fakes else reals)
        torch.testing.assert_close(found["regularizers/discriminator/classification"], expected)
    twin = copy.deepcopy(game)
    fakes = twin.generator(latents, fake_labels)
    log_shares = twin.discriminator.head.class_logits(twin.discriminator.features(fakes)).log_softmax(1)
    found = generator_step(game, latents, fake_labels, images, labels)
    expected = -2 * log_shares[range(B), fake_labels].mean()
    torch.testing.assert_close(found["regularizers/generator/classification"], expected)
    with pytest.raises(UserError, match=r"needs objective\.regularizers\.classification"):
        make_game(*overrides)
    with pytest.raises(UserError, match="has no class logits; accepted: auxiliary_classifier"):
        make_game("objective.regularizers.classification.weight=1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "objective.regularizers.r3.weight=1",
            "objective.regularizers.r3: no such regulariser; accepted: balanced_consistency",
        ),
        ("objective.regularizers.r1.weight=0", "objective.regularizers.r1.weight: 0 found"),
        ("objective.regularizers.r1={weight: 1, interval: 0}", "objective.regularizers.r1.interval: 0 found"),
        ("objective.regularizers={lecam: {weight: 1, options: {decai: 1}}}", "lecam.options.decai: lecam has no such"),
        ("objective.regularizers={lecam: {weight: 1, options: {decay: 2.0}}}", "lecam.options.decay: 2.0 found"),
        ("augmentation.operations=[rotate]", "augmentation.operations.0: 'rotate' found"),
        ("objective.top_k.fraction=0", "objective.top_k.fraction: 0 found"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        make_game(override)
    assert message in str(caught.value)


def test_a_relativistic_generator_reads_the_real_scores() -> None:
    game = make_game("objective.loss=relativistic")
    images, _, latents, _ = inputs(False)
    twin = copy.deepcopy(game)
    real, fake = twin.discriminator(images), twin.discriminator(twin.generator(latents))
    found = generator_step(game, latents, None, images, None)
    torch.testing.assert_close(found["loss/generator"], F.softplus(real - fake).mean())


class Darkening(nn.Module):
    """An augmentation that draws nothing: images of one half are taken to one darker picture."""

    target = None

    def forward(self, images: Tensor, random: torch.Generator) -> Tensor:
        return images / 2 - 0.5


@pytest.mark.parametrize("loss", ["hinge", "relativistic"])
def test_feature_matching_compares_augmented_fakes_to_augmented_reals(loss: str) -> None:
    game = make_game(f"objective.loss={loss}", "objective.regularizers.feature_matching.weight=1")
    game = replace(game, augmentation=Darkening())
    images, _, latents, _ = inputs(False)
    twin = copy.deepcopy(game)
    fakes = twin.generator(latents)
    means = [twin.discriminator.features(some / 2 - 0.5).mean(0) for some in (images, fakes)]
    found = generator_step(game, latents, None, images, None)["regularizers/generator/feature_matching"]
    torch.testing.assert_close(found, (means[0] - means[1]).square().mean())
    same = generator_step(copy.deepcopy(twin), latents, None, fakes.detach(), None)
    assert same["regularizers/generator/feature_matching"].item() == pytest.approx(0, abs=1e-9)


def test_latent_consistency_compares_fakes_that_were_augmented_alike() -> None:
    drawn = "augmentation.operations=[color, translation, cutout]"
    game = make_game(drawn, "objective.regularizers={latent_consistency: {weight: 1, options: {sigma: 1e-7}}}")
    game.generator.eval()  # the same statistics for both passes
    images, _, latents, _ = inputs(False)
    found, _ = discriminator_step(game, images, None, latents, None)
    assert found["scores/fake"].abs().max() > 1e-4
    assert found["regularizers/discriminator/latent_consistency"] < 1e-9


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            [
                "objective.regularizers={r1: {weight: 0.05}, r2: {weight: 3}}",
                "training.batch_size=512",
                "schedules={objective.regularizers.r1.weight: {to: 0.005, images: 1000}}",
            ],
            "r1 0.05 → 0.005, r2 3; R3GAN's presets begin at 0.05 to 0.5 (32×32), StyleGAN2-ADA's rule for R1 alone "
            "gives 0.0004; docs/objectives.md",
        ),
        (["objective.regularizers={lecam: {weight: 0.3}}"], None),
    ],
)
def test_gamma_is_shown_beside_rules_of_thumb(settings: list[str], line: str | None) -> None:
    assert gamma_remark(load_config(DEFAULT, settings), 32) == line
    assert stylegan2_gamma(1024, 32) == pytest.approx(6.5536)


def test_orthogonal_filters_of_a_transposed_convolution_cost_nothing() -> None:
    """Its weight is (in, out, k, k): the filters are the columns."""
    layer = nn.ConvTranspose2d(3, 5, 2).double()
    filters = nn.init.orthogonal_(torch.empty(5, 12, dtype=torch.float64))
    layer.weight.data = filters.view(5, 3, 2, 2).transpose(0, 1).contiguous()
    here = seen(Critic())
    here.generator.layer = layer
    assert Orthogonal().generator_penalty(here).item() == pytest.approx(0, abs=1e-12)
