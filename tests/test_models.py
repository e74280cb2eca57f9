"""Networks against published counts and textbook forms."""

import inspect
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.models import BACKBONES, GENERATORS, Backbone, Generator
from gan.models.attention import ATTENTION
from gan.models.biggan import BigGANBackbone, BigGANGenerator
from gan.models.blocks.spectral_norm import SpectralNorm
from gan.models.dcgan import DCGANGenerator
from gan.models.heads import LinearHead, ProjectionHead
from gan.models.interface import AttentionPlacement
from gan.models.r3gan import R3GANBackbone, R3GANGenerator, doubled, halved
from gan.models.sngan import SNGANBackbone, SNGANGenerator
from gan.sampling.generate import generate
from gan.sampling.latents import LatentStream

NETWORKS = [*GENERATORS.values(), *BACKBONES.values()]
SIZES = [(network, resolution) for network in NETWORKS for resolution in network.resolutions]


def attention_at(*resolutions: int) -> AttentionPlacement:
    def build(channels: int, height: int, width: int, *, spectral_norm: bool) -> nn.Module:
        return ATTENTION["dot_product"](channels, height, width, spectral_norm=spectral_norm)

    return AttentionPlacement(resolutions, build)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_sngan_32_has_the_published_architecture() -> None:
    # Counted by hand from Miyato et al. 2018, table 4: convolutions and linear layers with biases, BN gains and biases.
    w = 256
    block = 2 * (9 * w * w + w) + 4 * w + w * w + w
    assert count(SNGANGenerator()) == (128 * 16 * w + 16 * w) + 3 * block + 2 * w + (27 * w + 3) == 4_276_739
    w = 128
    first = (27 * w + w) + (9 * w * w + w) + (3 * w + w)
    second = 2 * (9 * w * w + w) + w * w + w
    backbone = SNGANBackbone()
    assert count(backbone) + count(LinearHead(128)) == first + second + 4 * (9 * w * w + w) + w + 1 == 1_053_825


def test_sngan_starts_as_it_did_before_it_had_options() -> None:
    # Sums of |weight| recorded before attention and spectral normalisation of G were added.
    for resolution, sums in ((32, (1044.5306, 643.6845)), (64, (11375.0644, 14023.1076))):
        torch.manual_seed(0)
        players = SNGANGenerator(resolution, 3, 8, 16, 5), SNGANBackbone(resolution, 3, 8)
        found = [sum(parameter.double().abs().sum() for parameter in player.parameters()) for player in players]
        torch.testing.assert_close(torch.stack(found), torch.tensor(sums, dtype=torch.float64), rtol=1e-7, atol=0)
        assert not any("attention" in name for player in players for name in player.state_dict())


def test_sngan_grows_with_every_halving_where_it_is_asked_to() -> None:
    maps: list[tuple[int, int]] = []

    def note(_: nn.Module, __: object, output: Tensor) -> None:
        maps.append((output.shape[1], output.shape[3]))

    generator, backbone = SNGANGenerator(32, 3, 24, 8, growth=2.0), SNGANBackbone(32, 3, 32, growth=1.5)
    for block in (*generator.blocks, *backbone.blocks):
        block.register_forward_hook(note)
    assert backbone(generator(torch.randn(2, 8))).shape == (2, 48) and backbone.out_features == 48
    assert generator.project.out_features == 192 * 4**2
    assert maps == [(96, 8), (48, 16), (24, 32), (32, 16), (48, 8), (48, 8), (48, 8)]
    with pytest.raises(ValueError, match="growth: -1 found"):
        SNGANBackbone(growth=-1)


def test_biggan_32_has_the_published_parameters() -> None:
    # The author's CIFAR-10 network (ch 64), counted by hand; BigGAN-PyTorch's issue 78 gives "about 4.3M" for its G.
    w, classes = 256, 10
    block = 2 * (9 * w * w + w) + w * w + w
    generator = BigGANGenerator(32, 3, 64, 128, classes, hierarchical=False, shared_dim=None)
    tables = 2 * 2 * classes * w
    assert count(generator) == (128 + 1) * 16 * w + 3 * (block + tables) + 2 * w + 27 * w + 3 == 4_304_387
    discriminator = nn.Sequential(BigGANBackbone(32, 3, 64), ProjectionHead(w, classes))
    first = (27 * w + w) + (9 * w * w + w) + (3 * w + w)
    assert count(discriminator) == first + block + 4 * (9 * w * w + w) + w + 1 + classes * w == 4_207_361


@pytest.mark.parametrize(
    ("width", "latent_dim", "options", "millions"),
    [
        (64, 128, {"hierarchical": False, "shared_dim": None}, 81.5),
        (96, 128, {"hierarchical": False, "shared_dim": None}, 173.5),
        (96, 128, {"hierarchical": False, "shared_dim": 128}, 160.6),
        (96, 120, {"hierarchical": True, "shared_dim": 128}, 158.3),
    ],
)
def test_biggan_128_has_the_published_parameters(
    monkeypatch: pytest.MonkeyPatch, width: int, latent_dim: int, options: dict, millions: float
) -> None:
    # Brock et al. 2019, table 1, which leaves the shared embedding out; attention at 64×64, 1,000 classes.
    monkeypatch.setattr(SpectralNorm, "update", lambda *_, **__: None)  # slow on shapes alone
    with torch.device("meta"):
        generator = BigGANGenerator(128, 3, width, latent_dim, 1000, attention_at(64), **options)
        backbone = BigGANBackbone(128, 3, width, attention_at(64))
        head = ProjectionHead(backbone.out_features, 1000)
    embedding = 0 if generator.embedding is None else generator.embedding.weight.numel()
    discriminator = count(backbone) + count(head)
    assert round((count(generator) - embedding + discriminator) / 1e6, 1) == millions
    if options["hierarchical"]:  # google/compare_gan, compare_gan/architectures/resnet_biggan_test.py
        assert (count(generator), discriminator) == (70_433_988, 87_982_370)


def test_r3gan_32_has_the_parameters_counted_by_hand() -> None:
    w, hidden, group, classes = 768, 1536, 16, 10  # the authors' preset CIFAR10
    block = (w * hidden + hidden) + (9 * hidden * group + hidden) + hidden * w
    assert count(R3GANGenerator(num_classes=classes)) == 64 * classes + 16 * w + 128 * w + 8 * block + 3 * w
    assert count(R3GANBackbone()) == 3 * w + 8 * block + 16 * w


@pytest.mark.parametrize(
    ("network", "resolution", "bottom", "multiples"),
    [
        (SNGANGenerator, 48, 6, (8, 4, 2, 1)),
        (SNGANGenerator, 64, 4, (16, 8, 4, 2, 1)),
        (SNGANGenerator, 128, 4, (16, 16, 8, 4, 2, 1)),
        (BigGANGenerator, 64, 4, (16, 16, 8, 4, 2)),
    ],
)
def test_residual_generators_have_the_published_widths(
    network: type[Generator], resolution: int, bottom: int, multiples: tuple[int, ...]
) -> None:
    options = {"hierarchical": False} if network is BigGANGenerator else {}
    found = count(network(resolution, 3, 4, 128, **options))
    widths = [4 * multiple for multiple in multiples]
    blocks = sum(2 * i + (9 * i * o + o) + 2 * o + (9 * o * o + o) + (i * o + o) for i, o in itertools.pairwise(widths))
    assert found == 129 * bottom**2 * widths[0] + blocks + 2 * widths[-1] + 27 * widths[-1] + 3


@pytest.mark.parametrize(
    ("network", "resolution", "multiples"),
    [
        (SNGANBackbone, 48, (1, 2, 4, 8, 16)),
        (SNGANBackbone, 64, (1, 2, 4, 8, 16)),
        (SNGANBackbone, 128, (1, 2, 4, 8, 16, 16)),
        (BigGANBackbone, 64, (1, 2, 4, 8, 16)),
    ],
)
def test_residual_backbones_have_the_published_widths(
    network: type[Backbone], resolution: int, multiples: tuple[int, ...]
) -> None:
    w = 4
    widths = [w * multiple for multiple in multiples]
    first = (27 * w + w) + (9 * w * w + w) + (3 * w + w)
    # Only the last block at 128 keeps both the side and the width of its map, and so has no convolution beside it.
    blocks = sum(
        (9 * i * o + o) + (9 * o * o + o) + (i * o + o if i != o else 0) for i, o in itertools.pairwise(widths)
    )
    assert count(network(resolution, 3, w)) == first + blocks


@pytest.mark.parametrize(
    ("network", "resolution", "sides"),
    [
        (SNGANGenerator, 32, [8, 16, 32]),
        (SNGANGenerator, 48, [12, 24, 48]),
        (SNGANGenerator, 64, [8, 16, 32, 64]),
        (SNGANGenerator, 128, [8, 16, 32, 64, 128]),
        (SNGANBackbone, 32, [16, 8, 8, 8]),
        (SNGANBackbone, 48, [24, 12, 6, 3, 3]),
        (SNGANBackbone, 64, [32, 16, 8, 4, 2]),
        (SNGANBackbone, 128, [64, 32, 16, 8, 4, 4]),
        (BigGANGenerator, 32, [8, 16, 32]),
        (BigGANGenerator, 64, [8, 16, 32, 64]),
        (BigGANGenerator, 128, [8, 16, 32, 64, 128]),
        (BigGANBackbone, 32, [16, 8, 8, 8]),
        (BigGANBackbone, 64, [32, 16, 8, 4, 4]),
        (BigGANBackbone, 128, [64, 32, 16, 8, 4, 4]),
    ],
)
def test_the_blocks_give_maps_of_the_published_sides(
    network: type[Generator | Backbone], resolution: int, sides: list[int]
) -> None:
    given = (2, 60) if issubclass(network, Generator) else (2, 3, resolution, resolution)
    options = {"latent_dim": 60} if issubclass(network, Generator) else {}
    found: list[int] = []
    player = network(resolution, 3, 1, **options)
    for block in player.blocks:
        block.register_forward_hook(lambda _, __, maps: found.append(maps.shape[-1]))
    player(torch.zeros(given))
    assert found == network.attention_resolutions(resolution) == sides


@pytest.mark.parametrize(("network", "resolution"), SIZES)
@pytest.mark.parametrize(("channels", "num_classes"), [(1, None), (3, 4)])
def test_every_network_keeps_its_contract_at_every_resolution(
    network: type[Generator | Backbone], resolution: int, channels: int, num_classes: int | None
) -> None:
    size = {"resolution": resolution, "channels": channels, "width": 8}
    if issubclass(network, Generator):
        generator = network(**size, latent_dim=60, num_classes=num_classes).to("meta")
        labels = None if num_classes is None else torch.zeros(2, dtype=torch.int64, device="meta")
        images = generator(torch.empty(2, 60, device="meta"), labels)
        assert images.shape == (2, channels, resolution, resolution)
        assert (generator.latent_dim, generator.num_classes) == (60, num_classes)
    else:
        backbone = network(**size).to("meta")
        images = torch.empty(2, channels, resolution, resolution, device="meta")
        assert backbone(images).shape == (2, backbone.out_features)
    sides = network.attention_resolutions(resolution)
    assert ("attention" in inspect.signature(network).parameters) == bool(sides)
    assert max(sides, default=0) <= resolution


def test_samples_do_not_depend_on_how_many_are_asked_for_at_once() -> None:
    def draw(sizes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        stream = LatentStream(8, 10, torch.Generator().manual_seed(3))
        latents, labels = zip(*(stream.next(size) for size in sizes), strict=True)
        return torch.cat(latents), torch.cat(labels)

    for first, second in itertools.pairwise([draw([700]), draw([1, 299, 400]), draw([100] * 7)]):
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])


def test_sampling_leaves_the_generator_and_the_global_random_state_alone() -> None:
    generator = DCGANGenerator(32, 1, 4, 8).train()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    random = torch.get_rng_state()
    images = generate(generator, torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), None)
    assert images.abs().max() <= 1
    assert generator.training
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


@pytest.mark.parametrize("side", [4, 5])
def test_r3gans_resampling_is_filtering_by_1_2_1(side: int) -> None:
    """With zeros put between, or every second kept, as a convolution has it; the filter begins before the edge."""
    maps = torch.randn(2, 3, side, side, dtype=torch.float64)
    line = torch.tensor([1.0, 2, 1], dtype=torch.float64)
    kernel = (line[:, None] * line).expand(3, 1, 3, 3)
    spread = torch.zeros(2, 3, 2 * side, 2 * side, dtype=torch.float64)
    spread[:, :, ::2, ::2] = maps
    filtered = F.conv2d(F.pad(spread, (2, 0, 2, 0)), kernel / 4, groups=3)
    torch.testing.assert_close(doubled(maps), filtered)
    large = torch.randn(2, 3, 2 * side, 2 * side, dtype=torch.float64)
    torch.testing.assert_close(halved(large), F.conv2d(F.pad(large, (1, 0, 1, 0)), kernel / 16, stride=2, groups=3))
    constant = torch.ones(1, 1, 8, 8)
    assert doubled(constant)[:, :, 1:, 1:].eq(1).all() and halved(constant)[:, :, 1:, 1:].eq(1).all()
