"""What the README shows is there, and works."""

import inspect
import re
import shlex
from itertools import pairwise

import pytest
import torch

from gan import build
from gan.config import load_config
from gan.models.heads import HEADS
from gan.training.steps import discriminator_step
from tests import ROOT

TEXT = (ROOT / "README.md").read_text()
COMMANDS = [shlex.split(line) for line in re.findall(r"^\s*`?(python train\.py .*?)`?\.?$", TEXT, re.MULTILINE)]


def test_files_and_links_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if not link.startswith("http")]
    assert len(links) >= 4
    for link in links:
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_training_command_has_a_config_that_accepts_it(command: list[str]) -> None:
    config = command[2] if len(command) > 2 and command[2].endswith(".yaml") else "configs/digits/dcgan_cr.yaml"
    overrides = [value for flag, value in pairwise(command) if flag == "--set"]
    load_config(ROOT / config, overrides)


def test_every_head_is_listed_with_its_options() -> None:
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \|(.*)\|$", TEXT, re.MULTILINE)
    listed = {name: set(re.findall(r"`(\w+)`", options)) for name, options in reversed(rows)}
    given = {"self", "in_features", "num_classes"}
    assert listed == {name: set(inspect.signature(head).parameters) - given for name, head in HEADS.items()}


def test_the_head_of_two_steps_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    code = "\n".join(line.removeprefix("   ") for line in block.splitlines())
    names: dict = {}
    exec(code, names)
    monkeypatch.setitem(HEADS, "mean_and_norm", names["MeanAndNorm"])
    (command,) = [command for command in COMMANDS if "discriminator.head.name=mean_and_norm" in command]
    overrides = [value for flag, value in pairwise(command) if flag == "--set"]
    config = load_config(ROOT / command[2], overrides)
    game = build.build_game(config, build.image_facts(config), torch.device("cpu"))
    values, _ = discriminator_step(game, torch.zeros(4, 1, 32, 32), None, torch.randn(4, 64), None)
    assert values["scores/real"].shape == (2,)
    assert values["loss/discriminator"].isfinite()
