"""From a run, a checkpoint file or an exported folder to its generator. Nothing that is read is executed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file

from gan.build import ImageFacts, build_generator, image_facts, recorded_images, sketch
from gan.config import Config, EvaluationConfig, load_tree, validate
from gan.device import resolve_device
from gan.errors import UserError
from gan.models import Generator
from gan.sampling.generate import Description, LoadedGenerator
from gan.training.best import BEST
from gan.training.checkpoint import checkpoint_paths, digest, read_checkpoint
from gan.training.run_directory import RunDirectory

WEIGHTS = "model.safetensors"
DESCRIPTION = "config.json"


def open_generator(
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
    if weights not in (None, "ema", "raw"):
        raise UserError(f"weights: {weights!r} found, accepted: ema, raw")
    path = Path(path)
    if (folder := exported_folder(path)) is not None:
        return open_exported(folder, step=step, weights=weights, device=device)
    if path.suffix == ".pt":
        if step is not None:
            raise UserError(f"{path}: is the checkpoint of one step; step is accepted with its run directory")
        return open_checkpoint(RunDirectory.of(path).path, weights=weights or "ema", device=device, checkpoint=path)
    if (path / "config.yaml").is_file() and not (path / DESCRIPTION).is_file():
        return open_checkpoint(path, step=step, weights=weights or "ema", device=device)
    accepted = "a run directory, a checkpoint (.pt) in one, or a folder that gan.export wrote as safetensors"
    raise UserError(f"{path}: no generator to load; accepted: {accepted}")


def open_checkpoint(
    path: Path,
    *,
    step: int | Literal["best"] | None = None,
    weights: Literal["ema", "raw"] = "ema",
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    checkpoint: Path | None = None,
    cache: Path | None = None,
) -> LoadedGenerator:
    """The generator of the run directory `path`, in evaluation mode on `device`.

    Args:
        step, weights, device: as `open_generator`.
        settings: values that replace those of the config's `evaluation` section.
        checkpoint: its file, instead of `step`.
        cache: see `cache_of`; it takes the place of the config's `data.root`.

    Raises:
        UserError: no such run or checkpoint, or a setting that is not accepted.
    """
    run, place = RunDirectory(path), resolve_device(device)
    config = read_config(run, settings or {})
    data = config.data.model_copy(update={"root": str(cache_of(run, config, cache))})
    config = config.model_copy(update={"data": data})
    file = checkpoint or find_checkpoint(run, step)
    state = read_checkpoint(file)
    images = recorded_images(state)
    facts = image_facts(config) if images is None else images.facts(config.data.resolution)
    network = _with_weights(config, facts, state.get("ema" if weights == "ema" else "generator"))
    if network is None:
        raise UserError(f"{file}: the checkpoint is not of a run of this config")
    names = tuple(map(str, range(facts.num_classes or 0)))
    description = Description(
        run=path.resolve().name,
        step=state["step"],
        weights=weights,
        architecture=config.generator.name,
        resolution=facts.resolution,
        channels=facts.channels,
        latent_dim=config.generator.latent_dim,
        num_classes=facts.num_classes,
        class_names=names if images is None else tuple(images.class_names),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        digest=digest(network.state_dict()),
    )
    return LoadedGenerator(network.to(place), config, description)


def exported_folder(path: Path) -> Path | None:
    """The folder with the weights of an export that `path` is, or is the file of those weights in; None for neither."""
    folder = path.parent if path.name == WEIGHTS else path
    return folder if (folder / WEIGHTS).is_file() else None


def open_exported(
    folder: Path,
    *,
    step: int | Literal["best"] | None = None,
    weights: Literal["ema", "raw"] | None = None,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    cache: Path | None = None,
) -> LoadedGenerator:
    """The generator of an exported folder, in evaluation mode on `device`.

    Args:
        step, weights, device: as `open_generator`; another step or other weights than the folder holds are refused.
        settings: values that replace those of the config's `evaluation` section.
        cache: takes the place of the config's `data.root`, which is not of this machine.

    Raises:
        UserError: it is damaged, holds another step or other weights, or a setting is not accepted.
    """
    place = resolve_device(device)
    description = Description.read(folder / DESCRIPTION)
    if step not in (None, description.step) or weights not in (None, description.weights):
        asked = f"step {description.step if step is None else step} of {weights or 'ema'}"
        raise UserError(f"{folder}: {asked} asked for, {description.step} of {description.weights} held")
    config = read_config(RunDirectory(folder), settings or {})
    section, damaged = config.generator, f"{folder / WEIGHTS}: damaged, or not of the config beside it"
    told = (description.architecture, description.latent_dim, description.resolution)
    if told != (section.name, section.latent_dim, config.data.resolution):
        raise UserError(f"{folder / DESCRIPTION}: {told} found, config.yaml beside it is of another generator")
    if cache is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"root": str(cache)})})
    try:
        network = _with_weights(config, description.facts, load_file(folder / WEIGHTS))
    except (SafetensorError, OSError) as error:
        raise UserError(damaged) from error
    if network is None:
        raise UserError(damaged)
    if digest(network.state_dict()) != description.digest:
        raise UserError(f"{folder / WEIGHTS}: its contents are not those that were exported; export it again")
    return LoadedGenerator(network.to(place), config, description)


def _with_weights(config: Config, facts: ImageFacts, state: object) -> Generator | None:
    """The generator of a config with the weights in `state`; None where it is not of such a generator.

    It is built once its shapes are known to be those of the weights, and so it is no larger than their file, whatever
    the config says.
    """
    try:
        sketched = sketch(lambda: build_generator(config, facts))
    except MemoryError:
        return None
    if not isinstance(state, dict) or (sketched is not None and _shapes(sketched.state_dict()) != _shapes(state)):
        return None
    network = build_generator(config, facts)
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError):
        return None
    return network


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, "shape", None) for name, value in state.items()}


def read_config(run: RunDirectory, settings: Mapping[str, Any]) -> Config:
    """The config of a run, with some of its evaluation settings replaced.

    Raises:
        UserError: there is none, or it is not accepted; or a setting is not.
    """
    if not run.config.is_file():
        raise UserError(f"{run.path}: no run here, config.yaml is missing")
    tree = load_tree(run.config)
    if not isinstance(tree.get("evaluation"), dict):
        raise UserError(f"{run.config}: not the config of a run")
    try:
        validate(tree)
    except UserError as error:
        raise UserError(f"{run.config}: {error}") from error
    extractor = tree["evaluation"].get("extractor", EvaluationConfig().extractor)
    if settings.get("extractor", extractor) != extractor:  # whose weights the config's are not
        settings = {"weights": None, **settings}
    if "weights" in settings:
        settings = {"weights_sha256": None, **settings}
    if "reference" in settings:  # a split by name, where the config's path is of another
        settings = {"reference_path": None, **settings}
    if "metrics" in settings:  # what a run keeps its best checkpoint by need not be among them
        settings = {"best": None, **settings}
    return validate({**tree, "evaluation": {**tree["evaluation"], **settings}})


def find_checkpoint(run: RunDirectory, step: int | Literal["best"] | None) -> Path:
    """The checkpoint of a step, the newest (None), or the one with the best score."""
    if step == "best":
        if not (run.checkpoints / BEST).is_file():
            raise UserError(f"{run.path}: no {BEST} in {run.checkpoints}; it is kept with evaluation.best: fid")
        return run.checkpoints / BEST
    paths = {int(path.stem.removeprefix("step_")): path for path in checkpoint_paths(run.checkpoints)}
    if not paths:
        raise UserError(f"{run.path}: no checkpoint in {run.checkpoints}")
    if step is not None and step not in paths:
        raise UserError(f"step {step}: no such checkpoint in {run.path}; accepted: {', '.join(map(str, paths))}")
    return paths[max(paths) if step is None else step]


def cache_of(run: RunDirectory, config: Config, chosen: Path | None = None) -> Path:
    """Where prepared images and their features are kept when a run is scored: the run's config does not decide it.

    `chosen`; else the `data.root` that training filled, or data/ beside the run, where that is on this machine; else
    data/ in the run.
    """
    if chosen is not None:
        return chosen
    for folder in (Path(config.data.root), run.path.resolve().parent / "data"):
        if any(folder.glob("*/meta.json")):
            return folder
    return run.path / "data"
