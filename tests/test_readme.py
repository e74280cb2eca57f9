"""What the README and the pages of commands show is there, and works."""

import inspect
import math
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from gan import build
from gan.commands.launch import launch
from gan.commands.line.train import DEFAULT_CONFIG
from gan.config import Config, load_config
from gan.models.heads import HEADS
from gan.training.tracking import LOG, read_log
from tests import ROOT

PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/command.md", "docs/map.md")}
TEXT = PAGES["README.md"]
TRAIN = re.compile(r"(?:^\s*|\| )`?(python train\.py(?: [^`\n]*?)?)(?:`|\.?$)", re.MULTILINE)
COMMANDS = [shlex.split(line.partition(" #")[0]) for page in PAGES.values() for line in TRAIN.findall(page)]


def load(command: list[str], *overrides: str) -> Config:
    config = command[2] if len(command) > 2 and command[2].endswith(".yaml") else f"configs/{DEFAULT_CONFIG}.yaml"
    return load_config(ROOT / config, [value for flag, value in pairwise(command) if flag == "--set"] + [*overrides])


def test_the_readme_is_short_and_begins_with_the_picture() -> None:
    lines = TEXT.splitlines()
    assert len(lines) <= 170
    assert any("samples.png" in line for line in lines[:6])


@pytest.mark.parametrize("page", PAGES)
def test_files_and_links_exist(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", PAGES[page]) if not link.startswith("http")]
    assert links or page != "README.md"
    for link in links:
        assert ((ROOT / page).parent / link).exists(), link


def test_the_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\(docs/(\w+\.md)\)", TEXT))
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_training_command_has_a_config_that_accepts_it(command: list[str]) -> None:
    config = load(command)
    if config.data.source == "digits" and config.discriminator.head.name in HEADS:
        build.build_game(config, build.image_facts(config), torch.device("cpu"))


def test_every_head_is_listed_with_its_labels_and_options() -> None:
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \| (ignored|optional|required) \|(.*)\|$", TEXT, re.MULTILINE)
    listed = {name: (labels, set(re.findall(r"`(\w+)`", options))) for name, labels, options in reversed(rows)}
    given = {"self", "in_features", "num_classes"}
    assert listed == {
        name: (head.labels, set(inspect.signature(head).parameters) - given) for name, head in HEADS.items()
    }


def test_every_row_of_one_head_says_the_same_of_labels() -> None:
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \| (\w+) \|", TEXT, re.MULTILINE)
    assert {(name, labels) for name, labels in rows} == {(name, head.labels) for name, head in HEADS.items()}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_head_of_two_steps_trains(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGES["docs/map.md"], re.DOTALL)
    code = "\n".join(line.removeprefix("   ") for line in block.splitlines())
    names: dict = {}
    exec(code, names)
    monkeypatch.setitem(HEADS, "mean_and_norm", names["MeanAndNorm"])
    (command,) = [command for command in COMMANDS if "discriminator.head.name=mean_and_norm" in command]
    small = ["training.steps=2", "logging.scalars_every=2", "training.batch_size=4", "evaluation.at_end=false"]
    small += [f"training.precision={precision}", f"data.root={tmp_path / 'data'}"]
    small += ["generator={name: dcgan, width: 8, latent_dim: 8}", "discriminator.backbone={name: dcgan, width: 8}"]
    config = load(command, *small)
    assert launch(config, torch.device("cpu"), tmp_path / "run", "the command")
    (line,) = read_log(tmp_path / "run" / LOG)
    for stage in (1, 2):
        assert math.isfinite(line[f"scores/margin/stage_{stage}"]) and f"stages/auc/stage_{stage}" in line
