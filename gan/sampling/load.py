"""From a run, a checkpoint file or an exported folder to its generator. Nothing that is read is executed."""

from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file

from gan.build import ImageFacts, build_generator, image_facts, prepare_images
from gan.build.trained import find_checkpoint, load_generator, read_config
from gan.config import Config
from gan.data.sources import source_info
from gan.device import resolve_device
from gan.errors import UserError
from gan.sampling.description import Description
from gan.sampling.generator import LoadedGenerator
from gan.training.checkpoint import digest, read_checkpoint
from gan.training.run_directory import RunDirectory

WEIGHTS = "model.safetensors"
DESCRIPTION = "config.json"


def load(
    path: str | Path,
    *,
    step: int | Literal["best"] | None = None,
    weights: Literal["ema", "raw"] | None = None,
    device: str = "auto",
) -> LoadedGenerator:
    """The generator that `path` holds, in evaluation mode on `device`.

    Args:
        path: a run directory, a checkpoint file in one, or a folder that `gan.export` wrote as safetensors or
            huggingface, or the model.safetensors in it.
        step: of a run's checkpoint; None for the newest, "best" for the one with the best score.
        weights: "ema" for the moving average, which None means too, or "raw".
        device: `auto`, `cpu`, `cuda`, `cuda:1`.

    Raises:
        UserError: it is none of these, damaged, or has no such step or weights.
    """
    place = resolve_device(device)
    if weights not in (None, "ema", "raw"):
        raise UserError(f"weights: {weights!r} found, accepted: ema, raw")
    path = Path(path)
    folder = path.parent if path.name == WEIGHTS else path
    if (folder / WEIGHTS).is_file():
        generator = _load_exported(folder)
        found = generator.description
        if step not in (None, found.step) or weights not in (None, found.weights):
            raise UserError(
                f"{folder}: step {step} of {weights or 'ema'} asked for, {found.step} of {found.weights} held"
            )
    elif path.suffix == ".pt":
        if step is not None:
            raise UserError(f"{path}: is the checkpoint of one step; step is accepted with its run directory")
        generator = _load_run(RunDirectory(path.parent.parent), path, weights or "ema")
    elif (path / "config.yaml").is_file() and not (path / DESCRIPTION).is_file():
        run = RunDirectory(path)
        generator = _load_run(run, find_checkpoint(run, step), weights or "ema")
    else:
        accepted = "a run directory, a checkpoint (.pt) in one, or a folder that gan.export wrote as safetensors"
        raise UserError(f"{path}: no generator to load; accepted: {accepted}")
    generator.network.to(place)
    return generator


def _load_run(run: RunDirectory, checkpoint: Path, weights: Literal["ema", "raw"]) -> LoadedGenerator:
    config = read_config(run, {})
    state = read_checkpoint(checkpoint)
    facts = image_facts(config)
    network = build_generator(config, facts)
    load_generator(network, state, weights, checkpoint)
    description = Description(
        run=run.path.resolve().name,
        step=state["step"],
        weights=weights,
        architecture=config.generator.name,
        resolution=facts.resolution,
        channels=facts.channels,
        latent_dim=config.generator.latent_dim,
        num_classes=facts.num_classes,
        class_names=_class_names(config, facts),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        digest=digest(network.state_dict()),
    )
    return LoadedGenerator(network, config, description)


def _load_exported(folder: Path) -> LoadedGenerator:
    description = Description.read(folder / DESCRIPTION)
    config = read_config(RunDirectory(folder), {})
    network = build_generator(config, description.facts)
    try:
        state = load_file(folder / WEIGHTS)
        network.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{folder / WEIGHTS}: damaged, or not of the config beside it") from error
    if digest(network.state_dict()) != description.digest:
        raise UserError(f"{folder / WEIGHTS}: its contents are not those that were exported; export it again")
    return LoadedGenerator(network, config, description)


def _class_names(config: Config, facts: ImageFacts) -> tuple[str, ...]:
    """Those of the images where they are on this machine, else numbers."""
    if facts.num_classes is None:
        return ()
    if not source_info(config.data.source).downloads:
        try:
            names = prepare_images(config.data).class_names
        except UserError:
            names = ()
        if len(names) == facts.num_classes:
            return tuple(names)
    return tuple(map(str, range(facts.num_classes)))
