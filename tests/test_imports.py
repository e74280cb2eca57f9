"""The floors of the house: imports go down, and every module imports."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

# A module may import its own room, and any room on a lower floor; rooms of one floor do not know each other.
FLOORS = {
    "gan.errors": -1,
    "gan.seeds": 0, "gan.allocator": 0, "gan.processes": 0, "gan.progress": 0, "gan.pictures": 0,
    "gan.files": 1, "gan.device": 1, "gan.distributed": 1,
    "gan.models": 2, "gan.objectives": 2, "gan.data": 2, "gan.metrics": 2, "gan.config": 2,
    "gan.training": 3,
    "gan.build": 4,
    "gan.sampling": 5,
    "gan.scoring": 6,
    "gan.commands": 7,
    "gan.experiments": 7,
    "gan.commands.line": 8, "gan.commands.main": 8,
    "train": 9, "evaluate": 9, "compare": 9, "gan.__main__": 9,
    "gan.export": 9, "gan.sample": 9, "gan.data.__main__": 9,
}  # fmt: skip
SCRIPTS = ("train", "evaluate", "compare")
FILES = [*sorted((ROOT / "gan").rglob("*.py")), *(ROOT / f"{script}.py" for script in SCRIPTS)]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    fitting = [name for name in FLOORS if module == name or module.startswith(name + ".")]
    assert fitting, f"{module} has no floor: add it to FLOORS"
    return max(fitting, key=len)


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "gan"}
    return {name for name in names if name.split(".")[0] in ("gan", *SCRIPTS) and name != "gan"}


@pytest.mark.parametrize("path", [path for path in FILES if path != ROOT / "gan" / "__init__.py"], ids=module_name)
def test_imports_go_down(path: Path) -> None:
    own = room(module_name(path))
    for name in imported(path):
        other = room(name)
        allowed = other == own or FLOORS[other] < FLOORS[own]
        assert allowed, f"{module_name(path)} (floor {FLOORS[own]}) imports {name} (floor {FLOORS[other]})"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_every_module_imports(path: Path) -> None:
    assert importlib.import_module(module_name(path))


def test_a_dry_run_waits_for_no_library_it_does_not_use() -> None:
    code = "import sys, gan.commands.estimates; print({'torchvision', 'sklearn', 'torch_fidelity'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == "set()"
