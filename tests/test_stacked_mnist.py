"""Stacked MNIST as published: the source, the referee, the networks, packing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.build import ImageFacts, build_discriminator, build_game, build_generator, build_loader
from gan.config import Config, load_config
from gan.data.image_store import ImageStore
from gan.data.stacked_mnist import FIXED_COUNT, StackedLoader, triple_shares
from gan.data.store import prepare
from gan.errors import UserError
from gan.metrics.accumulators import ClassCounts
from gan.metrics.audits.digits import load_mnist_classifier
from gan.metrics.audits.modes import exact_divergence
from gan.metrics.evaluator import Evaluator
from gan.metrics.extractors.catalogue import build_extractor
from gan.metrics.extractors.interface import extract
from gan.metrics.extractors.mnist_digits import ACCURACY, WEIGHTS
from gan.metrics.formulas import divergence_from_uniform
from gan.models.blocks.phase_convolution import phase_convolve
from gan.models.blocks.same_padding import SameConv2d, SameConvTranspose2d
from gan.models.unrolled_dcgan import UnrolledDCGANBackbone, UnrolledDCGANGenerator
from gan.models.veegan_dcgan import VEEGANBackbone, VEEGANGenerator
from gan.training.execution import MOVING
from gan.training.steps import discriminator_step, generator_step
from tests import ROOT

SHARED = ROOT.parent / "shared" / "data"
if not SHARED.is_dir():
    SHARED = ROOT.parents[1] / "shared" / "data"
needs_mnist = pytest.mark.skipif(not (SHARED / "mnist_train.npz").is_file(), reason="../shared/data has no MNIST")
HALF = ROOT / "configs" / "stacked_mnist" / "unrolled_half.yaml"
CPU = torch.device("cpu")
UNIFORM = np.full(1000, 1 / 1000)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Random digits: 200 for training and 50 for testing."""
    random = np.random.default_rng(0)
    for split, count in (("train", 200), ("test", 50)):
        images = random.integers(256, size=(count, 28, 28, 1), dtype=np.uint8)
        np.savez(tmp_path / f"tiny_{split}.npz", images=images, labels=np.arange(count) % 10)
    return tmp_path / "tiny_train.npz"


def stacked(path: Path, root: Path, **options: object) -> ImageStore:
    return prepare("stacked_mnist", path=path, root=root, **{"resolution": 28, **options})


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return stacked(SHARED / "mnist_train.npz", tmp_path_factory.mktemp("data"))


# the source


def test_a_batch_is_composed_of_the_digits_of_its_labels(archive: Path, tmp_path: Path) -> None:
    store = stacked(archive, tmp_path)
    digits = store.parts
    images, labels = StackedLoader(store, 64, CPU, seed=3).next_batch()
    assert images.shape == (64, 3, 28, 28)
    assert labels.unique().numel() > 40  # of 1,000: repeated ones are rare
    known = {image.tobytes(): label for image, label in zip(digits.images, digits.labels, strict=True)}
    pixels = ((images + 1) * 127.5).round().to(torch.uint8)
    for image, label in zip(pixels, labels, strict=True):
        assert [known[channel.numpy().tobytes()] for channel in image] == [int(place) for place in f"{label:03d}"]


def test_triples_are_not_stored(archive: Path, tmp_path: Path) -> None:
    store = stacked(archive, tmp_path)
    (prepared,) = (path for path in tmp_path.glob("stacked_mnist-train-*") if path.is_dir())
    assert np.load(prepared / "images.npy", mmap_mode="r").shape == (200, 28, 28, 1)
    assert store.images.shape == (FIXED_COUNT, 28, 28, 3)
    assert (store.num_classes, store.channels) == (1000, 3)


def test_batches_resume_and_depend_on_the_seed_alone(archive: Path, tmp_path: Path) -> None:
    store = stacked(archive, tmp_path)
    first, second, other = (StackedLoader(store, 8, CPU, seed=seed) for seed in (0, 0, 1))
    first.next_batch()
    second.load_state_dict(first.state_dict())
    for ours, theirs in zip(first.next_batch(), second.next_batch(), strict=True):
        assert torch.equal(ours, theirs)
    other.load_state_dict({"batch": 1})
    assert not torch.equal(second.next_batch()[1], other.next_batch()[1])
    with pytest.raises(ValueError, match="batch"):
        first.load_state_dict({"sampler": {}})


def test_ranks_share_one_batch(archive: Path, tmp_path: Path) -> None:
    store = stacked(archive, tmp_path)
    whole = StackedLoader(store, 8, CPU, seed=0).next_batch()[0]
    parts = [StackedLoader(store, 4, CPU, seed=0, rank=rank, world_size=2).next_batch()[0] for rank in (0, 1)]
    assert torch.equal(whole, torch.cat(parts))


def test_a_digit_is_as_likely_in_every_channel(archive: Path, tmp_path: Path) -> None:
    store = stacked(archive, tmp_path)
    counts = np.stack([np.bincount(store.labels // place % 10, minlength=10) for place in (100, 10, 1)])
    assert np.abs(counts / FIXED_COUNT - 0.1).max() < 5 * np.sqrt(0.09 / FIXED_COUNT)
    torch.testing.assert_close(triple_shares(store.parts.labels), UNIFORM)


def test_at_32_a_black_margin_is_added(archive: Path, tmp_path: Path) -> None:
    for name in ("mnist", "fashion_mnist"):
        small, large = (prepare(name, path=archive, root=tmp_path, resolution=side) for side in (28, 32))
        assert (large.images[:, 2:30, 2:30] == small.images).all()
        assert large.images.sum(dtype=np.int64) == small.images.sum(dtype=np.int64)
    padded = stacked(archive, tmp_path, resolution=32)
    assert (padded.images[:100, 2:30, 2:30] == stacked(archive, tmp_path).images[:100]).all()


def test_the_test_split_is_the_archive_beside(archive: Path, tmp_path: Path) -> None:
    assert stacked(archive, tmp_path, split="test").parts.num_images == 50
    archive.with_name("tiny_test.npz").unlink()
    with pytest.raises(UserError, match=r"tiny_test\.npz does not exist"):
        stacked(archive, tmp_path, split="test")


def test_the_split_is_a_word_of_the_archives_name(archive: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        archive.with_name(f"tiny_{split}.npz").rename(tmp_path / f"latest-{split}.npz")
    assert stacked(tmp_path / "latest-train.npz", tmp_path, split="test").parts.num_images == 50
    assert stacked(tmp_path / "latest-test.npz", tmp_path, split="train").parts.num_images == 200
    (tmp_path / "latest-train.npz").rename(tmp_path / "latest.npz")
    assert stacked(tmp_path / "latest.npz", tmp_path, split="train").parts.num_images == 200
    with pytest.raises(UserError, match="named after no split"):
        stacked(tmp_path / "latest.npz", tmp_path, split="test")


def test_archives_without_ten_grey_classes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 28, 28, 3), np.uint8), labels=np.arange(4))
    with pytest.raises(UserError, match=r"3 channels, 4 classes in .*a\.npz; accepted"):
        stacked(tmp_path / "a.npz", tmp_path)


def test_flips_are_refused(archive: Path, tmp_path: Path) -> None:
    config = load_config(HALF, ["data.flip=true"])
    with pytest.raises(UserError, match=r"data\.flip"):
        build_loader(config, stacked(archive, tmp_path), CPU)


# the referee


def test_the_weights_are_small() -> None:
    assert WEIGHTS.stat().st_size <= 500_000


@needs_mnist
def test_the_referee_reads_the_test_digits(tmp_path: Path) -> None:
    test = prepare("mnist", split="test", resolution=28, path=SHARED / "mnist_train.npz", root=tmp_path)
    referee = load_mnist_classifier()
    accuracy = (referee.classify(test.images) == test.labels).mean()
    assert accuracy >= 0.993
    assert round(accuracy, 4) == ACCURACY
    padded = prepare("mnist", split="test", resolution=32, path=SHARED / "mnist_train.npz", root=tmp_path)
    assert (referee.classify(padded.images[:500]) == referee.classify(test.images[:500])).all()


@needs_mnist
def test_the_referee_reads_pale_digits(tmp_path: Path) -> None:
    test = prepare("mnist", split="test", resolution=28, path=SHARED / "mnist_train.npz", root=tmp_path)
    pale = (90 + 0.3 * test.images[:2000].astype(np.float32)).astype(np.uint8)  # 90 to 166 of 255
    assert (load_mnist_classifier().classify(pale) == test.labels[:2000]).mean() >= 0.98


@needs_mnist
@pytest.mark.slow
def test_real_triples_give_all_modes(real: ImageStore) -> None:
    read = load_mnist_classifier().classify(real.images)
    shares = np.bincount(read, minlength=1000) / len(read)
    assert np.count_nonzero(shares) == 1000
    assert exact_divergence(shares, UNIFORM) <= 0.03
    assert exact_divergence(shares, triple_shares(real.parts.labels)) <= 0.025  # by chance 999/(2 · 25,600) = 0.0195
    assert (read == real.labels).mean() >= 0.98  # of triples; the digits are those it was trained on


@needs_mnist
@pytest.mark.parametrize("kept", [1, 10, 100])
def test_planted_collapses_are_read_off(real: ImageStore, kept: int) -> None:
    chosen = np.flatnonzero(np.isin(real.labels, np.arange(kept) * 7))[: 40 * kept]
    read = load_mnist_classifier().classify(real.images[chosen])
    shares = np.bincount(read, minlength=1000) / len(read)
    misread = (read != real.labels[chosen]).mean()
    assert misread <= 0.05
    assert kept <= np.count_nonzero(shares) <= kept + len(chosen) * misread
    true = np.bincount(real.labels[chosen], minlength=1000) / len(chosen)
    assert exact_divergence(true, UNIFORM) >= np.log(1000 / kept)
    # of the two dozen images of one mode, one is misread
    assert exact_divergence(shares, UNIFORM) == pytest.approx(exact_divergence(true, UNIFORM), abs=0.25)


def test_the_divergence_of_a_collapse_is_its_logarithm() -> None:
    shares = np.zeros(1000)
    shares[:8] = 1 / 8
    assert exact_divergence(shares, UNIFORM) == pytest.approx(np.log(125))
    assert exact_divergence(UNIFORM, UNIFORM) == pytest.approx(0, abs=1e-12)


# the networks


def layers(network: nn.Module) -> list[int]:
    """Parameters of every layer that has some, by size."""
    own = (sum(parameter.numel() for parameter in module.parameters(recurse=False)) for module in network.modules())
    return sorted(count for count in own if count)


UNROLLED = [263_168, 128, 18_464, 64, 4_624, 32, 1_160, 16, 219]  # 256·1024 + 1024; 2·64; 9·64·32 + 32; …; 9·8·3 + 3
HALF_D = [112, 8, 296, 16, 1_168, 32, 257]  # 9·3·4 + 4; 2·4; 9·4·8 + 8; 2·8; 9·8·16 + 16; 2·16; 256 + 1
QUARTER_D = [56, 4, 76, 8, 296, 16, 129]  # 9·3·2 + 2; 2·2; 9·2·4 + 4; 2·4; 9·4·8 + 8; 2·8; 128 + 1
VEEGAN = [206_848, 1_024, 3_277_056, 512, 819_328, 256, 204_864, 128, 4_803]  # 101·2048; 2·512; 25·512·256 + 256; …
VEEGAN_D = [4_864, 204_928, 256, 819_456, 512, 3_277_312, 1_024, 2_049]  # 25·3·64 + 64; 25·64·128 + 128; 2·128; …


@pytest.mark.parametrize(
    ("name", "generator", "discriminator"),
    [
        ("unrolled_half", UNROLLED, HALF_D),
        ("unrolled_quarter", UNROLLED, QUARTER_D),
        ("veegan", VEEGAN, VEEGAN_D),
    ],
)
def test_the_configs_have_the_layers_counted_by_hand(name: str, generator: list[int], discriminator: list[int]) -> None:
    config = load_config(HALF.with_name(f"{name}.yaml"))
    facts = ImageFacts(28, 3, None)
    assert layers(build_generator(config, facts)) == sorted(generator)
    assert layers(build_discriminator(config, facts)) == sorted(discriminator)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("side", [4, 7, 8, 14, 28])
def test_convolutions_pad_as_tensorflow_does(side: int, kernel: int) -> None:
    # "SAME" of stride 2: ⌈n/2⌉ windows, max((⌈n/2⌉ − 1)·2 + k − n, 0) zeros, the odd one at the end; the transpose is
    # its adjoint, <Ax, y> = <x, Aᵀy>
    torch.manual_seed(0)
    half = -(-side // 2)
    total = max((half - 1) * 2 + kernel - side, 0)
    before, after = total // 2, total - total // 2
    down, up = SameConv2d(2, 3, kernel).double(), SameConvTranspose2d(3, 2, kernel, side).double()
    down.bias.data.zero_()
    up.load_state_dict({"weight": down.weight, "bias": torch.zeros(2)})
    x, y = torch.randn(1, 2, side, side).double(), torch.randn(1, 3, half, half).double()
    wide = F.pad(x, (before, after, before, after))
    windows = wide.unfold(2, kernel, 2).unfold(3, kernel, 2)  # (1, 2, half, half, k, k)
    expected = torch.einsum("bcijkl,ockl->boij", windows, down.weight)
    torch.testing.assert_close(down(x), expected)
    torch.testing.assert_close((down(x) * y).sum(), (x * up(y)).sum())
    assert up(y).shape == x.shape


@pytest.mark.parametrize(("side", "before"), [(7, 1), (8, 0), (14, 0)])
def test_phases_are_a_transposed_convolution_and_so_are_their_gradients(side: int, before: int) -> None:
    torch.manual_seed(0)
    half = -(-side // 2)
    inputs = [torch.randn(*shape).double().requires_grad_() for shape in ((2, 5, half, half), (5, 3, 3, 3), (3,))]
    maps, weight, bias = inputs
    expected = F.conv_transpose2d(maps, weight, bias, stride=2, padding=before)[..., :side, :side]
    found = phase_convolve(maps, weight, bias, before, side)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, gradient), torch.autograd.grad(expected, inputs, gradient)
    )
    if side == 7:
        assert torch.autograd.gradgradcheck(lambda *given: phase_convolve(*given, before, side), inputs)


def random_state(network: nn.Module) -> dict[str, Tensor]:
    """The state of a network whose parameters have all left their initial values."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    return network.state_dict()


@pytest.mark.parametrize(
    ("network", "bottom", "cuts"),
    [
        (UnrolledDCGANGenerator, 4, [(1, 7), (0, 14), (0, 28)]),
        (VEEGANGenerator, 2, [(1, 4), (2, 7), (1, 14), (1, 28)]),
    ],
)
def test_the_generators_are_the_published_layers(
    network: type[UnrolledDCGANGenerator | VEEGANGenerator], bottom: int, cuts: list[tuple[int, int]]
) -> None:
    """Normalised, rectified, spread by "SAME": of a whole transposed convolution the rows from `before` to a side."""
    generator = network(28, 3, 2, 5).double()
    state = random_state(generator)
    latents = torch.randn(6, 5, dtype=torch.float64)

    def activated(maps: Tensor, i: int) -> Tensor:
        gain, shift = state[f"norms.{i}.normalize.weight"], state[f"norms.{i}.normalize.bias"]
        return F.relu(F.batch_norm(maps, None, None, gain, shift, training=True))

    maps = (latents @ state["project.weight"].T + state["project.bias"]).view(6, -1, bottom, bottom)
    for i, (before, side) in enumerate(cuts):
        maps = F.conv_transpose2d(activated(maps, i), state[f"convs.{i}.weight"], state[f"convs.{i}.bias"], stride=2)
        maps = maps[..., before : before + side, before : before + side]
    if network is UnrolledDCGANGenerator:
        maps = F.conv2d(activated(maps, 3), state["to_image.weight"], state["to_image.bias"], padding=1)
    torch.testing.assert_close(generator(latents), maps.tanh())


@pytest.mark.parametrize(
    ("network", "slope", "first_norm", "margins"),
    [
        (UnrolledDCGANBackbone, 0.3, 0, [(0, 1), (0, 1), (1, 1)]),
        (VEEGANBackbone, 0.2, 1, [(1, 2), (1, 2), (2, 2), (1, 2)]),
    ],
)
def test_the_backbones_are_the_published_layers(
    network: type[UnrolledDCGANBackbone | VEEGANBackbone], slope: float, first_norm: int, margins: list[tuple[int, int]]
) -> None:
    """Zeros before and after, a convolution of stride 2, a norm (but for VEEGAN's first layer), a leaky rectifier."""
    backbone = network(28, 3, 2).double()
    state = random_state(backbone)
    images = maps = torch.randn(6, 3, 28, 28, dtype=torch.float64)
    for i, (before, after) in enumerate(margins):
        maps = F.pad(maps, (before, after, before, after))
        maps = F.conv2d(maps, state[f"convs.{i}.weight"], state[f"convs.{i}.bias"], stride=2)
        if i >= first_norm:
            gain, shift = state[f"norms.{i}.weight"], state[f"norms.{i}.bias"]
            maps = F.batch_norm(maps, None, None, gain, shift, training=True)
        maps = torch.where(maps > 0, maps, slope * maps)
    torch.testing.assert_close(backbone(images), maps.flatten(1))


# a discriminator that normalises batches, and packs


def game_of(*overrides: str):
    config = load_config(HALF, ["training.batch_size=12", *overrides])
    return build_game(config, ImageFacts(28, 3, None), CPU)


def batch() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.rand(12, 3, 28, 28, generator=random) * 2 - 1, torch.randn(12, 256, generator=random)


@pytest.mark.parametrize("packing", [1, 2, 3])
@pytest.mark.parametrize("head", ["{name: linear, options: {spectral_norm: false}}", "{name: independent}"])
def test_the_discriminator_step_is_a_plain_one(packing: int, head: str) -> None:
    images, latents = batch()
    overrides = [f"discriminator.packing={packing}", f"discriminator.head={head}"]
    game, plain = game_of(*overrides), game_of(*overrides)
    discriminator_step(game, images, None, latents, None)

    network = plain.discriminator
    with torch.no_grad():
        fakes = plain.generator(latents)
    scores = []
    for kind in (images, fakes):  # each kind alone, as published: its own statistics
        packs = torch.stack([torch.cat(list(kind[i : i + packing])) for i in range(0, 12, packing)])
        assert packs.shape == (12 // packing, 3 * packing, 28, 28)
        scores.append(network.head(network.backbone(packs), None))
    loss = F.softplus(-scores[0]).mean() + F.softplus(scores[1]).mean()
    for ours, expected in zip(
        game.discriminator.parameters(), torch.autograd.grad(loss, list(network.parameters())), strict=True
    ):
        # biases before batch normalisation have gradients that are zero but for rounding, some 1e-5 of float32
        torch.testing.assert_close(ours.grad, expected, rtol=1e-4, atol=2e-5)


def test_real_and_fake_are_normalised_apart_and_only_where_needed() -> None:
    images, _ = batch()
    discriminator = game_of().discriminator
    features = discriminator.features_of_both(images, 4)
    torch.testing.assert_close(features[:4], discriminator.features(images[:4]))
    assert not torch.allclose(features, discriminator.features(images))


def test_an_update_is_captured_once_its_kept_packs_are_as_many_as_they_will_be() -> None:
    top_k = "objective.top_k={fraction: 0.5, decay: 0.93}"
    game = game_of("discriminator.packing=2", "training.batch_size=12", top_k)
    images, latents = batch()
    chosen: list[Any] = []
    execution = lambda update, batch, choices: chosen.append(choices) or update(*batch)  # noqa: E731
    counts = []
    for number in range(14):
        generator_step(replace(game, execution=execution), latents, None, images, None)
        counts.append(game.top_k.count(6, number))
        assert chosen[-1][2] == (MOVING if counts[-1] > 3 else None)
    assert counts[0] == 6 and counts[-1] == 3  # of six packs, not of twelve images
    discriminator_step(replace(game, execution=execution), images, None, latents, None)
    assert chosen[-1][2] is None


@pytest.mark.parametrize("backbone", ["dcgan", "sngan", "r3gan"])
@pytest.mark.parametrize("head", ["cascading_rejection", "energy_cascade", "sliced_cascade", "san"])
def test_every_backbone_and_head_packs(backbone: str, head: str) -> None:
    overrides = [
        "data.resolution=32",
        "training.batch_size=12",
        "discriminator.packing=2",
        f"discriminator.backbone={{name: {backbone}, width: 8}}",
        f"discriminator.head={{name: {head}}}",
    ]
    game = build_game(load_config(HALF, overrides), ImageFacts(32, 3, None), CPU)
    random = torch.Generator().manual_seed(0)
    images, latents = torch.rand(12, 3, 32, 32, generator=random), torch.randn(12, 256, generator=random)
    values, seen = discriminator_step(game, images, None, latents, None)
    assert (len(seen.features), seen.real_count) == (12, 6)
    assert all(value.isfinite().all() for value in values.values())


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("conditional=true", "conditional: true 1 is accepted"),
        ("objective.regularizers={r1: {weight: 1.0}}", "regularizers r1 1 is accepted"),
        ("training.batch_size=9", "divisors of 9"),
    ],
)
def test_what_cannot_be_packed_is_refused(override: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        config: Config = load_config(HALF, ["discriminator.packing=2", override])
        build_game(config, ImageFacts(28, 3, None), CPU)
    assert str(error.value).startswith("discriminator.packing: 2 found")
    assert "\n" not in str(error.value)


# measures in training


@needs_mnist
def test_the_extractor_reads_what_the_classifier_reads(real: ImageStore) -> None:
    images = np.array(real.images[:512])
    extractor = build_extractor("mnist_digits")
    layers = extract(extractor, torch.from_numpy(images).permute(0, 3, 1, 2))
    assert {name: tuple(values.shape) for name, values in layers.items()} == {
        "features": (512, 384), "logits": (512, 1000),
    }  # fmt: skip
    assert np.array_equal(layers["logits"].argmax(1).numpy(), load_mnist_classifier().classify(images))
    assert torch.allclose(layers["logits"].exp().sum(1), torch.ones(512), atol=1e-5)  # a product of distributions


def test_modes_are_counted_as_they_are_by_hand() -> None:
    counts = ClassCounts()
    for classes in (torch.tensor([0, 0, 1]), torch.tensor([3])):
        counts.update(F.one_hot(classes, 4).float())
    other = ClassCounts()
    other.merge(counts)
    assert other.result().tolist() == [2, 1, 0, 1]
    shares = np.array([2, 1, 0, 1]) / 4
    assert divergence_from_uniform(other.result()).item() == pytest.approx(exact_divergence(shares, np.full(4, 0.25)))
    assert divergence_from_uniform(torch.tensor([7, 0, 0])).item() == pytest.approx(np.log(3))


def test_a_generator_is_scored_by_its_modes(tmp_path: Path) -> None:
    """Images of two triples: two modes, KL log 500."""
    evaluator = Evaluator(build_extractor("mnist_digits"), metrics=["mode_divergence", "mode_count"], progress=False)
    random = np.random.default_rng(0)
    images = random.integers(256, size=(2, 28, 28, 3), dtype=np.uint8)
    read = load_mnist_classifier().classify(images)
    reference = evaluator.reference(np.repeat(images, 4, 0), name="two", split="train")
    result = evaluator.evaluate_images(np.repeat(images, 8, 0), reference)
    modes = len(set(read.tolist()))
    assert result.metrics == {"mode_divergence": pytest.approx(np.log(1000 / modes)), "mode_count": modes}


def test_shared_latents_give_what_each_player_would_make_of_them() -> None:
    """Fakes that are made once train both players as fakes that each makes of the same latents."""
    players = []
    for shared in (False, True):
        game = build_game(load_config(HALF, [f"training.shared_latents={shared}"]), ImageFacts(28, 3, None), CPU)
        random = torch.Generator().manual_seed(0)
        for _ in range(2):
            images = torch.rand(128, 3, 28, 28, generator=random) * 2 - 1
            latents = torch.randn(128, 256, generator=random)
            discriminator_step(game, images, None, latents, None)
            generator_step(game, latents, None, images, None)
        players.append([*game.generator.parameters(), *game.discriminator.parameters()])
    for separate, once in zip(*players, strict=True):
        assert torch.equal(separate, once)


def test_shared_latents_are_of_one_step_of_the_discriminator() -> None:
    with pytest.raises(UserError, match="discriminator_steps: 2 found; with shared_latents 1 is accepted"):
        load_config(HALF, ["training.discriminator_steps=2"])


@pytest.mark.parametrize("network", [UnrolledDCGANGenerator, UnrolledDCGANBackbone])
def test_initial_weights_are_those_of_dcgan_or_of_their_fan_in(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    normal, uniform = network(), network(initialisation="fan_in")
    for layer, other in zip(normal.modules(), uniform.modules(), strict=True):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            count = layer.weight.numel()
            assert layer.weight.std().item() == pytest.approx(0.02, rel=5 / count**0.5)
            assert not layer.bias.any()
            inputs = nn.init._calculate_fan_in_and_fan_out(other.weight)[0]
            assert 0.8 / inputs**0.5 < other.weight.abs().max() <= 1 / inputs**0.5


@pytest.mark.parametrize("network", [VEEGANGenerator, VEEGANBackbone])
def test_the_initial_weights_of_veegan_are_those_of_dcgan(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    weighted = [layer for layer in network(width=8).modules() if hasattr(layer, "weight")]
    for layer in weighted:
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
        else:
            assert layer.weight.std().item() == pytest.approx(0.02, rel=5 / layer.weight.numel() ** 0.5)
        assert not layer.bias.any()
    assert len(weighted) == {VEEGANGenerator: 9, VEEGANBackbone: 7}[network]
