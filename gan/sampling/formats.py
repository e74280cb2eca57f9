"""The files that a generator's weights can be shared in: safetensors, ONNX and TorchScript."""

import copy
import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gan.errors import UserError
from gan.models.blocks.spectral_norm import SpectralNorm
from gan.sampling.generator import LoadedGenerator
from gan.sampling.load import WEIGHTS

OPSET = 18


def write_safetensors(generator: LoadedGenerator, folder: Path) -> None:
    """model.safetensors: the state dict, which `gan.load` puts into a generator built from the config beside it."""
    state = generator.network.state_dict()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def write_onnx(generator: LoadedGenerator, folder: Path) -> None:
    """generator.onnx: latents float32 `(B, Z)` and, with classes, labels int64 `(B,)` → images float32 `(B, C, H, W)`
    in [−1, 1], for any B.

    Raises:
        UserError: the packages that torch's exporter needs are not installed.
    """
    network = _on_cpu(generator)
    latents, labels = _example(generator)
    inputs = {"latents": latents} if generator.num_classes is None else {"latents": latents, "labels": labels}
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # the exporter reports its own progress
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                network,
                tuple(inputs.values()),
                folder / "generator.onnx",
                input_names=list(inputs),
                output_names=["images"],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes={name: {0: batch} for name in inputs},
                external_data=False,
                verbose=False,
            )
        except ImportError as error:
            raise UserError(
                f"--format onnx: {error.name} is not installed; accepted after: pip install onnxscript"
            ) from error


class TorchScriptGenerator(nn.Module):
    """What the TorchScript file holds; torch-fidelity takes it as a generative model.

    Args:
        traced: latents and labels → images in [−1, 1], a traced module.
        latent_dim: Z.
        num_classes: of the labels, 0 without any.
    """

    def __init__(self, traced: nn.Module, latent_dim: int, num_classes: int) -> None:
        super().__init__()
        self.traced = traced
        self.latent_dim = latent_dim
        self.num_classes = num_classes

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images uint8 `(B, 3, H, W)`: the values of `images` as `gan.metrics.images.to_uint8` rounds them."""
        images = self.images(latents, labels)
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.repeat(1, 3, 1, 1) if pixels.shape[1] == 1 else pixels

    @torch.jit.export
    def images(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images float32 `(B, C, H, W)` in [−1, 1] for latents `(B, Z)` and labels int64 `(B,)`.

        A conditional generator without labels takes latents `(B, Z + 1)`: the label is ⌊K Φ(z)⌋ of the last one, which
        is uniform where the latents are normal, and independent of the others.
        """
        if labels is None:
            labels = torch.zeros(latents.shape[0], dtype=torch.int64, device=latents.device)
            if self.num_classes > 0:
                assert latents.shape[1] == self.latent_dim + 1, "without labels, latents (B, Z + 1) are accepted"
                uniform = torch.special.ndtr(latents[:, self.latent_dim])
                labels = (uniform * self.num_classes).to(torch.int64).clamp(0, self.num_classes - 1)
                latents = latents[:, : self.latent_dim]
        assert latents.shape[1] == self.latent_dim, "latents (B, Z) are accepted"
        return self.traced(latents, labels)


def write_torchscript(generator: LoadedGenerator, folder: Path) -> None:
    """generator.pth: a `TorchScriptGenerator`, which moves to any device."""
    network = _WithLabels(_on_cpu(generator), generator.num_classes is not None)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, but what torch-fidelity reads
        traced = torch.jit.trace(network, _example(generator), check_trace=False)
        scripted = torch.jit.script(TorchScriptGenerator(traced, generator.latent_dim, generator.num_classes or 0))
        scripted.eval().save(str(folder / "generator.pth"))


class _WithLabels(nn.Module):
    """A generator that always takes labels, and ignores them where it is unconditional."""

    def __init__(self, network: nn.Module, conditional: bool) -> None:
        super().__init__()
        self.network = network
        self.conditional = conditional

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        return self.network(latents, labels if self.conditional else None).float()


@torch.no_grad()
def _on_cpu(generator: LoadedGenerator) -> nn.Module:
    """A copy whose weights are divided by their spectral norms once and for all."""
    network = copy.deepcopy(generator.network).cpu().float().eval()
    for module in network.modules():
        norm = getattr(module, "spectral_norm", None)
        if isinstance(norm, SpectralNorm):
            module.weight = nn.Parameter(norm(module.get_parameter("weight")), requires_grad=False)
            module.register_module("spectral_norm", None)
    return network


def _example(generator: LoadedGenerator) -> tuple[Tensor, Tensor]:
    """Two latents and labels, as exporters take a batch of one for a constant."""
    return torch.zeros(2, generator.latent_dim), torch.zeros(2, dtype=torch.int64)


FORMATS: dict[str, Callable[[LoadedGenerator, Path], None]] = {
    "safetensors": write_safetensors,
    "onnx": write_onnx,
    "torchscript": write_torchscript,
    "huggingface": write_safetensors,
}
