"""YAML read and written as version 1.2's core schema has it: `010` is ten, `1:30` and `yes` are texts, 2e-4 a number.

PyYAML knows version 1.1, where they are 8, 90 and true. Tags, aliases, repeated keys and what is no text are refused.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from gan.errors import UserError

# Section 10.3.2 of the specification, https://yaml.org/spec/1.2.2/#1032-tag-resolution
_SCALARS = {
    "null": r"null|Null|NULL|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
_RESOLVERS = {None: [(f"tag:yaml.org,2002:{name}", re.compile(f"(?:{form})$")) for name, form in _SCALARS.items()]}
_DIGITS = 1000  # of a whole number
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # neither a path nor UTF-8 can hold these


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _RESOLVERS

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not accepted", problem_mark=event.start_mark)
        if getattr(event, "tag", None) not in (None, "!"):
            problem = f"tags are not accepted, {event.tag} found; a text is put in quotes"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is not a string", problem_mark=node.start_mark)
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"key '{key}' appears twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_text(self, node: yaml.ScalarNode) -> str:
        if found := _NO_TEXT.search(node.value):
            problem = f"character {found[0]!r} is not accepted in a text"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return str(node.value)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > _DIGITS:  # Python itself writes no number of more than 4,300
            problem = f"a number of {len(node.value):,} digits found, up to {_DIGITS} accepted"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return int(node.value, 0) if node.value[:2] in ("0o", "0x") else int(node.value)

    def construct_number(self, node: yaml.ScalarNode) -> float:
        return float(re.sub(r"\.(?=[in])", "", node.value.lower()))  # Python writes .inf and .nan without the dot


_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_text)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_number)


class _Dumper(yaml.SafeDumper):
    """Quotes each text that either version of YAML would read as something else."""


_Dumper.yaml_implicit_resolvers = {
    start: [*yaml.SafeDumper.yaml_implicit_resolvers.get(start, []), *_RESOLVERS[None]]
    for start in [*yaml.SafeDumper.yaml_implicit_resolvers, *"-+.0123456789"]
}


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML.

    Raises:
        UserError: it is not valid; one line that starts with `where`.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not valid YAML: {problem}") from error


def dump_yaml(values: object) -> str:
    """Plain values as YAML, which every reader of either version reads alike."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
