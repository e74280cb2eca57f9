"""An entry of a table of names, from its name and options, checked against its signature."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gan.errors import UserError, nearest

Built = TypeVar("Built")
Entry = TypeVar("Entry")


def look_up(registry: Mapping[str, Entry], key: str, name: str) -> Entry:
    """`registry[name]`.

    Raises:
        UserError: there is no such entry; the key and the nearest name are given.
    """
    if name not in registry:
        raise UserError(f"{key}.name: no {name!r}{nearest(name, registry)}")
    return registry[name]


def construct(
    registry: Mapping[str, Callable[..., Built]], key: str, name: str, options: Mapping[str, Any], **supplied: Any
) -> Built:
    """Call `registry[name]` with `options`, checked against its signature, and what the builder supplies.

    Raises:
        UserError: the name or an option is unknown, or an option has the wrong type or value; the key is named.
    """
    entry = look_up(registry, key, name)
    parameters = inspect.signature(entry).parameters
    accepted = [parameter for parameter in parameters if parameter not in supplied]
    for option, value in options.items():
        if option not in accepted:
            without = f"; --set {key}.options={{}} leaves out those of the config"
            raise UserError(f"{key}.options.{option}: {name} has no such option{nearest(option, accepted)}{without}")
        _check_type(f"{key}.options.{option}", value, parameters[option].annotation)
    try:
        return entry(**supplied, **options)
    except ValueError as error:  # "option: X found, … accepted"; what is supplied is no option of the config.
        place = key if str(error).partition(":")[0] in supplied else f"{key}.options"
        raise UserError(f"{place}.{error}") from error


def _check_type(key: str, value: Any, annotation: Any) -> None:
    try:
        TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"]
        raise UserError(f"{key}: {value!r} found; {message[0].lower()}{message[1:]}") from error
