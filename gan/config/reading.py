"""From a YAML file and overrides `section.key=value`, whose values are YAML too, to a checked config."""

from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from gan.config.core_schema import parse_yaml
from gan.config.schema import Checked, Config, Section
from gan.errors import UserError, nearest

_ACCEPTED = {  # These stand in for messages in which pydantic speaks of its own classes.
    "model_type": "accepted: a mapping of keys to values",
    "too_short": "accepted: at least {min_length}",
    "too_long": "accepted: at most {max_length}",
}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read the config of a run and apply overrides `a.b=value`.

    Raises:
        UserError: the file cannot be read or parsed, or a key or value is not accepted.
    """
    return validate(load_tree(path, overrides))


def load_tree(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a config file and apply overrides `a.b=value`; nothing is checked but that it is a mapping.

    Raises:
        UserError: the file cannot be read or parsed, or is no mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a UTF-8 text file"
        raise UserError(f"config {path}: {reason}") from error
    tree = parse_yaml(text, f"config {path}")
    if not isinstance(tree, dict):
        raise UserError(f"config {path}: {type(tree).__name__} found, a mapping of sections accepted")
    for override in overrides:
        apply_override(tree, override)
    return tree


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` in a parsed config. A name alone may stand for a section that has one."""
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"--set {override}: accepted form is section.key=value")
    value = parse_yaml(text, f"--set {name}")
    for depth, key in enumerate(keys[:-1]):
        child = tree.setdefault(key, {})
        if isinstance(child, str) and keys[depth + 1] in ("name", "options"):
            child = tree[key] = {"name": child}
        if not isinstance(child, dict):
            raise UserError(
                f"--set {name}: {'.'.join(keys[: depth + 1])} is a value, it has no key '{keys[depth + 1]}'"
            )
        tree = child
    tree[keys[-1]] = value


def validate(tree: dict[str, Any]) -> Config:
    """Check a parsed config against the schema of a run; the first mistake is raised as a UserError."""
    if "task" in tree:
        raise UserError(
            f"task: {tree['task']!r} found; a run's config has none, comparison and frozen_stages are for "
            "`gan compare`, classification for `gan train`"
        )
    return check(Config, tree)


def check(schema: type[Checked], tree: dict[str, Any]) -> Checked:
    """Check a parsed config against a schema; the first mistake is raised as a UserError."""
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        raise UserError(_explain(schema, error)) from error


def _explain(schema: type[Section], error: ValidationError) -> str:
    """The first mistake in one line: key, what was found, what is accepted."""
    # An unknown key is often a misspelt one that is required, so it is named rather than the one that is missing.
    details = min(error.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden")
    location = [str(part) for part in details["loc"] if "[" not in str(part)]  # A member of a union is no key.
    key = ".".join(location)
    if details["type"] == "extra_forbidden":
        accepted = _accepted_keys(schema, location[:-1])
        prefix = "".join(f"{part}." for part in location[:-1])
        return f"{key}: unknown key{nearest(key, [prefix + name for name in accepted])}"
    if details["type"] == "missing":
        return f"{key}: missing, a value is required"
    if not key:
        return details["msg"].removeprefix("Value error, ")
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "value_error":
        return f"{key}: {message}"
    found = repr(details["input"])
    found = found if len(found) <= 60 else found[:57] + "..."
    if details["type"] in _ACCEPTED:
        message = _ACCEPTED[details["type"]].format(**details.get("ctx", {}))
    return f"{key}: {found} found; {message[0].lower()}{message[1:]}"


def _accepted_keys(section: Any, location: Sequence[str]) -> list[str]:
    """The keys of what lies at `location` below `section`; none where any are accepted."""
    for part in location:
        is_mapping = get_origin(section) is dict  # It has sections under any name.
        section = get_args(section)[1] if is_mapping else section.model_fields[part].annotation
        if isinstance(section, UnionType):  # It is a section or null.
            section = get_args(section)[0]
    return list(section.model_fields)
