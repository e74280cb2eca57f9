"""Sharing a generator: what is loaded, exported and sampled is the generator that was trained."""

import json
import re
import shutil
import socket
import subprocess
import sys
import weakref
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import scipy.stats
import torch
import torch_fidelity.fidelity
import yaml
from click.testing import CliRunner, Result
from PIL import Image, ImageSequence

import gan
import gan.export
import gan.sample
from gan.build import ImageFacts, build_generator, image_facts
from gan.commands.image_sets import open_set
from gan.commands.launch import launch
from gan.commands.score import score_images
from gan.config import load_config
from gan.errors import UserError
from gan.metrics.evaluator import Evaluator
from gan.metrics.extractors.catalogue import build_extractor
from gan.metrics.extractors.efficientnet import register
from gan.metrics.images import ArraySampler, to_uint8
from gan.pictures import tile
from gan.sampling import export as exporting
from gan.sampling import pictures
from gan.sampling.card import model_card
from gan.sampling.export import export, write_onnx, write_torchscript
from gan.sampling.generate import Description, LoadedGenerator
from gan.sampling.latents import Truncation, evaluation_latents
from gan.sampling.pictures import class_rows, interpolated_latents, save_interpolation
from gan.sampling.write import Draw, parse_classes, save_folder, save_npz
from tests import DEFAULT, ROOT
from tests.test_evaluator import random_inception  # noqa: F401
from tests.test_training import TINY

CPU = torch.device("cpu")
SCORED = ["evaluation.at_end=true", "evaluation.samples=6", "evaluation.reference_samples=8", "evaluation.seed=3"]
SCORED += ["training.precision=float32"]  # the exports'


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional run of six steps, scored at its end."""
    out = tmp_path_factory.mktemp("runs") / "digits_run"
    data = tmp_path_factory.mktemp("data")
    launch(load_config(DEFAULT, [*TINY, *SCORED, f"data.root={data}", "conditional=true"]), CPU, out, "the command")
    return out


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, "safetensors", tmp_path_factory.mktemp("exports") / "safetensors", licence="cc-by-4.0")


def untrained(*overrides: str, classes: int | None = None, channels: int = 3) -> LoadedGenerator:
    """A generator without a run, no part of which is idle: attention is weighed in, and statistics are not 0 and 1."""
    config = load_config(
        DEFAULT, ["training.precision=float32", f"conditional={'true' if classes else 'false'}", *overrides]
    )
    network = build_generator(config, ImageFacts(32, channels, classes))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith(("gamma", "running_var")):
                value.uniform_(0.5, 1.5, generator=random)
            elif name.endswith("running_mean"):
                value.normal_(generator=random)
    names = tuple(map(str, range(classes or 0)))
    description = Description(
        run="none", step=0, weights="ema", architecture=config.generator.name, resolution=32, channels=channels,
        latent_dim=config.generator.latent_dim, num_classes=classes, class_names=names, parameters=0, digest="",
    )  # fmt: skip
    return LoadedGenerator(network, config, description)


def call(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def alike(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Equal pixels, but for one step where two kernels round to either side."""
    assert first.dtype == second.dtype == torch.uint8 and first.shape == second.shape
    difference = (first.int() - second.int()).abs()
    return difference.max() <= 1 and difference.float().mean() < 1e-3


def refused(result: Result, *parts: str) -> None:
    """One line on standard error that has all the parts, status 2."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and all(part in lines[0] for part in parts), result.stderr


# ----------------------------------------------------------------------------------------------------------------- load


def test_importing_gan_loads_nothing_else() -> None:
    code = "import sys, gan; assert callable(gan.load); print({'torch', 'numpy'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == "set()"


def test_samples_are_the_images_that_evaluation_scores(run: Path) -> None:
    scored = open_set(str(run), 32, None, CPU, False, run / "data")
    generator = gan.load(run, device="cpu")
    images = generator.sample(6, seed=3)
    assert images.dtype == torch.uint8 and images.shape == (6, 1, 32, 32)
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), scored.images)
    labels = torch.cat([batch.labels for batch in generator.batches(6, seed=3)])
    assert np.array_equal(labels.numpy(), scored.labels)
    assert torch.equal(generator.sample(6, labels, seed=3), images)
    assert not torch.equal(generator.sample(6, seed=4), images)


def test_the_batch_size_changes_no_latent_and_no_image() -> None:
    generator = untrained("generator={name: sngan, width: 8, latent_dim: 16}", classes=10)
    before = torch.get_rng_state()
    images = generator.sample(300, truncation=0.7)
    floats = generator.sample(300, truncation=0.7, as_float=True)
    assert torch.equal(to_uint8(floats), images) and floats.abs().max() <= 1 and floats.std(0).mean() > 0.05
    for batch_size in (1, 37, 300):
        found = generator.sample(300, truncation=0.7, batch_size=batch_size, as_float=True)
        assert (found - floats).abs().max() < 1e-5
    assert torch.equal(torch.get_rng_state(), before)


def test_truncation_draws_again_what_lies_beyond() -> None:
    whole, _ = evaluation_latents(50, None, seed=1).next(400)
    truncated = Truncation(0.6, seed=1)(whole)
    within = whole.abs() <= 0.6
    assert truncated.abs().max() <= 0.6 and torch.equal(truncated[within], whole[within])
    assert scipy.stats.kstest(truncated.flatten(), scipy.stats.truncnorm(-0.6, 0.6).cdf).pvalue > 0.01
    assert truncated[~within].unique().numel() > 0.999 * (~within).sum()  # none is used twice
    truncation = Truncation(0.6, seed=1)
    assert torch.equal(torch.cat([truncation(part) for part in whole.split([1, 150, 249])]), truncated)


def test_a_step_a_checkpoint_file_and_the_raw_weights_can_be_loaded(run: Path) -> None:
    newest = gan.load(run, device="cpu")
    assert newest.description.step == 6
    early = gan.load(run, step=3, device="cpu")
    same = gan.load(run / "checkpoints" / "step_00000003.pt", device="cpu")
    assert early.description == same.description and torch.equal(early.sample(3), same.sample(3))
    raw = gan.load(run, weights="raw", device="cpu")
    assert len({generator.description.digest for generator in (newest, early, raw)}) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n: 0 found, an integer of at least 1 accepted"),
        ({"n": 2.0}, "n: 2.0 found"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"seed": -1}, "seed: -1"),
        ({"truncation": 0.0}, "truncation: 0.0 found, at least 0.01"),
        ({"truncation": float("nan")}, "truncation: nan"),
        ({"labels": 10}, "labels: 10 to 10 found, accepted: integers from 0 to 9"),
        ({"labels": [0, 1, 2]}, r"\(3,\) found, accepted: integers from 0 to 9, one or 2 of them"),
        ({"labels": [0.5, 1.0]}, "float32"),
        ({"labels": "cat"}, "labels: 'cat'"),
    ],
)
def test_what_cannot_be_sampled_is_refused(run: Path, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        gan.load(run, device="cpu").sample(**{"n": 2, **arguments})


def test_what_is_no_generator_is_refused(run: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the generator is unconditional"):
        untrained("generator.width=4").sample(2, labels=1)
    with pytest.raises(UserError, match="no generator to load; accepted: a run directory"):
        gan.load(tmp_path)
    with pytest.raises(UserError, match="no such checkpoint"):
        gan.load(run, step=4)
    with pytest.raises(UserError, match=r"no best\.pt"):
        gan.load(run, step="best")
    with pytest.raises(UserError, match="step 3 of ema asked for, 6 of ema held"):
        gan.load(exported, step=3)
    with pytest.raises(UserError, match="accepted: ema, raw"):
        gan.load(run, weights="mean")


# --------------------------------------------------------------------------------------------------------------- export


def test_an_exported_folder_is_the_generator_of_its_run(run: Path, exported: Path) -> None:
    ours, theirs = gan.load(run, device="cpu"), gan.load(exported, device="cpu")
    assert torch.equal(ours.sample(9), theirs.sample(9))
    assert {path.name for path in exported.iterdir()} == {
        "model.safetensors", "config.yaml", "config.json", "README.md", "samples.png",
    }  # fmt: skip
    (saved,) = (run / "evaluations").glob("*.json")
    assert json.loads((exported / "config.json").read_text())["evaluations"] == [json.loads(saved.read_text())]
    card = (exported / "README.md").read_text()
    assert f"{sum(parameter.numel() for parameter in ours.network.parameters()):,}" in card
    for shown in ("FD (efficientnet_lite0)", "6, seed 3, ema weights", "cc-by-4.0", "6 of 6", "digits train"):
        assert shown in card
    assert gan.load(export(exported, "huggingface", exported.parent / "again")).description == theirs.description


def test_an_exported_folder_needs_neither_the_run_nor_its_images(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["data"]["root"] == "outputs/data"  # not where it lay
    config["data"] |= {"source": "image_folder", "path": "gone"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert torch.equal(gan.load(folder).sample(3), gan.load(exported).sample(3))


def test_damage_is_noticed(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-3] + bytes(3))
    with pytest.raises(UserError, match="its contents are not those that were exported"):
        gan.load(folder)
    weights.write_bytes(whole[:500])
    with pytest.raises(UserError, match="damaged, or not of the config beside it"):
        gan.load(folder)
    weights.write_bytes(whole)
    description = (folder / "config.json").read_text()
    for text in (description[:-9], description.replace('"format": 1', '"format": 2'), "[]"):
        (folder / "config.json").write_text(text)
        with pytest.raises(UserError, match=r"config.json: .*accepted: what gan.export wrote"):
            gan.load(folder)
    (folder / "config.json").write_text(description)
    (folder / "config.yaml").write_bytes((folder / "config.yaml").read_bytes() + b"\x86")
    with pytest.raises(UserError, match="not a UTF-8 text file"):
        gan.load(folder)


def test_an_export_is_whole_or_not_there(run: Path, exported: Path, tmp_path: Path, monkeypatch) -> None:
    refused(call(gan.export.main, run, "--format", "onnx", "--out", exported), "--out", "not empty")
    refused(call(gan.export.main, tmp_path, "--format", "onnx", "--out", tmp_path / "x"), "no generator to load")
    bad_licence = call(gan.export.main, run, "--format", "onnx", "--out", tmp_path / "x", "--license", "a\nb")
    refused(bad_licence, "--license")

    def full(generator: LoadedGenerator, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(exporting.FORMATS, "safetensors", full)
    result = call(gan.export.main, run, "--format", "safetensors", "--out", tmp_path / "x")
    assert result.exit_code == 4 and "No space left on device" in result.stderr
    assert list(tmp_path.iterdir()) == []


HOSTILE = "<script>alert(1)</script> [x](javascript:1) **b** `c` | \x1b[31m\n# title"


def test_what_a_file_says_is_shown_as_text(run: Path) -> None:
    generator = gan.load(run, device="cpu")
    config = generator.config
    head = config.discriminator.head.model_copy(update={"name": HOSTILE})
    discriminator = config.discriminator.model_copy(update={"head": head})
    data = config.data.model_copy(update={"source": HOSTILE, "split": HOSTILE})
    config = config.model_copy(update={"discriminator": discriminator, "data": data})
    description = generator.description.model_copy(update={"licence": HOSTILE, "architecture": HOSTILE})
    for fmt in ("safetensors", "huggingface", "onnx", "torchscript"):
        text = model_card(description, config, fmt, HOSTILE)
        shown = re.sub(
            r"```.*?```", "", text.partition("\n---\n")[2] if fmt == "huggingface" else text, flags=re.DOTALL
        )
        assert "<script" not in shown and "**b**" not in shown and "\x1b" not in shown
        assert not re.search(r"(?<!\\)\]\(javascript", shown)
        assert all(line.isprintable() for line in text.splitlines())
        assert len(re.findall("^```", text, re.MULTILINE)) == len(re.findall("```", text))  # none closed from within


def test_halves_take_half_the_room_and_are_what_is_loaded(run: Path, exported: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "half", "--dtype", "float16")
    assert call(gan.export.main, run, "--format", "safetensors", *options).exit_code == 0
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "half", exported)]
    assert 0.5 < sizes[0] / sizes[1] < 0.55
    whole, half = gan.load(exported, device="cpu"), gan.load(tmp_path / "half", device="cpu")
    for (name, value), rounded in zip(
        whole.network.state_dict().items(), half.network.state_dict().values(), strict=True
    ):
        assert rounded.dtype == value.dtype, name
        assert torch.equal(rounded, value.half().to(value) if value.is_floating_point() else value), name
    assert half.description.digest != whole.description.digest and half.description.dtype == "float16"
    assert "rounded to float16" in (tmp_path / "half" / "README.md").read_text()
    again = export(export(tmp_path / "half", "safetensors", tmp_path / "between"), "safetensors", tmp_path / "again")
    assert gan.load(again, device="cpu").description.digest == half.description.digest
    assert "rounded to float16" in (again / "README.md").read_text()  # they still are, whatever they are stored as
    assert "rounded to float16" not in (exported / "README.md").read_text()
    refused(call(gan.export.main, run, "--format", "onnx", "--out", tmp_path / "x", "--dtype", "float16"), "--dtype")
    state = whole.network.state_dict()
    state[next(iter(state))].view(-1)[0] = 1e5
    with pytest.raises(UserError, match="float16 cannot hold"):
        exporting._round_to_half(whole, run)


@pytest.mark.parametrize("fmt", ["safetensors", "onnx", "torchscript", "huggingface"])
def test_an_export_says_nothing_of_the_machine(run: Path, tmp_path: Path, fmt: str) -> None:
    result = call(gan.export.main, run, "--format", fmt, "--out", tmp_path / "exported")
    assert result.exit_code == 0, result.output
    contents = [file.read_bytes() for file in (tmp_path / "exported").iterdir()]
    for file in (tmp_path / "exported").glob("*.pth"):
        with zipfile.ZipFile(file) as archive:
            contents += [archive.read(name) for name in archive.namelist()]
    secrets = [str(ROOT), str(tmp_path.parent), torch.__path__[0], socket.gethostname()]
    assert not [word for word in secrets for content in contents if word.encode() in content]
    modes = {file.stat().st_mode for file in (tmp_path / "exported").iterdir()}
    assert len(modes) == 1


def test_the_names_of_event_files_say_nothing_of_the_machine(run: Path) -> None:
    names = [path.name for path in run.iterdir() if "tfevents" in path.name]
    assert len(names) == 2 and not any(socket.gethostname() in name for name in names)


def test_the_hub_can_read_the_card(run: Path, tmp_path: Path) -> None:
    result = call(gan.export.main, run, "--format", "huggingface", "--out", tmp_path / "hub", "--license", "mit")
    assert result.exit_code == 0, result.output
    _, front, text = (tmp_path / "hub" / "README.md").read_text().split("---\n", 2)
    values = yaml.safe_load(front)
    assert (values["license"], values["pipeline_tag"]) == ("mit", "unconditional-image-generation")
    (scored,) = values["model-index"][0]["results"]
    (saved,) = (run / "evaluations").glob("*.json")
    value = json.loads(saved.read_text())["metrics"]["frechet_distance"]
    assert scored["metrics"] == [{"type": "frechet_distance", "name": "FD (efficientnet_lite0)", "value": value}]
    assert 'gan.load(huggingface_hub.snapshot_download("USER/hub"))' in text


BIGGAN = "generator={{name: biggan, width: 4, latent_dim: 16, attention: {{name: {}, resolutions: [16]}}}}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "classes"),
    [
        (["generator={name: dcgan, width: 4, latent_dim: 16}"], 10),
        (["generator={name: sngan, width: 4, latent_dim: 16, options: {spectral_norm: true}}"], None),
        (
            [BIGGAN.format("mixture"), "generator.attention.options={parts: [taylor, dot_product], combine: outputs}"],
            10,
        ),
        (["generator={name: r3gan, width: 32, latent_dim: 16, options: {blocks: 1}}"], 10),
    ],
    ids=["dcgan", "sngan", "biggan, taylor and dot_product", "r3gan"],
)
def test_onnx_equals_pytorch(overrides: list[str], classes: int | None, tmp_path: Path) -> None:
    generator = untrained(*overrides, classes=classes)
    write_onnx(generator, tmp_path)
    onnx.checker.check_model(tmp_path / "generator.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "generator.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):  # the batch is free
        (batch,) = generator.batches(count, seed=count)
        ours = generator(batch.latents, batch.labels).numpy()
        inputs = {"latents": batch.latents.numpy()}
        inputs |= {} if batch.labels is None else {"labels": batch.labels.numpy()}
        (theirs,) = session.run(["images"], inputs)
        assert ours.std() > 0.05
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("classes", [None, 7])
@pytest.mark.parametrize(
    "override",
    [BIGGAN.format("efficient"), "generator={name: r3gan, width: 32, latent_dim: 16}"],
    ids=["biggan", "r3gan"],
)
def test_torchscript_equals_pytorch(override: str, classes: int | None, tmp_path: Path) -> None:
    generator = untrained(override, classes=classes, channels=1)
    write_torchscript(generator, tmp_path)
    loaded = torch.jit.load(tmp_path / "generator.pth")
    for count in (1, 2, 5):
        (batch,) = generator.batches(count)
        ours = generator(batch.latents, batch.labels)
        assert (loaded.images(batch.latents, batch.labels) - ours).abs().max() < 1e-6
        assert alike(loaded(batch.latents, batch.labels), to_uint8(ours).expand(-1, 3, -1, -1))
    if classes is None:
        assert alike(loaded(batch.latents), to_uint8(ours).expand(-1, 3, -1, -1))
        return
    # Φ((k + 1/2)/K) for each class k
    chosen = torch.tensor(scipy.stats.norm.ppf((np.arange(classes) + 0.5) / classes), dtype=torch.float32)
    latents, labels = torch.randn(classes, 16, generator=torch.Generator().manual_seed(1)), torch.arange(classes)
    assert torch.equal(loaded(torch.cat([latents, chosen[:, None]], dim=1)), loaded(latents, labels))
    extreme = loaded(torch.cat([latents[:1], torch.tensor([[99.0]])], dim=1))
    assert alike(extreme, loaded(latents[:1], labels[-1:]))


def test_torch_fidelity_scores_the_torchscript_file_as_we_score_its_images(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through torch-fidelity's own command line, on features that need no download."""
    register()
    script = export(run, "torchscript", tmp_path / "script") / "generator.pth"
    generator = gan.load(run, device="cpu")
    save_folder(generator, tmp_path / "reference", 10, Draw(classes=None, seed=9, truncation=None, batch_size=10))
    command = [
        "fidelity", "--input1", script, "--input1-model-z-type", "normal", "--input1-model-z-size", 9,
        "--input1-model-num-samples", 12, "--input2", tmp_path / "reference", "--fid", "--json", "--silent", "--cpu",
        "--feature-extractor", "efficientnet_lite0", "--no-cache", "--save-cpu-ram", "--batch-size", 8,
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    torch_fidelity.fidelity.main()
    theirs = json.loads(capsys.readouterr().out)["frechet_inception_distance"]

    random = np.random.RandomState(2020)  # torch-fidelity's default seed
    latents = torch.cat([torch.from_numpy(random.randn(count, 9)).float() for count in (8, 4)])
    images = torch.jit.load(script)(latents).permute(0, 2, 3, 1).numpy()
    paths = sorted((tmp_path / "reference").glob("*.png"))
    real = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    evaluator = Evaluator(build_extractor("efficientnet_lite0"), CPU, ["fid"], 8, False)
    reference = evaluator.reference(real, name="samples", split="all")
    ours = evaluator.evaluate(ArraySampler(images), 12, reference, seed=None, weights="images", label_sampling="none")
    assert ours.metrics["frechet_distance"] == pytest.approx(theirs, rel=1e-3)


@pytest.mark.slow
def test_the_fidelity_command_takes_the_torchscript_file(run: Path, random_inception: Path, tmp_path: Path) -> None:  # noqa: F811
    """The installed command in a process of its own, which knows nothing of this repository."""
    script = export(run, "torchscript", tmp_path / "script") / "generator.pth"
    command = [
        Path(sys.executable).with_name("fidelity"), "--input1", script, "--input1-model-z-type", "normal",
        "--input1-model-z-size", 9, "--input1-model-num-samples", 6, "--isc", "--isc-splits", 1, "--json", "--silent",
        "--cpu", "--no-cache", "--feature-extractor-weights-path", random_inception, "--batch-size", 6,
    ]  # fmt: skip
    found = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["inception_score_mean"] >= 1


def test_the_lines_in_the_cards_work_without_this_repository(run: Path, tmp_path: Path) -> None:
    generator = gan.load(run, device="cpu")
    write_torchscript(generator, tmp_path)
    write_onnx(generator, tmp_path)
    code = []
    for fmt in ("onnx", "torchscript"):
        card = model_card(generator.description, generator.config, fmt, "name")
        (found,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        assert len(found.splitlines()) == 3
        code.append(f"{found}shapes.append(tuple(images.shape))\n")
    text = "\n".join(["shapes = []", *code, "import sys; print(shapes, 'gan' in sys.modules)"])
    found = subprocess.run([sys.executable, "-I", "-c", text], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert found.stdout.strip() == "[(16, 1, 32, 32), (16, 3, 32, 32)] False"


# -------------------------------------------------------------------------------------------------------------- samples


@pytest.fixture(scope="module")
def samples(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The same 20 images as a folder and as an archive."""
    out = tmp_path_factory.mktemp("samples")
    for fmt in ("png", "npz"):
        result = call(gan.sample.main, exported, "--count", 20, "--out", out / fmt, "--format", fmt, "--batch-size", 7)
        assert result.exit_code == 0, result.output
    return SimpleNamespace(folder=out / "png", archive=out / "npz" / "samples.npz")


def test_a_folder_and_an_archive_hold_the_same_samples(exported: Path, samples: SimpleNamespace) -> None:
    expected = gan.load(exported).sample(20, seed=3)  # the seed of the config
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted(samples.folder.glob("*.png"))])
    with np.load(samples.archive) as archive:
        assert archive["images"].shape == (20, 32, 32, 1) and archive["images"].dtype == np.uint8
        assert alike(torch.from_numpy(archive["images"][..., 0]), expected[:, 0])
        assert np.array_equal(archive["images"][..., 0], pixels)
        rows = (samples.folder / "labels.csv").read_text().splitlines()
        assert rows[0] == "file,label,class"
        assert [row.split(",")[:2] for row in rows[1:]] == [
            [f"{place:06d}.png", str(label)] for place, label in enumerate(archive["labels"])
        ]


@pytest.mark.parametrize(("name", "form"), [("x.png", "PNG"), ("x.gif", "GIF"), ("x.npz", None)])
def test_a_name_of_a_file_is_that_of_the_file(name: str, form: str | None, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / name
    result = call(gan.sample.main, exported, "--count", 4, "--out", out)
    assert result.exit_code == 0, result.output
    assert out.is_file() and [path.name for path in tmp_path.iterdir()] == [name]
    if form is not None:
        assert Image.open(out).format == form
    refused(call(gan.sample.main, exported, "--format", "png", "--out", tmp_path / "y.png"), "is the name of a file")


def test_a_folder_and_an_archive_score_the_same(samples: SimpleNamespace, tmp_path: Path) -> None:
    settings = {
        "extractors": ["efficientnet_lite0"], "resize": "extractor", "held_out": None, "weights": None,
        "weights_sha256": None, "compiled": False,
        "metrics": ["fid", "kid"], "dtype": "float32", "bootstrap": 0, "resolution": 32, "limit": None,
        "reference_limit": None, "skip_corrupt": False, "batch_size": 20, "device": "cpu", "as_json": True,
        "cache": tmp_path / "cache",
    }  # fmt: skip
    result = json.loads(score_images(str(samples.folder), str(samples.archive), **settings))
    assert result["metrics"]["frechet_distance"] == pytest.approx(0, abs=1e-4)
    assert result["protocol"]["generated_count"] == result["protocol"]["reference"]["count"] == 20


def test_a_folder_that_was_begun_is_gone_on_with(exported: Path, samples: SimpleNamespace, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(samples.folder, tmp_path / "begun"))
    for name in ("000003.png", "000019.png", "labels.csv"):
        (folder / name).unlink()
    kept = (folder / "000004.png").stat().st_mtime_ns
    again = call(gan.sample.main, exported, "--count", 20, "--out", folder, "--batch-size", 7)
    assert again.exit_code == 0, again.output
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in samples.folder.iterdir()
    }
    assert (folder / "000004.png").stat().st_mtime_ns == kept
    other = call(gan.sample.main, exported, "--count", 20, "--seed", 5, "--out", folder)
    refused(other, "holds other samples (seed 3, now 5)")
    (folder / "samples.json").unlink()
    refused(call(gan.sample.main, exported, "--count", 20, "--out", folder), "is not empty")


def test_a_damaged_picture_of_a_folder_that_was_begun_is_drawn_again(exported: Path, tmp_path: Path) -> None:
    arguments = (exported, "--count", 6, "--out", tmp_path / "s")
    assert call(gan.sample.main, *arguments).exit_code == 0
    whole = {file.name: file.read_bytes() for file in (tmp_path / "s").iterdir()}
    (tmp_path / "s" / "000001.png").write_bytes(b"")
    (tmp_path / "s" / "000002.png").write_bytes(whole["000002.png"][:-4])
    middle = bytearray(whole["000003.png"])
    middle[len(middle) // 2] ^= 1
    (tmp_path / "s" / "000003.png").write_bytes(middle)
    (tmp_path / "s" / "000004.png").write_bytes(bytes(len(whole["000004.png"])))
    assert call(gan.sample.main, *arguments).exit_code == 0
    assert {file.name: file.read_bytes() for file in (tmp_path / "s").iterdir()} == whole


def test_classes_can_be_chosen(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "some.npz"
    chosen = call(gan.sample.main, exported, "--format", "npz", "--count", 400, "--classes", "7,2-4", "--out", out)
    assert chosen.exit_code == 0, chosen.output
    counts = np.bincount(np.load(out)["labels"], minlength=10)
    assert set(np.flatnonzero(counts)) == {2, 3, 4, 7}
    assert scipy.stats.chisquare(counts[[2, 3, 4, 7]]).pvalue > 0.01
    for text, message in (
        ("9-12", "0 to 9 accepted"),
        ("3,99", "99 found"),
        ("3,9-5", "9-5 found"),
        ("cat", "no class 'cat'"),
        ("", "no class ''"),
    ):
        refused(call(gan.sample.main, exported, "--classes", text, "--out", tmp_path / "x"), message)
    refused(call(gan.sample.main, exported, "--format", "npz", "--out", out), "is there already")
    assert not (tmp_path / "x").exists()


NUMBERED = tuple(sorted(map(str, range(12))))  # 0, 1, 10, 11, 2, ...
SPANS = ("0-2", "3-5", "6-9", "10-99")


@pytest.mark.parametrize(
    ("names", "text", "labels"),
    [
        (NUMBERED, "0-1", (0, 1)),
        (NUMBERED, "label:2,name:2", (2, 4)),
        (NUMBERED, "label:2-4,name:0", (2, 3, 4, 0)),
        (NUMBERED, "2", "2 found; 2 is label 2 ('10') and the name of label 4; accepted: label:2 or name:2"),
        (NUMBERED, "2-2", "2-2 found; 2 is label 2 ('10') and the name of label 4; accepted: label:2-2 or name:2"),
        (NUMBERED, "0-11", "0-11 found; 11 is label 11 ('9') and the name of label 3"),
        (NUMBERED, "label:12", "label:12 found; 0 to 11 accepted"),
        (NUMBERED, "name:12", "no class '12'"),
        (SPANS, "0-2", "0-2 found; 0-2 is labels 0-2 and the name of label 0; accepted: label:0-2 or name:0-2"),
        (SPANS, "6-9,name:0-2", (2, 0)),
        (("2010", "2011"), "2011,0", (1, 0)),
        (("000", "001", "002"), "001,2", (1, 2)),
        (("cat", "name:dog"), "name:dog,name:cat", (1, 0)),
    ],
)
def test_a_number_is_a_label_unless_it_names_another(names: tuple[str, ...], text: str, labels: object) -> None:
    generator = SimpleNamespace(num_classes=len(names), class_names=names)
    if isinstance(labels, tuple):
        assert parse_classes(text, generator) == labels
    else:
        with pytest.raises(UserError, match=f"^--classes: {re.escape(str(labels))}"):
            parse_classes(text, generator)


def test_an_archive_names_all_classes_also_where_some_have_no_image(tmp_path: Path) -> None:
    names = tuple(f"kind {number}" for number in range(10))
    generator = untrained("generator.width=4", classes=10)
    generator.class_names = names
    save_npz(generator, tmp_path / "some.npz", 20, Draw(classes=(0, 3), seed=0, truncation=None, batch_size=20))
    found = open_set(str(tmp_path / "some.npz"), 32, None, CPU, False, tmp_path / "cache")
    assert found.class_names == names and set(found.labels.tolist()) == {0, 3}
    config = load_config(DEFAULT, ["data.source=npz", f"data.path={tmp_path / 'some.npz'}", "conditional=true"])
    assert image_facts(config).num_classes == 10
    save_npz(untrained("generator.width=4"), tmp_path / "none.npz", 4, Draw(None, 0, None, 4))
    with np.load(tmp_path / "none.npz") as archive:
        assert archive.files == ["images"]


def test_a_film_is_written_frame_by_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = untrained("generator.width=4")
    ends = torch.randn(3, generator.latent_dim, generator=torch.Generator().manual_seed(0))
    frames = pictures._frames
    alive: list[weakref.ref] = []
    most = 0

    def counted(*arguments: object) -> Iterator[Image.Image]:
        nonlocal most
        for frame in frames(*arguments):
            alive.append(weakref.ref(frame))
            most = max(most, sum(reference() is not None for reference in alive))
            yield frame

    monkeypatch.setattr(pictures, "_frames", counted)
    save_interpolation(generator, ends, None, 8, tmp_path / "film.gif", batch_size=5)
    assert len(alive) == 24 and most <= 4  # the first, and those that the generators and Pillow have at hand
    first, *others = frames(generator, interpolated_latents(ends, 8), None, 5)
    first.save(tmp_path / "whole.gif", save_all=True, append_images=others, duration=50, loop=0)
    assert (tmp_path / "film.gif").read_bytes() == (tmp_path / "whole.gif").read_bytes()


def test_pictures(exported: Path, tmp_path: Path) -> None:
    for fmt, options in {
        "grid": ["--count", 5],
        "classes": ["--count", 3, "--classes", "1,8"],
        "interpolation": ["--count", 3, "--frames", 4, "--classes", "2"],
    }.items():
        result = call(gan.sample.main, exported, "--format", fmt, "--out", tmp_path, *options)
        assert result.exit_code == 0, result.output
    generator = gan.load(exported)
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    rows, names = grid[:, -65:], grid[:, :-65]
    assert grid.shape[0] == 4 * 33 - 1 and names.shape[1] > 10  # at most 2⌊√5⌋ classes, at even distances
    drawn = to_uint8(generator(next(generator.batches(5, seed=3)).latents, torch.tensor([0, 0, 2, 5, 7])))
    white = torch.full_like(drawn[0], 255)
    cells = torch.stack([drawn[0], drawn[1], drawn[2], white, drawn[3], white, drawn[4], white])
    assert alike(torch.from_numpy(rows.copy()), tile(cells, 2)[0])
    assert all(names[33 * row : 33 * row + 32].min() < 100 for row in range(4))  # something is written at each
    rows = np.asarray(Image.open(tmp_path / "classes.png"))[:, -98:]
    latents = next(generator.batches(3, seed=3)).latents
    eights = to_uint8(generator(latents, torch.full((3,), 8)))
    assert alike(torch.from_numpy(rows[33:].copy()), tile(eights, 3)[0])
    too_few = call(gan.sample.main, exported, "--count", 3, "--classes", "0-9", "--out", tmp_path / "x.png")
    refused(too_few, "--count 3", "10 classes")
    for name in ("x.png", "x.npz", "x"):
        frames = call(gan.sample.main, exported, "--count", 3, "--frames", 4, "--out", tmp_path / name)
        refused(frames, "--frames: given, but only an interpolation has them")
    with Image.open(tmp_path / "interpolation.gif") as film:
        frames = [(frame.size, frame.info["duration"]) for frame in ImageSequence.Iterator(film)]
    assert {size for size, _ in frames} == {(128, 128)}
    assert sum(duration for _, duration in frames) == 12 * 50  # equal frames are written as one
    with pytest.raises(UserError, match="unconditional"):
        class_rows(untrained("generator.width=4"), [0], 2)


def test_interpolation_goes_round_on_the_sphere() -> None:
    ends = torch.randn(3, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = ends / ends.norm(dim=1, keepdim=True) * 8
    found = interpolated_latents(ends, 10)
    assert found.shape == (30, 64)
    torch.testing.assert_close(found[::10], ends)
    torch.testing.assert_close(found.norm(dim=1), torch.full((30,), 8.0, dtype=torch.float64))
    steps = (torch.nn.functional.cosine_similarity(found, found.roll(-1, 0))).acos().view(3, 10)  # equal angles
    torch.testing.assert_close(steps, steps.mean(dim=1, keepdim=True).expand(3, 10), rtol=1e-6, atol=1e-6)
