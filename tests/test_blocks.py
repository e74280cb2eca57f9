"""Layers and blocks against their textbook forms: fused resampling, spectral and batch normalisation, whole players."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import textbook
from gan.models.blocks.layers import (
    ConditionalBatchNorm2d,
    Conv2d,
    Embedding,
    Linear,
    convolve_pool,
    initialise_orthogonally,
    upsample_convolve,
)
from gan.models.blocks.spectral_norm import SpectralNorm, update_spectral_norms
from gan.models.dcgan import DCGANBackbone
from gan.models.heads import LinearHead
from gan.models.sngan import SNGANBackbone, SNGANGenerator


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


@pytest.mark.parametrize("kernel", [1, 3])
def test_fused_resampling_equals_the_textbook_form(kernel: int) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    weight, bias = torch.randn(5, 3, kernel, kernel, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    up = F.conv2d(F.interpolate(maps, scale_factor=2.0), weight, bias, padding=kernel // 2)
    down = F.avg_pool2d(F.conv2d(maps, weight, bias, padding=kernel // 2), 2)
    torch.testing.assert_close(upsample_convolve(maps, weight, bias), up, rtol=0, atol=1e-13)
    torch.testing.assert_close(convolve_pool(maps, weight, bias), down, rtol=0, atol=1e-13)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fused_resampling_and_its_gradients_are_equal_in_float32(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    maps = torch.randn(4, 32, 16, 16).contiguous(memory_format=layout).requires_grad_()
    weight, bias = torch.randn(48, 32, 3, 3).requires_grad_(), torch.randn(48).requires_grad_()
    forms = {
        upsample_convolve: lambda: F.conv2d(F.interpolate(maps, scale_factor=2.0), weight, bias, padding=1),
        convolve_pool: lambda: F.avg_pool2d(F.conv2d(maps, weight, bias, padding=1), 2),
    }
    for fused, plain in forms.items():
        expected, found = plain(), fused(maps, weight, bias)
        direction = torch.randn_like(expected)
        assert relative_error(found, expected) < 1e-5
        pairs = zip(
            torch.autograd.grad(found, (maps, weight, bias), direction),
            torch.autograd.grad(expected, (maps, weight, bias), direction),
            strict=True,
        )
        assert max(relative_error(mine, theirs) for mine, theirs in pairs) < 1e-5


def test_the_generator_is_the_textbooks_with_the_same_state() -> None:
    torch.manual_seed(0)
    ours, theirs = SNGANGenerator(width=32), textbook.Generator(32)
    state = {name.replace(".normalize", ""): value for name, value in ours.state_dict().items()}
    theirs.load_state_dict(state)  # 3×3 kernels under the same names
    latents = torch.randn(8, 128)
    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        torch.testing.assert_close(ours(latents), theirs(latents), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.norm.running_var, theirs.norm.running_var, rtol=1e-5, atol=1e-6)


def test_the_discriminator_is_the_textbooks_with_the_same_weights() -> None:
    torch.manual_seed(0)
    backbone, head, theirs = SNGANBackbone(width=32), LinearHead(32), textbook.Discriminator(32)
    for name, module in theirs.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            mine = head if name == "head" else backbone.get_submodule(name)
            layer = mine if isinstance(mine, Conv2d) else mine.linear
            nn.utils.remove_spectral_norm(module)
            module.weight = nn.Parameter(layer.spectral_norm(layer.weight).detach())
            module.bias = layer.bias
    images = torch.randn(8, 3, 32, 32)
    expected = theirs(images)
    assert relative_error(head(backbone(images), None), expected) < 1e-5


def test_spectral_norm_converges_to_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    for layer in (Linear(20, 30, spectral_norm=True), Conv2d(4, 6, spectral_norm=True)):
        for _ in range(300):
            update_spectral_norms(layer)
        normalised = layer.spectral_norm(layer.weight)
        torch.testing.assert_close(torch.linalg.matrix_norm(normalised.flatten(1), 2), torch.tensor(1.0))


def test_a_spectrally_normalised_embedding_looks_labels_up_in_the_table_over_its_largest_singular_value() -> None:
    torch.manual_seed(0)
    embedding, labels = Embedding(5, 8, spectral_norm=True).double(), torch.tensor([4, 0, 2, 4])
    nn.init.normal_(embedding.weight)
    for _ in range(300):
        update_spectral_norms(embedding)
    sigma = torch.linalg.matrix_norm(embedding.weight, 2)
    torch.testing.assert_close(embedding(labels), embedding.weight[labels] / sigma)


def test_the_backbone_of_dcgan_is_convolutions_over_their_spectral_norms_and_leaky_rectifiers() -> None:
    torch.manual_seed(0)
    backbone = DCGANBackbone(32, 3, 4).double()
    for conv in backbone.convs:
        nn.init.normal_(conv.bias)
    for _ in range(500):
        update_spectral_norms(backbone)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    state, maps = backbone.state_dict(), images
    for i in range(3):
        weight = state[f"convs.{i}.weight"]
        sigma = torch.linalg.matrix_norm(weight.flatten(1), 2)
        maps = F.conv2d(maps, weight / sigma, state[f"convs.{i}.bias"], stride=2, padding=1)
        maps = torch.where(maps > 0, maps, 0.2 * maps)
    torch.testing.assert_close(backbone(images), maps.flatten(1))


def test_spectral_norm_moves_only_when_told_and_differentiates_through_sigma() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    norm = SpectralNorm(weight)
    before = (norm.u.clone(), norm.v.clone())
    norm(weight)
    assert torch.equal(norm.u, before[0])
    assert torch.equal(norm.v, before[1])
    assert torch.autograd.gradcheck(norm, weight)
    sigma = torch.linalg.matrix_norm(weight, 2)
    for _ in range(100):
        norm.update(weight)
    torch.testing.assert_close(norm(weight), weight / sigma)


def test_two_forward_passes_before_one_backward_work() -> None:
    backbone = SNGANBackbone(32, 3, 8)
    images = torch.randn(2, 3, 32, 32)
    (backbone(images).sum() + backbone(images.flip(0)).sum()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_conditional_batch_norm_picks_the_gain_and_bias_of_each_label() -> None:
    torch.manual_seed(0)
    layer = ConditionalBatchNorm2d(3, 4)
    nn.init.normal_(layer.gain.weight)
    nn.init.normal_(layer.bias.weight)
    maps, labels = torch.randn(6, 3, 5, 5), torch.tensor([0, 1, 2, 3, 3, 0])
    plain = F.batch_norm(maps, None, None, training=True)
    expected = torch.stack(
        [
            layer.gain.weight[y][:, None, None] * m + layer.bias.weight[y][:, None, None]
            for m, y in zip(plain, labels, strict=True)
        ]
    )
    torch.testing.assert_close(layer(maps, labels), expected)


@pytest.mark.parametrize("layer", [nn.Embedding(5, 8), nn.Linear(8, 5), nn.Conv2d(2, 5, 2)])
def test_orthogonal_weights_reach_tables_matrices_and_kernels(layer: nn.Embedding | nn.Linear | nn.Conv2d) -> None:
    initialise_orthogonally(nn.Sequential(layer))
    rows = layer.weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(5), rtol=0, atol=1e-5)
