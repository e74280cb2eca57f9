"""A generator as a folder to be shared: weights, config, description, model card and a sample grid.

The weights as safetensors, ONNX or TorchScript.
"""

import copy
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor, nn

from gan.config import Config
from gan.errors import UserError, nearest
from gan.files import atomic_folder
from gan.metrics.images import rounded
from gan.models.blocks.spectral_norm import SpectralNorm
from gan.sampling.card import model_card, read_result
from gan.sampling.generate import Description, LoadedGenerator
from gan.sampling.open import DESCRIPTION, WEIGHTS, open_generator
from gan.sampling.pictures import class_rows, save_grid, save_named_rows
from gan.training.checkpoint import digest
from gan.training.run_directory import RunDirectory

OPSET = 18
GRID_COLUMNS = 8
GRID_CLASSES = 10


def export(
    path: Path,
    fmt: str,
    out: Path,
    *,
    licence: str | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    step: int | Literal["best"] | None = None,
    weights: Literal["ema", "raw"] | None = None,
) -> Path:
    """Write the generator at `path` to the new folder `out`, whole or not at all; returns `out`.

    Args:
        path, step, weights: as `gan.sampling.open.open_generator`.
        fmt: of `FORMATS`.
        out: an empty or new folder.
        licence: one line, best an SPDX identifier; None for "unknown", or for that of an exported folder.
        dtype: of the stored floats of a state dict; with float16 the weights are rounded to it.

    Raises:
        UserError: nothing to load, an unknown format, or `out` is not empty.
        StorageError: `out` cannot be written.
    """
    if fmt not in FORMATS:
        raise UserError(f"--format: no {fmt!r}{nearest(fmt, FORMATS)}")
    if licence is not None and (not licence.strip() or not licence.isprintable()):
        raise UserError(f"--license: {licence!r} found, one line such as mit or cc-by-4.0 accepted")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: is there and not empty; accepted: an empty or new folder")
    if dtype != "float32" and FORMATS[fmt] is not write_safetensors:
        raise UserError(f"--dtype: {dtype} found; float32 accepted with --format {fmt}")
    generator = open_generator(path, step=step, weights=weights, device="cpu")
    if dtype == "float16":
        _round_to_half(generator, path)
    known = generator.description
    kept = {"dtype": dtype, "rounded": known.of_halves}
    description = known.model_copy(update=kept)
    results = description.evaluations or evaluations(path, description)
    description = description.model_copy(update={"licence": licence or description.licence, "evaluations": results})
    config = without_local_paths(generator.config)
    with atomic_folder(out) as folder:
        generator.description = description
        FORMATS[fmt](generator, folder)
        (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        description.write(folder / DESCRIPTION)
        card = model_card(description, config, fmt, out.resolve().name)
        (folder / "README.md").write_text(card, encoding="utf-8")
        _save_samples(generator, folder / "samples.png")
    return out


def evaluations(path: Path, description: Description) -> tuple[dict[str, Any], ...]:
    """The results in the run's `evaluations/` that were measured of this step and these weights.

    Raises:
        UserError: a file cannot be read; damaged ones are left out.
    """
    run = RunDirectory.of(path)
    found = []
    for file in sorted(run.evaluations.glob("*.json")):
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:  # it may be whole, and is not to be left out without a word
            raise UserError(f"{file}: {error.strerror or error}") from error
        except (ValueError, RecursionError):
            continue
        if not isinstance(values, dict) or values.get("step") != description.step:
            continue
        result = read_result(values)
        if result is not None and result.protocol.weights == description.weights:
            found.append(values)
    return tuple(found)


def without_local_paths(config: Config) -> Config:
    """The config with paths cut to their last part: where files lay on one machine means nothing on another."""
    data, evaluation = config.data, config.evaluation
    cut = {"path": _last(data.path), "root": type(data).model_fields["root"].default}
    kept = {"weights": _last(evaluation.weights), "reference_path": _last(evaluation.reference_path)}
    return config.model_copy(
        update={"data": data.model_copy(update=cut), "evaluation": evaluation.model_copy(update=kept)}
    )


def _last(path: str | None) -> str | None:
    return None if path is None else Path(path).name


def _round_to_half(generator: LoadedGenerator, path: Path) -> None:
    """Round all floats of a generator to float16, in place.

    Raises:
        UserError: one is beyond its range.
    """
    state = generator.network.state_dict()
    halves = {
        name: tensor.half().to(tensor) if tensor.is_floating_point() else tensor for name, tensor in state.items()
    }
    for name, tensor in halves.items():
        if not tensor.isfinite().all():
            raise UserError(f"--dtype: float16 cannot hold {name} of {path}; float32 accepted")
    generator.network.load_state_dict(halves)
    digest_of_halves = {"digest": digest(generator.network.state_dict())}
    generator.description = generator.description.model_copy(update=digest_of_halves)


def _save_samples(generator: LoadedGenerator, path: Path) -> None:
    if generator.num_classes is None:
        save_grid(generator.sample(GRID_COLUMNS**2), GRID_COLUMNS, path)
    else:
        classes = range(min(generator.num_classes, GRID_CLASSES))
        save_named_rows(*class_rows(generator, classes, GRID_COLUMNS), generator.class_names, path)


def write_safetensors(generator: LoadedGenerator, folder: Path) -> None:
    """model.safetensors: the state dict, which `gan.load` puts into a generator built from the config beside it."""
    dtype = getattr(torch, generator.description.dtype)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in generator.network.state_dict().items()}
    tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    (folder / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))


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
            program = torch.onnx.export(
                network,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=["images"],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes={name: {0: batch} for name in inputs},
                verbose=False,
            )
        except ImportError as error:
            raise UserError(
                f"--format onnx: {error.name} is not installed; accepted after: pip install onnxscript"
            ) from error
    assert program is not None
    (folder / "generator.onnx").write_bytes(_without_traces(program.model_proto))


def _without_traces(model: Any) -> bytes:
    """A serialised ONNX model in which no node says from which line of which file it comes."""
    graphs = [model.graph, *model.functions]
    for part in (model, *graphs, *(node for graph in graphs for node in graph.node)):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for graph in graphs:
        for value in (*graph.input, *graph.output, *graph.value_info) if hasattr(graph, "input") else ():
            if hasattr(value, "ClearField"):
                value.ClearField("metadata_props")
    return bytes(model.SerializeToString())


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
        """Images uint8 `(B, 3, H, W)`: the values of `images` as `gan.metrics.images.rounded` has them."""
        images = self.images(latents, labels)
        pixels = rounded(images)
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
        buffer = io.BytesIO()  # torch's own writer ends the process where the disk is full
        torch.jit.save(scripted.eval(), buffer)
    (folder / "generator.pth").write_bytes(_without_sources(buffer))


def _without_sources(saved: io.BytesIO) -> bytes:
    """An archive of TorchScript without the records that say from which files its code comes."""
    kept = io.BytesIO()
    with zipfile.ZipFile(saved) as archive, zipfile.ZipFile(kept, "w", zipfile.ZIP_STORED) as rewritten:
        for record in archive.infolist():
            if not record.filename.endswith(".debug_pkl"):
                rewritten.writestr(record, archive.read(record))
    return kept.getvalue()


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
