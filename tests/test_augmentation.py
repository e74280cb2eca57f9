"""ADA's transforms against plain references, one by one and together, their draws, and in a game."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import map_coordinates
from torch import Tensor

from gan.build import build_augmentation, build_game, build_loss, image_facts
from gan.config import load_config
from gan.errors import UserError
from gan.objectives import ada
from gan.objectives.ada import Recolouring, Warp, draw_recolouring, draw_warp, recoloured, warped
from gan.objectives.augmentation import Augmentation, color, cutout, translation
from gan.training.steps import discriminator_step, generator_step
from tests import DEFAULT

SIDE = 16
COS, SIN = math.cos(0.3), math.sin(0.3)


def images(count: int = 3, channels: int = 3, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, SIDE, SIDE, generator=random, dtype=torch.float64) * 2 - 1


def warp(count: int = 3, **changes: float) -> Warp:
    return Warp(*[torch.full((count,), changes.get(name, 0.0), dtype=torch.float64) for name in Warp._fields])


def change(count: int = 3, **changes: float) -> Recolouring:
    fields = Recolouring._fields
    return Recolouring(*[torch.full((count,), changes.get(name, 0.0), dtype=torch.float64) for name in fields])


def mirrored_shift(x: Tensor, down: int, right: int) -> Tensor:
    """Shifted by whole pixels, mirrored at the edges with the edge itself repeated."""
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (SIDE, SIDE), (SIDE, SIDE)), mode="symmetric")
    rows, columns = slice(SIDE - down, 2 * SIDE - down), slice(SIDE - right, 2 * SIDE - right)
    return torch.from_numpy(padded[:, :, rows, columns].copy())


def test_transforms_of_whole_pixels_are_those_of_arrays() -> None:
    x = images()
    cases = {
        "nothing": (warp(), x),
        "mirrored": (warp(mirrored=1), x.flip(3)),
        "one quarter": (warp(quarters=1), x.rot90(1, (2, 3))),
        "three quarters": (warp(quarters=3), x.rot90(3, (2, 3))),
        "shifted": (warp(shift_x=2 / SIDE, shift_y=-1 / SIDE), mirrored_shift(x, -1, 2)),
        "slid by a pixel": (warp(slide_x=1 / SIDE), mirrored_shift(x, 0, 1)),
        "half a turn": (warp(turn_before=math.pi), x.flip((2, 3))),
    }
    for name, (one, expected) in cases.items():
        assert (warped(x, one) - expected).abs().max() < 1e-9, name


@pytest.mark.parametrize(
    ("one", "inverse"),
    [
        (warp(turn_after=0.3), lambda y, x: (x * COS - y * SIN, x * SIN + y * COS)),
        (warp(scale=0.5), lambda y, x: (x / 2**0.5, y / 2**0.5)),
        (warp(stretch=0.4), lambda y, x: (x / 2**0.4, y * 2**0.4)),
        (warp(slide_x=0.03, slide_y=0.01), lambda y, x: (x - 0.03 * SIDE, y - 0.01 * SIDE)),
    ],
    ids=["turned", "scaled", "stretched", "slid"],
)  # fmt: skip
def test_other_maps_are_those_of_scipy_where_no_edge_is_near(one: Warp, inverse: Any) -> None:
    x = images()
    middle = (SIDE - 1) / 2
    y_out, x_out = np.mgrid[:SIDE, :SIDE] - middle
    x_in, y_in = inverse(y_out, x_out)
    inside = (abs(x_in) < middle) & (abs(y_in) < middle)
    assert inside.mean() > 0.5
    found = warped(x, one).numpy()
    for ours, image in zip(found.reshape(-1, SIDE, SIDE), x.numpy().reshape(-1, SIDE, SIDE), strict=True):
        expected = map_coordinates(image, [y_in + middle, x_in + middle], order=1, mode="nearest")
        assert abs(ours - expected)[inside].max() < 1e-9


def test_places_between_pixels_are_not_rounded_to_bfloat16() -> None:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    turned = draw_warp(x, torch.Generator().manual_seed(1), torch.ones(()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = warped(x, turned)
    torch.testing.assert_close(found, warped(x, turned), rtol=0, atol=1e-6)


def test_maps_follow_one_another() -> None:
    """What is mirrored, turned and then shifted is what three warps in turn make of it."""
    x = images()
    together = warped(x, warp(mirrored=1, quarters=1, shift_x=3 / SIDE))
    in_turn = warped(warped(warped(x, warp(mirrored=1)), warp(quarters=1)), warp(shift_x=3 / SIDE))
    torch.testing.assert_close(together, in_turn, atol=1e-9, rtol=0)


def test_colours_are_changed_by_their_plain_formulas() -> None:
    x = images()
    grey = x.mean(dim=1, keepdim=True)
    turned = x.roll(1, 1)  # a third of a turn about the grey axis takes red to green
    cases = {
        "nothing": (change(), x),
        "brightness": (change(brightness=0.2), x + 0.2),
        "contrast": (change(contrast=1), 2 * x),
        "inverted": (change(inverted=1), x - 2 * grey),
        "hue": (change(hue=2 * math.pi / 3), turned),
        "saturation": (change(saturation=1), grey + 2 * (x - grey)),
        "brightness before contrast": (change(brightness=0.2, contrast=1), 2 * (x + 0.2)),
    }
    for name, (one, expected) in cases.items():
        assert (recoloured(x, one) - expected).abs().max() < 1e-12, name
    pale = images(channels=1)
    torch.testing.assert_close(recoloured(pale, change(hue=1.0, saturation=1.0)), pale)
    torch.testing.assert_close(recoloured(pale, change(inverted=1, brightness=0.1)), -pale - 0.1)


def test_draws_have_the_shares_and_distributions_of_the_paper() -> None:
    count, p = 40_000, torch.tensor(0.3, dtype=torch.float64)
    x = torch.zeros(count, 1, SIDE, SIDE, dtype=torch.float64)
    found = draw_warp(x, torch.Generator().manual_seed(1), p)
    colours = draw_recolouring(x, torch.Generator().manual_seed(2), p)
    half = 1 - math.sqrt(0.7)
    shares = {  # of images that have a transform, and that it moves
        "mirrored": 0.15, "quarters": 0.3 * 3 / 4, "scale": 0.3, "turn_before": half, "turn_after": half,
        "stretch": 0.3, "slide_x": 0.3, "slide_y": 0.3, "brightness": 0.3, "contrast": 0.3, "inverted": 0.15,
        "hue": 0.3, "saturation": 0.3,
    }  # fmt: skip
    values = {**found._asdict(), **colours._asdict()}
    for name, share in shares.items():
        moved = (values[name] != 0).double().mean().item()
        assert abs(moved - share) < 5 * math.sqrt(share * (1 - share) / count), name
    either = ((found.turn_before != 0) | (found.turn_after != 0)).double().mean().item()
    assert abs(either - 0.3) < 0.012
    deviations = {"scale": 0.2, "stretch": 0.2, "slide_x": 1 / 8, "brightness": 0.2, "contrast": 0.5, "saturation": 1.0}
    for name, deviation in deviations.items():
        drawn = values[name][values[name] != 0].numpy()
        assert stats.kstest(drawn / deviation, "norm").pvalue > 1e-3, name
    for name in ("turn_before", "hue"):
        drawn = values[name][values[name] != 0].numpy()
        assert stats.kstest(drawn, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3, name
    pixels = found.shift_x * SIDE
    assert torch.equal(pixels, pixels.round()) and set(pixels.tolist()) == {-2, -1, 0, 1, 2}
    together = (found.slide_x != 0) == (found.slide_y != 0)
    assert together.all()


def test_probability_0_leaves_images_as_they_are() -> None:
    x, random = images(), torch.Generator().manual_seed(3)
    never = torch.tensor(0.0, dtype=torch.float64)
    for operation in (ada.geometry, ada.colours):
        torch.testing.assert_close(operation(x, random, never), x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("operation", [ada.geometry, ada.colours])
def test_gradients_are_those_of_differences(operation: Any) -> None:
    x = images(2).requires_grad_()
    always = torch.tensor(1.0, dtype=torch.float64)
    run = lambda x: operation(x, torch.Generator().manual_seed(4), always).square().sum()  # noqa: E731
    assert torch.autograd.gradcheck(run, x, nondet_tol=1e-10, fast_mode=True)


def test_a_share_is_of_the_probability() -> None:
    section = "augmentation={operations: [ada_color], probability: 0.8, shares: {ada_color: 0.5}}"
    augmentation = build_augmentation(load_config(DEFAULT, [section])).double()
    x = images(4000)
    random, twin = (torch.Generator().manual_seed(5) for _ in range(2))
    torch.testing.assert_close(augmentation(x, random), ada.colours(x, twin, torch.tensor(0.4, dtype=torch.float64)))
    with pytest.raises(UserError, match="shares"):
        load_config(DEFAULT, ["augmentation={operations: [ada_color], shares: {ada_colour: 0.5}}"])


def test_brightness_saturation_and_contrast_are_changed_by_their_plain_formulas() -> None:
    x, random = images(5), torch.Generator().manual_seed(6)
    brightness, saturation, contrast = (torch.rand(5, generator=random).double().numpy() for _ in range(3))
    for n, found in enumerate(color(x, torch.Generator().manual_seed(6)).numpy()):
        expected = x[n].numpy() + brightness[n] - 0.5
        grey = expected.mean(0)
        expected = grey + (expected - grey) * 2 * saturation[n]
        expected = expected.mean() + (expected - expected.mean()) * (0.5 + contrast[n])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_translation_goes_up_to_an_eighth_of_either_side_and_no_further() -> None:
    x = torch.zeros(2000, 1, 16, 32)
    x[:, :, 7, 15] = 1
    lit = translation(x, torch.Generator().manual_seed(7)).nonzero()
    assert len(lit) == 2000
    shifts = {(row - 7, column - 15) for _, _, row, column in lit.tolist()}
    assert shifts == {(down, right) for down in range(-2, 3) for right in range(-4, 5)}


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("color", color),
        ("translation", translation),
        ("cutout", cutout),
        ("ada_geometry", partial(ada.geometry, probability=torch.ones(()))),
        ("ada_color", partial(ada.colours, probability=torch.ones(()))),
    ],
)
def test_a_name_stands_for_its_operation(name: Any, operation: Callable[..., Tensor]) -> None:
    x = images(20)
    found = Augmentation((name,))(x, torch.Generator().manual_seed(8))
    assert torch.equal(found, operation(x, torch.Generator().manual_seed(8)))
    assert not torch.equal(found, x)


@pytest.mark.parametrize(("name", "moving"), [("color", 1), ("translation", 24 / 25), ("cutout", 1)])
def test_one_draw_an_image_says_whether_it_is_changed(name: Any, moving: float) -> None:
    """What is changed is what the operation makes of it; some shifts are by nothing."""
    x = images(4000)
    found = Augmentation((name,), probability=0.3)(x, torch.Generator().manual_seed(9))
    always = Augmentation((name,))(x, torch.Generator().manual_seed(9))
    left, changed = ((found == one).flatten(1).all(1) for one in (x, always))
    assert (left | changed).all()
    assert abs((~left).double().mean().item() - 0.3 * moving) < 0.03


@pytest.mark.parametrize(
    ("signs", "way"), [((1.0, 1.0, 1.0, -0.2), 1), ((0.9, 0.9, 0.5, -0.3), -1), ((0.4, 0.4, 0.4, 0.8), -1)]
)
def test_an_adaptive_probability_moves_by_the_mean_of_four_signs(signs: Sequence[float], way: int) -> None:
    """By 4 · 25 of 1,000 images up if the mean is above the target, down if below, and only after every fourth."""
    augmentation = Augmentation(("color",), 0.5, target=0.6, images_to_full=1000)
    for moves in range(3):
        for sign in signs:
            assert augmentation.probability.item() == pytest.approx(0.5 + 0.1 * moves * way)
            augmentation.follow(torch.tensor(sign), 25)


@pytest.mark.parametrize(
    ("settings", "start"),
    [("", 1.0), (", probability: 0.4", 0.4), (", target: 0.6", 0.0), (", target: 0.6, probability: 0.4", 0.4)],
)
def test_an_adaptive_probability_starts_at_0_and_a_fixed_one_is_1_unless_told(settings: str, start: float) -> None:
    augmentation = build_augmentation(load_config(DEFAULT, [f"augmentation={{operations: [color]{settings}}}"]))
    assert augmentation.probability.item() == pytest.approx(start)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_game_is_played_with_them(precision: str) -> None:
    overrides = [
        "generator.width=8", "discriminator.backbone.width=8", "generator.latent_dim=8", "conditional=false",
        f"training.precision={precision}", "augmentation={operations: [ada_geometry, ada_color, cutout]}",
        "objective.regularizers={r1: {weight: 1}, latent_consistency: {weight: 1}}",
    ]  # fmt: skip
    config = load_config(DEFAULT, overrides)
    game = build_game(config, image_facts(config), torch.device("cpu"))
    real, latents = torch.rand(4, 1, 32, 32) * 2 - 1, torch.randn(4, 8)
    before = [parameter.clone() for parameter in game.generator.parameters()]
    found, _ = discriminator_step(game, real, None, latents, None)
    found |= generator_step(game, latents, None, real, None)
    assert all(value.isfinite().all() for value in found.values())
    pairs = zip(before, game.generator.parameters(), strict=True)
    assert any(not torch.equal(old, new) for old, new in pairs)


def test_the_sign_that_steers_is_that_of_the_losss_own_boundary() -> None:
    """With least squares' targets of 0 and 1 a score of 0.4 says fake."""
    settings = [
        "objective.loss=least_squares", "augmentation={operations: [color], target: 0.6}", "conditional=false",
        "discriminator.head={name: linear, options: {spectral_norm: false}}",
    ]  # fmt: skip
    assert build_loss(load_config(DEFAULT, settings)).boundary == 0.5
    game = build_game(config := load_config(DEFAULT, settings), image_facts(config), torch.device("cpu"))
    torch.nn.init.zeros_(game.discriminator.head.linear.weight)
    torch.nn.init.constant_(game.discriminator.head.linear.bias, 0.4)
    images = torch.zeros(4, 1, 32, 32)
    latents = torch.zeros(4, config.generator.latent_dim)
    values, _ = discriminator_step(game, images, None, latents, None)
    assert values["augmentation/real_sign"] == -1


def test_the_probability_is_steered_by_the_signs_of_the_reals_weighted_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of reals scored +, +, −, + the mean sign is ½; four steps of four of a hundred images move p by 0.16."""
    settings = [
        "generator.width=8", "discriminator.backbone.width=8", "training.precision=float32",
        "objective.stage_weights=[1, 1, 4]", "augmentation={operations: [color], target: 0.3, images_to_full: 100}",
    ]  # fmt: skip
    game = build_game(config := load_config(DEFAULT, settings), image_facts(config), torch.device("cpu"))
    scores = torch.tensor([2.0, 0.5, -3.0, 1.0, -1.0, -1.0, -1.0, -1.0])[:, None] * torch.tensor([-1.0, -1.0, 1.0])
    monkeypatch.setattr(game.discriminator.head, "batch_scores", lambda features, labels: scores + 0 * features.sum())
    latents = torch.zeros(4, config.generator.latent_dim)
    found = [discriminator_step(game, torch.zeros(4, 1, 32, 32), None, latents, None)[0] for _ in range(4)]
    assert [step["augmentation/real_sign"].item() for step in found] == [0.5] * 4
    assert [step["augmentation/probability"].item() for step in found] == pytest.approx([0, 0, 0, 0.16])


@pytest.mark.parametrize("loss", ["relativistic", "wasserstein"])
def test_scores_without_a_zero_steer_nothing(loss: str) -> None:
    with pytest.raises(UserError, match=r"augmentation\.target: 0\.6 found; with objective\.loss"):
        build_augmentation(
            load_config(DEFAULT, [f"objective.loss={loss}", "augmentation={operations: [color], target: 0.6}"])
        )


def test_a_share_of_what_is_no_operation_is_refused() -> None:
    with pytest.raises(UserError, match="shares: 'cutout' found"):
        load_config(DEFAULT, ["augmentation={operations: [color], shares: {cutout: 0.5}}"])
