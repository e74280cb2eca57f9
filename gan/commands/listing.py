"""What there is by name, read from the code itself: `gan list`."""

import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import yaml

from gan.config import config_folder, config_names
from gan.data.sources import SOURCES
from gan.errors import UserError, nearest
from gan.metrics.table import METRICS
from gan.models import BACKBONES, GENERATORS
from gan.models.attention import ATTENTION
from gan.models.heads import HEADS
from gan.objectives import REGULARIZERS
from gan.objectives.losses import LOSSES

WIDTH = 110
# What a builder supplies from elsewhere in a config or from the images, and an option is not.
SUPPLIED = {
    "in_features", "num_classes", "resolution", "channels", "width", "latent_dim", "attention", "height", "heads",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A name, what it means in one line, and its options as they are written in a config."""

    name: str
    meaning: str
    options: Mapping[str, str] = field(default_factory=dict)


def listing(kind: str) -> str:
    """A paragraph for every name of a kind.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(f"KIND: no {kind!r}{nearest(kind, KINDS)}")
    return "\n".join(_paragraph(entry) for entry in KINDS[kind]())


def _paragraph(entry: Entry) -> str:
    lines = [f"{entry.name}: {entry.meaning}"]
    if entry.options:
        shown = ", ".join(f"{name}={value}" if value else name for name, value in entry.options.items())
        lines += textwrap.wrap(f"options: {shown}", WIDTH, initial_indent="    ", subsequent_indent="      ")
    return "\n".join(lines)


def _callables(registry: Mapping[str, Callable[..., Any]]) -> Iterable[Entry]:
    return (Entry(name, meaning(made), options(made)) for name, made in registry.items())


def _networks(registry: Mapping[str, Callable[..., Any]]) -> Iterable[Entry]:
    """A network's class says what goes in and out; the first paragraph of its module, which network it is."""
    for name, made in registry.items():
        paragraph = (inspect.getdoc(inspect.getmodule(made)) or "").partition("\n\n")[0]
        yield Entry(name, " ".join(paragraph.split()), options(made))


def _heads() -> Iterable[Entry]:
    for name, head in HEADS.items():
        yield Entry(name, f"{meaning(head)} Labels: {head.labels}.", options(head))


def _metrics() -> Iterable[Entry]:
    for name, metric in METRICS.items():
        yield Entry(name, metric.meaning, {key: str(value) for key, value in metric.options.items()})


def _sources() -> Iterable[Entry]:
    for name, source in SOURCES.items():
        recipe, info = source.recipe, source.info
        about = "What `gan prepare` wrote, opened where it lies." if recipe is None else meaning(recipe)
        splits = f" Splits: {', '.join(info.splits)}." if info.splits else ""
        defaults = {} if recipe is None else options(recipe)
        taken = {f"data.{key}": "" if key in info.required else defaults.get(key, "null") for key in info.options}
        yield Entry(name, about + splits, taken)


def _configs() -> Iterable[Entry]:
    for name in config_names():
        lines = (config_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        comment = " ".join(line.removeprefix("#").strip() for line in _leading_comment(lines))
        yield Entry(name, _sentence(comment))


def _leading_comment(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        if not line.startswith("#"):
            return
        yield line


def _sentence(text: str) -> str:
    """The first sentence: to a full stop before a capital letter."""
    for end in range(len(text) - 2):
        if text[end : end + 2] == ". " and text[end + 2].isupper() and text[max(0, end - 2) : end] != "al":
            return text[: end + 1]
    return text


def meaning(made: Callable[..., Any]) -> str:
    """The first line of a docstring."""
    return _first_line(made.func if isinstance(made, partial) else made)


def _first_line(described: object) -> str:
    return (inspect.getdoc(described) or "").partition("\n")[0]


def options(made: Callable[..., Any]) -> dict[str, str]:
    """The keyword arguments that a config may give, with their defaults in YAML; "" where there is none."""
    parameters = inspect.signature(made).parameters
    return {
        name: "" if parameter.default is parameter.empty else _yaml(parameter.default)
        for name, parameter in parameters.items()
        if name not in SUPPLIED and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def _yaml(value: object) -> str:
    value = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()


KINDS: dict[str, Callable[[], Iterable[Entry]]] = {
    "heads": _heads,
    "losses": partial(_callables, LOSSES),
    "backbones": partial(_networks, BACKBONES),
    "generators": partial(_networks, GENERATORS),
    "attention": partial(_callables, ATTENTION),
    "regularizers": partial(_callables, REGULARIZERS),
    "metrics": _metrics,
    "sources": _sources,
    "configs": _configs,
}
