"""SAGAN, BigGAN and R3GAN: attention in its place, layouts, precisions, derivatives, and what makes each itself."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import textbook_biggan
from gan.models.attention import ATTENTION
from gan.models.biggan import BigGANBackbone, BigGANGenerator, ConditionedBatchNorm2d
from gan.models.blocks.layers import Conv2d, Linear
from gan.models.blocks.spectral_norm import SpectralNorm, update_spectral_norms
from gan.models.heads import ProjectionHead
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
            if isinstance(module, Conv2d | Linear | nn.Embedding):
                matrix = module.weight.flatten(1)
                matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
                torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)), rtol=0, atol=1e-5)
            if isinstance(module, Conv2d | Linear):
                torch.testing.assert_close(module.spectral_norm(module.weight), module.weight, rtol=0, atol=1e-5)


BIGGANS = AttentionPlacement((16,), partial(ATTENTION["dot_product"], pooled=True, scaled=False))


def give(theirs: nn.Module, ours: dict[str, nn.Module]) -> None:
    """Every layer of a textbook player, by its name there, takes the weights in force of one of ours."""
    layers = {name for name, layer in theirs.named_modules() if any(True for _ in layer.parameters(recurse=False))}
    assert layers - {"attention"} == set(ours)
    for name, mine in ours.items():
        layer = theirs.get_submodule(name)
        if hasattr(layer, "weight_orig"):
            nn.utils.remove_spectral_norm(layer)
            layer.weight.data = mine.spectral_norm(mine.weight).detach().view_as(layer.weight)
            if getattr(layer, "bias", None) is not None:
                layer.bias.data = torch.zeros_like(layer.bias) if mine.bias is None else mine.bias.detach()
        else:
            layer.load_state_dict(mine.state_dict())


def attention_layers(attention: nn.Module) -> dict[str, nn.Module]:
    form = attention.form
    layers = {"query": form.query, "key": form.key, "value": attention.value, "out": attention.out}
    return {f"attention.{name}": layer for name, layer in layers.items()}


def moved_from_their_start(player: nn.Module) -> nn.Module:
    """All vectors, among them biases and gains, and attention's gate become random."""
    for parameter in player.parameters():
        if parameter.dim() < 2:
            nn.init.normal_(parameter)
    return player


def test_the_generator_of_biggan_is_the_textbooks_with_the_same_weights() -> None:
    torch.manual_seed(0)
    ours = moved_from_their_start(BigGANGenerator(32, 3, 2, 16, 4, BIGGANS, shared_dim=5)).double()
    theirs = textbook_biggan.Generator(8, 16, 4, 5).double()
    layers = {name: ours.get_submodule(name) for name in ("embedding", "project", "norm", "to_image")}
    for i, block in enumerate(ours.blocks):
        layers |= {f"blocks.{i}.{name}": block.get_submodule(name) for name in ("conv1", "conv2", "shortcut")}
        for name in ("norm1", "norm2"):
            norm = block.get_submodule(name)
            layers |= {f"blocks.{i}.{name}.gain": norm.gain, f"blocks.{i}.{name}.bias": norm.bias}
    give(theirs, layers | attention_layers(ours.attention[1]))
    theirs.attention.gamma.data = ours.attention[1].gamma.data
    latents, labels = torch.randn(6, 16, dtype=torch.float64), torch.tensor([3, 0, 1, 1, 2, 0])
    for training in (True, False):
        torch.testing.assert_close(ours.train(training)(latents, labels), theirs.train(training)(latents, labels))


def test_the_discriminator_of_biggan_is_the_textbooks_with_the_same_weights() -> None:
    torch.manual_seed(0)
    backbone = moved_from_their_start(BigGANBackbone(32, 3, 2, BIGGANS)).double()
    head = moved_from_their_start(ProjectionHead(8, 4)).double()
    theirs = textbook_biggan.Discriminator(8, 4).double()
    layers = {"head": head.linear, "classes": head.embedding}
    for i, block in enumerate(backbone.blocks):
        prefix = "first" if i == 0 else f"blocks.{i - 1}"
        layers |= {f"{prefix}.{name}": layer for name, layer in block.named_children() if isinstance(layer, Conv2d)}
    give(theirs, layers | attention_layers(backbone.attention[0]))
    theirs.attention.gamma.data = backbone.attention[0].gamma.data
    images, labels = torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.tensor([3, 0, 1, 1])
    torch.testing.assert_close(head(backbone(images), labels), theirs(images, labels))


@pytest.mark.parametrize(("shared_dim", "normalised"), [(None, False), (5, True)])
def test_only_gains_and_biases_of_a_shared_embedding_are_spectrally_normalised(
    shared_dim: int | None, normalised: bool
) -> None:
    generator = BigGANGenerator(32, 3, 2, 16, 4, shared_dim=shared_dim)
    norms = [module for module in generator.modules() if isinstance(module, ConditionedBatchNorm2d)]
    assert len(norms) == 6
    for norm in norms:
        for layer in (norm.gain, norm.bias):
            assert isinstance(layer.spectral_norm, SpectralNorm) == normalised


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


def test_an_r3gan_block_is_its_equation() -> None:
    """h + W₃ φ(W₂ φ(W₁ h)): pointwise, 3×3 in groups, pointwise, φ of slope 0.2."""
    torch.manual_seed(0)
    block = ResidualBlock(8, expansion=2, group_width=4, blocks=3).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    maps = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    hidden = F.conv2d(maps, block.conv1.weight, block.conv1.bias)
    hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    hidden = F.conv2d(hidden, block.conv2.weight, block.conv2.bias, padding=1, groups=4)
    hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    torch.testing.assert_close(block(maps), maps + F.conv2d(hidden, block.conv3.weight))


@pytest.mark.parametrize(("resolution", "blocks"), [(32, 8), (64, 10)])
def test_r3gan_counts_all_blocks_of_a_network_in_its_initial_gain(resolution: int, blocks: int) -> None:
    torch.manual_seed(0)
    gain = (2 / 1.04) ** 0.5 * blocks**-0.25
    for network in (R3GANGenerator(resolution, 3, 64), R3GANBackbone(resolution, 3, 64)):
        for name in ("conv1", "conv2"):
            convs = [block.get_submodule(name) for stage in network.stages for block in stage]
            assert len(convs) == blocks
            weights = torch.cat([conv.weight.flatten() * conv.weight[0].numel() ** 0.5 for conv in convs])
            assert weights.std().item() == pytest.approx(gain, rel=0.01)
            assert not any(conv.bias.any() for conv in convs)


def test_r3gan_begins_and_ends_with_a_basis_and_a_table_of_known_spread() -> None:
    """1/√16 for the sum over 16 positions, 1/√K for the table as a matrix of one-hot labels, 1 for the first map."""
    torch.manual_seed(0)
    generator, backbone = R3GANGenerator(32, 3, 64, 16, 100), R3GANBackbone(32, 3, 64)
    assert backbone.basis.std().item() == pytest.approx(1 / 4, rel=0.1)
    assert generator.basis.std().item() == pytest.approx(1, rel=0.1)
    assert generator.embedding is not None
    assert generator.embedding.weight.std().item() == pytest.approx(1 / 10, rel=0.05)


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
