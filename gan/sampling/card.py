"""The model card of an export: what the generator is, how it was measured, and how it is loaded."""

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gan.config import Config, dump_yaml
from gan.errors import UserError
from gan.metrics.results import Result, label, measured
from gan.metrics.table import METRICS
from gan.sampling.generate import Description

TASK = "unconditional-image-generation"
REGISTERED = ("cifar10", "cifar100")  # 32 × 32 like the images, and known to torch-fidelity by name


def model_card(description: Description, config: Config, fmt: str, name: str) -> str:
    """Markdown; for `huggingface` with the YAML front matter that the Hub reads.

    Args:
        description, config: of the generator.
        fmt: of `gan.sampling.export.FORMATS`.
        name: of the exported folder.
    """
    results = [result for values in description.evaluations if (result := read_result(values))]
    size = f"{description.resolution}×{description.resolution}"
    title = f"# {plain(description.architecture)} {size}, {plain(config.data.source)}"
    parts = [title, "![samples](samples.png)", _samples(description), _table(_facts(description, config))]
    parts += ["## Scores", *map(_scores, results)] if results else ["## Scores", "None measured at this step."]
    parts += ["## How to load it", _usage(description, config.data.source, fmt, name)]
    text = "\n\n".join(parts) + "\n"
    return _front_matter(description, config, results) + text if fmt == "huggingface" else text


def plain(value: object) -> str:
    """`value` as text that Markdown shows as it is, in one line: from a file it may be markup, HTML or a script."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in str(value)).split())
    return re.sub(r"([\\`*\[\]|~])", r"\\\1", html.escape(line, quote=False))


def read_result(values: Mapping[str, Any]) -> Result | None:
    """A saved result; None where it is damaged, or of a version whose protocol said less."""
    try:
        return Result.from_dict(values)
    except (UserError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _facts(description: Description, config: Config) -> dict[str, object]:
    head = config.discriminator.head
    stages = head.options.get("stages")
    classes = f"{description.num_classes} classes" if description.num_classes else "unconditional"
    return {
        "generator": f"{description.architecture}, width {config.generator.width}, {classes}",
        "parameters": f"{description.parameters:,}",
        "images": f"{description.channels} × {description.resolution} × {description.resolution}, values in [−1, 1]",
        "latents": f"{description.latent_dim}, independent normal",
        "trained on": f"{config.data.source} {_images(config)}",
        "trained with": f"{config.discriminator.backbone.name} backbone, {head.name} head"
        + (f" of {stages} stages" if stages else "")
        + f", {config.objective.loss.name} loss, batch {config.training.batch_size}",
        "step": f"{description.step:,} of {config.training.steps:,}",
        "weights": ("exponential moving average" if description.weights == "ema" else "raw")
        + (", rounded to float16 after they were scored" if description.of_halves else ""),
        "seed of the run": config.seed,
        "SHA-256 of the state": description.digest,
        "licence": description.licence if description.licence != "unknown" else "not stated",
    }


def _images(config: Config) -> str:
    data = config.data
    path = f" ({Path(data.path).name})" if data.path else ""
    chosen = f", classes {data.classes}" if data.classes is not None else ""
    limited = f", {data.images_per_class} images a class" if data.images_per_class else ""
    return f"{data.split}{path}{chosen}{limited}"


def _samples(description: Description) -> str:
    rows = "one class a row, one latent a column" if description.num_classes else "not chosen"
    return f"Samples of seed 0, {rows}, no truncation."


def _scores(result: Result) -> str:
    """One measurement: its numbers, then all that they depend on."""
    protocol = result.protocol
    lines = ["| score | value | 95 % interval |", "|---|---|---|"]
    for metric in measured(result):
        keys = METRICS[metric].keys
        values = " / ".join(f"{result.metrics[key]:.5g}" for key in keys)
        spans = [result.intervals[key] for key in keys if key in result.intervals]
        intervals = " / ".join(f"{low:.5g} to {high:.5g}" for low, high in spans) or "–"
        lines.append(f"| {plain(label(metric, protocol))} ({' / '.join(keys)}) | {values} | {intervals} |")
    reference = protocol.reference
    how = {
        "generated images": f"{protocol.generated_count:,}, seed {protocol.seed}, {protocol.weights} weights",
        "labels": protocol.label_sampling,
        "reference": f"{reference.name} {reference.split}, {reference.count:,} images, {reference.content_hash[:16]}",
        "extractor": f"{protocol.extractor}, {protocol.extractor_weights[:16]}, {protocol.dtype}",
        "resize": protocol.resize,
        "versions": ", ".join(f"{name} {version}" for name, version in protocol.versions.items()),
    }
    return "\n".join(lines) + "\n\n" + _table(how) + "\n\nThe whole protocol is in config.json."


def _table(rows: Mapping[str, object]) -> str:
    cells = (f"| {key} | {plain(value)} |" for key, value in rows.items())
    return "\n".join(["| | |", "|---|---|", *cells])


def _usage(description: Description, source: str, fmt: str, name: str) -> str:
    size, classes = description.latent_dim, description.num_classes
    if fmt == "onnx":
        labels = ', "labels": np.arange(16) % ' + str(classes) if classes else ""
        lines = [
            "import numpy as np, onnxruntime",
            'session = onnxruntime.InferenceSession("generator.onnx")',
            f'(images,) = session.run(None, {{"latents": np.random.randn(16, {size}).astype("float32"){labels}}})',
        ]
        return _code(lines) + "\n\nImages are float32 in [−1, 1]. It takes any number of latents."
    if fmt == "torchscript":
        labels = f", torch.arange(16) % {classes}" if classes else ""
        lines = [
            "import torch",
            'generator = torch.jit.load("generator.pth")',
            f"images = generator(torch.randn(16, {size}){labels})",
        ]
        sized = size + 1 if classes else size
        real = f"{source}-train" if source in REGISTERED else "FOLDER_OF_REAL_IMAGES"
        command = (
            f"fidelity --input1 generator.pth --input1-model-z-type normal --input1-model-z-size {sized} "
            f"--input1-model-num-samples 50000 --input2 {real} --fid"
        )
        more = (
            f"\n\nWithout labels it takes latents of {sized} numbers: the last one chooses the class."
            if classes
            else ""
        )
        return (
            _code(lines) + "\n\nImages are uint8 RGB; `generator.images` gives floats in [−1, 1]." + more
            + "\n\ntorch-fidelity scores the file:\n\n" + _code([command], "")
        )  # fmt: skip
    folder = json.dumps(name, ensure_ascii=False)
    first = "import gan"
    if fmt == "huggingface":
        first = "import gan, huggingface_hub"
        folder = f"huggingface_hub.snapshot_download({json.dumps(f'USER/{name}', ensure_ascii=False)})"
    lines = [first, "", f"generator = gan.load({folder})", "images = generator.sample(16, seed=0)"]
    return (
        _code(lines) + "\n\n`gan` is the code that it was trained by, installed by `pip install .` in a clone of its "
        "repository; images are uint8 (16, C, H, W). Without it: "
        "model.safetensors is a plain state dict, and config.yaml says of which network. Nothing in it is executed."
    )


def _code(lines: list[str], language: str = "python") -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _front_matter(description: Description, config: Config, results: list[Result]) -> str:
    """https://huggingface.co/docs/hub/model-cards: licence, task and, where there are any, scores."""
    values: dict[str, Any] = {
        "license": description.licence,
        "library_name": "pytorch",
        "pipeline_tag": TASK,
        "tags": ["gan", description.architecture, config.discriminator.head.name],
    }
    if results:
        entries = [
            {
                "task": {"type": TASK},
                "dataset": {
                    "name": f"{r.protocol.reference.name} {r.protocol.reference.split}",
                    "type": config.data.source,
                },
                "metrics": [
                    {"type": METRICS[m].keys[0], "name": label(m, r.protocol), "value": r.metrics[METRICS[m].keys[0]]}
                    for m in measured(r)
                ],
            }
            for r in results
        ]
        values["model-index"] = [{"name": description.run, "results": entries}]
    return f"---\n{dump_yaml(values)}---\n\n"
