"""Cases for what reads files: checkpoints, exports, images and archives of them, results, caches, weights."""

import io
import random
import shutil
import sys
import tarfile
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import gan
from benchmarks.fuzz_bytes import Case, flipped
from benchmarks.fuzz_configs import EXPERIMENTS, SMALL, VALID
from gan.build import build_generator, image_facts
from gan.config import validate
from gan.data import preparation
from gan.data.npz import npz
from gan.data.store import prepare
from gan.errors import UserError
from gan.experiments.comparison import Planned, load_comparison
from gan.experiments.outcomes import Outcome, load_outcome, outcome_path, save_outcome
from gan.metrics import reference
from gan.metrics.extractors.weights import load_state_dict
from gan.metrics.protocol import ExtractorIdentity, ReferenceIdentity
from gan.sampling.export import write_safetensors
from gan.sampling.generate import Description, LoadedGenerator
from gan.scoring.saved_results import read_result
from gan.training.checkpoint import digest, read_checkpoint, write_checkpoint


def checkpoint_cases(chance: random.Random, folder: Path) -> Case:
    whole = folder / "whole.pt"
    if not whole.exists():
        write_checkpoint(whole, {"step": 1, "weights": {"a": torch.arange(40.0)}, "order": [1, "x", None]})
    path = folder / "step_00000001.pt"
    path.write_bytes(flipped(whole.read_bytes(), chance))

    def read() -> None:
        state = read_checkpoint(path)
        assert torch.equal(state["weights"]["a"], torch.arange(40.0)) and state["order"] == [1, "x", None]

    return read


def npz_cases(chance: random.Random, folder: Path) -> Case:
    whole = folder / "whole.npz"
    if not whole.exists():
        np.savez(whole, images=np.zeros((3, 4, 4, 3), np.uint8), labels=np.arange(3))
    path = folder / "damaged.npz"
    path.write_bytes(flipped(whole.read_bytes(), chance))

    def read() -> None:
        for block in npz(split="train", resolution=8, path=path).read().blocks:
            assert block.dtype == np.uint8

    return read


def image_cases(chance: random.Random, folder: Path) -> Case:
    images = folder / "images"
    images.mkdir(exist_ok=True)
    suffix = chance.choice(["png", "jpeg", "bmp", "webp", "tiff"])
    whole = folder / f"whole.{suffix}"
    if not whole.exists():
        Image.fromarray(np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)).save(whole)
    for old in images.iterdir():
        old.unlink()
    (images / f"damaged.{suffix}").write_bytes(flipped(whole.read_bytes(), chance))
    return lambda: prepare("image_folder", path=images, resolution=8, root=folder / "prepared")


def result_cases(chance: random.Random, folder: Path) -> Case:
    path = folder / "result.json"
    path.write_bytes(flipped((ROOT / "tests" / "result.json").read_bytes(), chance))
    return lambda: read_result(path)


def archive_cases(chance: random.Random, folder: Path) -> Case:
    """A tar or zip of two classes of images, damaged, prepared whole or leaving out what is corrupt."""
    suffix = chance.choice(["tar", "tar.gz", "zip"])
    whole = folder / f"whole.{suffix}"
    if not whole.exists():
        _write_archive(whole)
    source, out = folder / f"damaged.{suffix}", folder / "out"
    source.write_bytes(flipped(whole.read_bytes(), chance))
    for old in (out, folder / ".out.unfinished"):
        shutil.rmtree(old, ignore_errors=True)
    skip = chance.random() < 0.5
    return lambda: preparation.prepare_directory(source, out, resolution=8, skip_corrupt=skip, processes=1)


def _write_archive(path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)).save(content, "png")
    names = [f"train/{label}/{number}.png" for label in ("a", "b") for number in range(2)]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, content.getvalue())
        return
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = content.tell()
            archive.addfile(member, io.BytesIO(content.getvalue()))


def prepared_cases(chance: random.Random, folder: Path) -> Case:
    """A directory of prepared images with one of its files damaged."""
    whole = folder / "whole"
    if not whole.exists():
        _write_archive(folder / "images.zip")
        preparation.prepare_directory(folder / "images.zip", whole, resolution=8, processes=1)
    damaged = _with_one_damaged(whole, folder / "damaged", chance)

    def read() -> None:
        store = prepare("prepared", path=damaged, resolution=8)
        assert store.images[:].shape == (4, 8, 8, 3) and store.num_classes == len(store.class_names)
        preparation.verify(damaged)

    return read


def export_cases(chance: random.Random, folder: Path) -> Case:
    """An exported generator with one of its files damaged: what loads is the generator that was exported."""
    whole = folder / "whole"
    if not whole.exists():
        whole.mkdir()
        write_export(whole)
    damaged = _with_one_damaged(whole, folder / "damaged", chance)
    expected = gan.load(whole, device="cpu").network.state_dict()

    def read() -> None:
        generator = gan.load(damaged, device="cpu")
        found = generator.network.state_dict()
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
        generator.sample(1)

    return read


def write_export(folder: Path) -> None:
    """An exported generator."""
    config = validate({**VALID, **SMALL})
    facts = image_facts(config)
    network = build_generator(config, facts)
    description = Description(
        run="run",
        step=1,
        weights="ema",
        architecture="dcgan",
        resolution=facts.resolution,
        channels=facts.channels,
        latent_dim=config.generator.latent_dim,
        num_classes=facts.num_classes,
        class_names=tuple(map(str, range(facts.num_classes or 0))),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        digest=digest(network.state_dict()),
    )
    write_safetensors(LoadedGenerator(network, config, description), folder)
    description.write(folder / "config.json")
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")


def _with_one_damaged(whole: Path, damaged: Path, chance: random.Random) -> Path:
    """A copy of a directory, one file of which is damaged."""
    shutil.rmtree(damaged, ignore_errors=True)
    shutil.copytree(whole, damaged)
    file = chance.choice(sorted(path for path in damaged.rglob("*") if path.is_file() and path.stat().st_size))
    file.write_bytes(flipped(file.read_bytes(), chance))
    return damaged


@cache
def planned() -> Planned:
    """A run of an experiment."""
    return load_comparison(EXPERIMENTS / "smoke.yaml", (), Path()).runs[0]


def whole_outcome() -> Outcome:
    """What is kept of `planned`."""
    run = planned()
    curve = ({"step": 20, "evaluation/fid": 9.0},)
    made = {"commit": "a" * 40, "clean": True, "threads": 1, "precision": "float32"}
    config = run.config.model_dump()
    return Outcome(run.arm, 0, config, run.modes_read, False, {"fid": 9.0}, 60, 3.5, "a machine", made, curve=curve)


def outcome_cases(chance: random.Random, folder: Path) -> Case:
    """The kept outcome of a run of an experiment."""
    whole, damaged = folder / "whole", folder / "damaged"
    path = outcome_path(whole, planned())
    if not path.exists():
        save_outcome(whole, planned(), whole_outcome())
    damaged.mkdir(exist_ok=True)
    outcome_path(damaged, planned()).write_bytes(flipped(path.read_bytes(), chance))
    return lambda: load_outcome(damaged, planned())


def statistics_cases(chance: random.Random, folder: Path) -> Case:
    """Cached statistics of real images: what is read is what was written, all else is computed again."""
    identity = ReferenceIdentity("digits", "train", "0" * 64, 4, (3, 8, 8))
    extractor = ExtractorIdentity("pixels", "0" * 64, "none", "float32")
    key = reference.CacheKey(identity, extractor, "features", 4, 0)
    random_numbers = torch.Generator().manual_seed(0)
    features = torch.randn(4, 3, generator=random_numbers)
    mean, covariance = features.double().mean(0), features.double().T.cov()
    kept = reference.ReferenceStatistics(identity, extractor, "features", mean, covariance, features)
    if not (folder / "whole").exists():
        reference.save_statistics(folder / "whole", key, kept)
    path = key.path(folder)
    path.write_bytes(flipped(key.path(folder / "whole").read_bytes(), chance))

    def read() -> None:
        found = reference.load_statistics(folder, key, with_features=True)
        if found is None:
            raise UserError("to be computed again")
        assert torch.equal(found.mean, mean) and torch.equal(found.covariance, covariance)
        assert found.features is not None and torch.equal(found.features, features)

    return read


def weights_cases(chance: random.Random, folder: Path) -> Case:
    """Weights of an extractor, as torch saves them."""
    whole = folder / "whole.pth"
    if not whole.exists():
        torch.save({"conv.weight": torch.arange(40.0), "conv.bias": torch.zeros(2)}, whole)
    path = folder / "weights.pth"
    path.write_bytes(flipped(whole.read_bytes(), chance))
    return lambda: load_state_dict(path)
