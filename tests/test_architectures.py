"""SAGAN, BigGAN and R3GAN: attention in its place, layouts, precisions, derivatives, and what makes each itself."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gan.models.biggan import BigGANBackbone, BigGANGenerator, ConditionedBatchNorm2d
from gan.models.blocks.layers import Conv2d, Linear
from gan.models.blocks.spectral_norm import SpectralNorm, update_spectral_norms
from gan.models.interface import AttentionPlacement
from gan.models.r3gan import R3GANBackbone, R3GANGenerator, ResidualBlock
from gan.models.sngan import SNGANBackbone, SNGANGenerator
from tests.test_models import attention_at

BACKBONES = [SNGANBackbone, BigGANBackbone, R3GANBackbone]
NETWORKS = [SNGANGenerator, BigGANGenerator, R3GANGenerator, *BACKBONES]


def tiny(network: Callable[..., nn.Module], attention: AttentionPlacement | None = None) -> nn.Module:
    torch.manual_seed(0)
    if network.__name__.endswith("Generator"):
        return network(32, 3, 8, 16, 4, attention=attention).double()
    return network(32, 3, 8, attention=attention).double()


def inputs(network: Callable[..., nn.Module], batch: int = 3) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(1)
    if network.__name__.endswith("Generator"):
        latents = torch.randn(batch, 16, generator=random, dtype=torch.float64)
        return latents, torch.randint(4, (batch,), generator=random)
    return (torch.rand(batch, 3, 32, 32, generator=random, dtype=torch.float64) * 2 - 1,)


def wake(network: nn.Module) -> nn.Module:
    """Open the gates and residual branches that start at zero."""
    for module in network.modules():
        if hasattr(module, "gamma"):
            nn.init.constant_(module.gamma, 0.5)
        if isinstance(module, ResidualBlock):
            nn.init.normal_(module.conv3.weight, std=0.1)
    return network


@pytest.mark.parametrize("network", NETWORKS)
def test_attention_changes_nothing_at_first_and_follows_the_block_that_reaches_its_resolution(network) -> None:
    plain, attentive = tiny(network), tiny(network, attention_at(16, 8))
    given = inputs(network)
    assert torch.equal(plain(*given), attentive(*given))
    sides = []
    for module in attentive.attention:
        module.register_forward_hook(lambda module, maps, _: sides.append((maps[0].shape[-1], type(module).__name__)))
    wake(attentive)
    assert not torch.equal(plain(*given), attentive(*given))
    assert [side for side, _ in sides] == network.attention_resolutions(32)
    assert sorted(side for side, name in sides if name == "Attention") == [8, 16]  # once each, at the first block


@pytest.mark.parametrize("network", NETWORKS)
def test_channels_last_changes_no_result(network) -> None:
    player = wake(tiny(network, attention_at(8)))
    given = inputs(network)
    expected = player(*given)
    laid_out = [part.to(memory_format=torch.channels_last) if part.dim() == 4 else part for part in given]
    torch.testing.assert_close(
        player.to(memory_format=torch.channels_last)(*laid_out), expected, rtol=1e-10, atol=1e-10
    )


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_networks_compile_without_graph_breaks(network) -> None:
    torch._dynamo.reset()
    eager = wake(tiny(network, attention_at(8)))
    given = inputs(network)
    expected = eager(*given)
    compiled = torch.compile(eager, backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(*given), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("network", NETWORKS)
def test_bfloat16_agrees_with_float32_to_its_precision(network) -> None:
    wide = wake(tiny(network, attention_at(8))).float()
    given = [part.float() if part.is_floating_point() else part for part in inputs(network)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = wide(*given)
    if narrow.dim() == 2:
        assert narrow.dtype == torch.float32
    reference = wide(*given)
    assert (narrow.float() - reference).abs().mean() < 0.05 * reference.abs().mean() + 0.01


@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradient_penalties_can_be_trained(backbone) -> None:
    network = wake(tiny(backbone, attention_at(8)))
    (images,) = inputs(backbone, 2)
    parameters = list(network.parameters())
    random = torch.Generator().manual_seed(2)
    direction = [torch.randn(p.shape, generator=random, dtype=p.dtype) for p in parameters]

    def penalty() -> torch.Tensor:
        seen = images.clone().requires_grad_()
        score = network(seen).sin().sum()  # any curved head
        return torch.autograd.grad(score, seen, create_graph=True)[0].square().sum()

    gradients = torch.autograd.grad(penalty(), parameters, allow_unused=True)
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True) if g is not None)
    values = []
    for sign in (1e-8, -2e-8):  # so short that no kink of a rectifier lies in between
        for parameter, along in zip(parameters, direction, strict=True):
            parameter.data.add_(along, alpha=sign)
        values.append(penalty())
    torch.testing.assert_close(slope, (values[0] - values[1]) / 2e-8, rtol=1e-3, atol=1e-4)


def test_conditioned_batch_norm_is_affine_in_its_condition() -> None:
    torch.manual_seed(0)
    layer = ConditionedBatchNorm2d(3, 5, spectral_norm=False)
    maps, condition = torch.randn(6, 3, 4, 4), torch.randn(6, 5)
    plain = F.batch_norm(maps, None, None, training=True)
    expected = torch.stack(
        [
            (1 + layer.gain.weight @ c)[:, None, None] * m + (layer.bias.weight @ c)[:, None, None]
            for m, c in zip(plain, condition, strict=True)
        ]
    )
    torch.testing.assert_close(layer(maps, condition), expected)


def test_each_chunk_of_hierarchical_latents_enters_at_its_block() -> None:
    generator = BigGANGenerator(32, 3, 2, 16, 4).double()
    (latents, labels), seen = inputs(BigGANGenerator), []
    for block in generator.blocks:
        block.register_forward_hook(lambda *arguments: seen.append(arguments[-1].detach()))
    generator(latents, labels)
    for slot in range(4):  # four values a slot: the first map's, and one for each of three blocks
        changed = latents.clone()
        changed[:, 4 * slot : 4 * slot + 4] += 1
        generator(changed, labels)
        before, after = seen[:3], seen[-3:]
        same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert same == [block < slot - 1 for block in range(3)]


@pytest.mark.parametrize("options", [{}, {"hierarchical": False}, {"shared_dim": None}])
def test_biggan_listens_to_labels_whatever_its_options(options: dict) -> None:
    generator = BigGANGenerator(32, 3, 2, 16, 4, **options).double()
    latents, labels = inputs(BigGANGenerator)
    assert not torch.equal(generator(latents, labels), generator(latents, (labels + 1) % 4))
    unconditional = BigGANGenerator(32, 3, 2, 16, None, **options).double()
    assert unconditional(latents).shape == (3, 3, 32, 32)


def test_biggan_starts_orthogonal() -> None:
    for network in (BigGANGenerator(32, 3, 2, 16, 4), BigGANBackbone(32, 3, 2, attention_at(8))):
        for module in network.modules():
            if isinstance(module, Conv2d | Linear):
                matrix = module.weight.flatten(1)
                matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
                torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)), rtol=0, atol=1e-5)
                torch.testing.assert_close(module.spectral_norm(module.weight), module.weight, rtol=0, atol=1e-5)


def test_spectral_norm_reaches_every_layer_of_a_sagan_generator() -> None:
    generator = SNGANGenerator(32, 3, 8, 16, 4, attention_at(8), spectral_norm=True)
    layers = [module for module in generator.modules() if isinstance(module, Conv2d | Linear)]
    assert len(layers) == 1 + 3 * 3 + 1 + 4
    assert all(isinstance(layer.spectral_norm, SpectralNorm) for layer in layers)
    before = [layer.spectral_norm.u.clone() for layer in layers]
    nn.init.normal_(generator.project.weight)
    update_spectral_norms(generator)
    assert not torch.equal(before[0], generator.project.spectral_norm.u)


def test_r3gan_blocks_start_as_the_identity_with_a_variance_of_one_over_sqrt_l_inside() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(64, expansion=2, group_width=16, blocks=16)
    maps = torch.randn(8, 64, 12, 12)
    assert torch.equal(block(maps), maps)
    hidden = block.conv1(maps)
    assert hidden.var().item() == pytest.approx(2 / (1 + 0.2**2) / 16**0.5, rel=0.1)  # gain², times L^(−1/2)
    inside = block.conv2(F.leaky_relu(hidden, 0.2))[..., 2:-2, 2:-2]
    assert inside.var().item() == pytest.approx(hidden.var().item() / 16**0.5, rel=0.15)
    assert block.conv2.groups == 8


def test_r3gan_images_are_clamped_in_evaluation_and_differentiable_everywhere_in_training() -> None:
    generator = wake(tiny(R3GANGenerator))
    latents, labels = inputs(R3GANGenerator)
    trained = generator.train()(20 * latents, labels)
    assert trained.abs().max() > 1
    assert torch.equal(generator.eval()(20 * latents, labels), trained.clamp(-1, 1))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: BigGANGenerator(32, 3, 8, 18), ["latent_dim: 18 found", "a multiple of 4"]),
        (lambda: BigGANGenerator(32, 3, 8, 16, 4, shared_dim=0), ["shared_dim: 0 found"]),
        (lambda: R3GANGenerator(32, 3, 12), ["group_width: 16 found", "24 hidden channels"]),
        (lambda: R3GANBackbone(32, 3, 8, blocks=0), ["blocks: 0 found"]),
        (lambda: R3GANGenerator(32, 3, 8, embedding_dim=0), ["embedding_dim: 0 found"]),
    ],
)
def test_sizes_that_do_not_fit_are_named(build: Callable[[], nn.Module], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        build()
    assert all(word in str(error.value) for word in words)
