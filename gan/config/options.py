"""An entry of a table of names, from its name and options, checked against its signature."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gan.errors import UserError, nearest

Built = TypeVar("Built")


def construct(
    registry: Mapping[str, Callable[..., Built]], key: str, name: str, options: Mapping[str, Any], **supplied: Any
) -> Built:
    """Call `registry[name]` with `options`, checked against its signature, and what the builder supplies.

    Raises:
        UserError: the name or an option is unknown, or an option has the wrong type or value; the key is named.
    """
    if name not in registry:
        raise UserError(f"{key}.name: no {name!r}{nearest(name, registry)}")
    parameters = inspect.signature(registry[name]).parameters
    accepted = [parameter for parameter in parameters if parameter not in supplied]
    for option, value in options.items():
        if option not in accepted:
            without = f"; --set {key}.options={{}} leaves out those of the config"
            raise UserError(f"{key}.options.{option}: {name} has no such option{nearest(option, accepted)}{without}")
        _check_type(f"{key}.options.{option}", value, parameters[option].annotation)
    try:
        return registry[name](**supplied, **options)
    except (
        ValueError
    ) as error:  # "option: X found, …": options have `options.` before their name, what is supplied has not.
        place = key if str(error).partition(":")[0] in supplied else f"{key}.options"
        raise UserError(f"{place}.{error}") from error


def _check_type(key: str, value: Any, annotation: Any) -> None:
    try:
        TypeAdapter(annotation, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"]
        raise UserError(f"{key}: {value!r} found; {message[0].lower()}{message[1:]}") from error
