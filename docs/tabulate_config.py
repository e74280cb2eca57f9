"""Every key of a run's config and every source of images, as docs/configuration.md: `python docs/tabulate_config.py`.

Names, defaults and meanings are read from gan/config/schema.py, where the comment beside a field says what it means.
"""

import inspect
import re
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gan.config import schema
from gan.data.sources import SOURCES

PAGE = ROOT / "docs" / "configuration.md"
HEAD = """# The config of a run

Made by `python docs/tabulate_config.py` from `gan/config/schema.py`. Any key can be set on the command line as
`--set section.key=value`, where the value is YAML 1.2 (`010` is ten, `yes` a text); `--dry-run` prints the whole config
with every default. Names of generators, backbones and attention are in [models.md](models.md) and
[attention.md](attention.md), of heads in [cascading_rejection.md](cascading_rejection.md), of losses, regularisers and
augmentation in [objectives.md](objectives.md), of extractors in [evaluation.md](evaluation.md).
"""
SECTIONS: dict[str, type[schema.Section]] = {
    "": schema.Config,
    "data": schema.DataConfig,
    "generator": schema.GeneratorConfig,
    "discriminator": schema.DiscriminatorConfig,
    "discriminator.backbone": schema.BackboneConfig,
    "discriminator.head": schema.HeadConfig,
    "generator.attention, discriminator.backbone.attention": schema.AttentionConfig,
    "objective": schema.ObjectiveConfig,
    "objective.loss": schema.LossConfig,
    "objective.top_k": schema.TopKConfig,
    "objective.regularizers.NAME": schema.RegularizerConfig,
    "augmentation": schema.AugmentationConfig,
    "optimizer": schema.OptimizerConfig,
    "training": schema.TrainingConfig,
    "ema": schema.EmaConfig,
    "schedules.KEY": schema.MotionConfig,
    "logging": schema.LoggingConfig,
    "checkpoint": schema.CheckpointConfig,
    "evaluation": schema.EvaluationConfig,
}
FIELD = re.compile(r"^    (\w+): (.+?)(?:  # (.+))?$")


def rows(section: type[schema.Section]) -> list[str]:
    """One row a field that is no section itself, in the order of the source."""
    found, above = [], []
    for line in inspect.getsource(section).splitlines():
        if line.startswith("    # "):
            above.append(line.removeprefix("    # "))
            continue
        field = FIELD.match(line)
        if field and field[1] in section.model_fields and "Config" not in field[2].partition("=")[0]:
            about = section.model_fields[field[1]]
            default = "required" if about.is_required() else f"`{shown(about.default)}`"
            meaning = "; ".join(filter(None, [" ".join(above) or field[3], choices(about.annotation)]))
            found.append(f"| `{field[1]}` | {default} | {meaning} |")
        above = []
    return found


def choices(annotation: Any) -> str:
    """The values that a field takes, where its type lists them."""
    return ", ".join(f"`{value}`" for value in get_args(annotation)) if get_origin(annotation) is Literal else ""


def shown(value: object) -> str:
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value).replace("'", "")


def sources() -> list[str]:
    found = [
        "## Sources of images: `data.source`",
        "",
        "| name | splits | own keys | downloaded |",
        "|---|---|---|---|",
    ]
    for name, source in SOURCES.items():
        info = source.info
        own = [key for key in info.options if key in schema.DataConfig.model_fields]
        keys = ", ".join(f"`{key}`" + (" (required)" if key in info.required else "") for key in own)
        found.append(f"| `{name}` | {', '.join(info.splits)} | {keys} | {'by torchvision' if info.downloads else ''} |")
    return found


def page() -> str:
    parts = [HEAD]
    for name, section in SECTIONS.items():
        title = f"## `{name}`" if name else "## Top level"
        about = inspect.getdoc(section) or ""
        parts.append("\n".join([title, "", about, "", "| key | default | meaning |", "|---|---|---|", *rows(section)]))
    return "\n\n".join(part.rstrip() for part in [*parts, "\n".join(sources())]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
