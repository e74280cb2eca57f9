"""A new backbone or loss is its own class and one line of its table: here each is added and plays."""

import inspect
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan.errors import UserError
from gan.models import BACKBONES, Backbone
from gan.objectives.losses import LOSSES, Loss
from tests import DEFAULT
from tests.test_choices import build, check, tiny


class PatchBackbone(Backbone):
    """One convolution, of patches of 4×4."""

    resolutions = (32,)

    def __init__(self, resolution: int, channels: int, width: int, *, slope: float = 0.2) -> None:
        super().__init__()
        self.slope = slope
        self.conv = nn.Conv2d(channels, width, 4, stride=4)
        self.out_features = width * (resolution // 4) ** 2

    def forward(self, images: Tensor) -> Tensor:
        return F.leaky_relu(self.conv(images), self.slope).flatten(1)


class MarginHinge(Loss):
    """max(0, m − D(x)) + max(0, m + D(G(z))); G: −D(G(z))."""

    def __init__(self, margin: float = 1.0) -> None:
        self.margin = margin

    def discriminator_loss(self, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
        return F.relu(self.margin - real_scores) + F.relu(self.margin + fake_scores)

    def generator_loss(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        return -fake_scores


PATCHES = ("discriminator.backbone.name=patches", "discriminator.backbone.options={slope: 0.1}")
MARGIN = ("objective.loss=margin_hinge", "objective.loss.options.margin=0.5")


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "patches", PatchBackbone)
    monkeypatch.setitem(LOSSES, "margin_hinge", MarginHinge)


def test_what_is_added_is_a_few_lines() -> None:
    assert all(len(inspect.getsource(addition).splitlines()) < 16 for addition in (PatchBackbone, MarginHinge))


def test_both_play_are_saved_and_resumed_with_the_options_of_a_config(tmp_path: Path) -> None:
    config = tiny(DEFAULT, *PATCHES, *MARGIN)
    check(config, tmp_path)
    game = build(config, "float32")
    assert isinstance(game.discriminator.backbone, PatchBackbone)
    assert game.discriminator.backbone.slope == 0.1
    scores = torch.zeros(2, 3)
    assert torch.equal(game.loss.discriminator_loss(scores, scores), torch.ones(2, 3))  # 2 m


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["objective.loss.options={margn: 1.0}"], "objective.loss.options.margn: margin_hinge has no such option; did"),
        (["objective.loss.options.margin=wide"], "objective.loss.options.margin: 'wide' found"),
        (["discriminator.backbone.options={slop: 0.1}"], "discriminator.backbone.options.slop: patches has no such"),
        (["data.resolution=64"], "data.resolution: 64 found, but discriminator.backbone 'patches' reaches 32"),
        (
            ["discriminator.backbone.attention={name: elu, resolutions: [8]}"],
            "discriminator.backbone.attention: 'patches' takes none",
        ),
    ],
)
def test_their_mistakes_are_one_line_like_all_others(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError) as error:
        build(tiny(DEFAULT, *PATCHES, *MARGIN, *overrides), "float32")
    assert words in str(error.value)
    assert "\n" not in str(error.value)
