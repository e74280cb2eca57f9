"""What TensorBoard shows of a run as a whole: its settings, its config, and which of its scalars share a chart."""

import json
from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import summary

from gan.models.heads import Head
from gan.training.run_directory import PLACES, flatten

UNSHOWN = ("logging.", "checkpoint.", "evaluation.")  # no hyperparameters; a score's tag says how it was measured
STAGE = "/stage_[0-9]+$"
Charts = dict[str, dict[str, list[Any]]]  # category → title → kind of chart, regular expressions of tags


def board_settings(config: Mapping[str, Any], text: str, head: Head) -> list[Summary]:
    """Hyperparameters for the tab HPARAMS, the charts of CUSTOM SCALARS, and the config as a text.

    No experiment is declared: TensorBoard takes the first run's for all, and without one it puts together what the
    runs have, those settings first in which they differ.

    Args:
        config: as nested mappings.
        text: the config as YAML.
    """
    _, start, _ = summary.hparams(hyperparameters(config), {})
    return [start, summary.custom_scalars(charts(head)), summary.text("config", f"```yaml\n{text}\n```")]


def hyperparameters(config: Mapping[str, Any]) -> dict[str, float | str]:
    """Settings that training depends on, keys joined by dots; numbers as such, all else as YAML has it."""
    shown = {key: value for key, value in flatten(config).items() if not key.startswith(UNSHOWN) and key not in PLACES}
    return {key: _plain(value) for key, value in shown.items() if value is not None}


def _plain(value: Any) -> float | str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return value if isinstance(value, str) else json.dumps(value)


def charts(head: Head) -> Charts:
    """One chart a quantity: with a line for each stage, for either player, or for each way in which stages are alike.

    The stages are not counted, so that runs of different heads share their charts.
    """
    players = {
        title: _lines(f"{group}/(generator|discriminator)$")
        for title, group in (("loss", "loss"), ("gradient norm", "gradient_norm"), ("learning rate", "learning_rate"))
    }
    if head.stages == 1:
        return {"players": players}
    names = ["scores/real", "scores/fake", "scores/margin", "stages/auc", "stages/accuracy"]
    names += ["stages/second_moment_gap", "stages/gradient_share", "stages/weight"]
    if hasattr(head, "all_residuals"):
        names += ["stages/removed_from_real", "stages/removed_from_fake"]
    alike = {
        "mean absolute likeness": _lines("stages/(score_correlation|correlation_within_(real|fake)|weight_cosine)$"),
        "effective number": _lines("stages/effective_number$"),
    }
    return {
        "stages": {_title(name): _lines(name + STAGE) for name in names},
        "likeness of stages": alike,
        "players": players,
    }


def _lines(tags: str) -> list[Any]:
    return ["Multiline", [tags]]


def _title(name: str) -> str:
    """ "scores: real", "removed from fake"."""
    return name.removeprefix("stages/").replace("/", ": ").replace("_", " ")
