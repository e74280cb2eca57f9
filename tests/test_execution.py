"""Updates that are captured once and replayed do what Python does, to the bit, and leave everything where it was."""

import inspect
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from gan.build import build_game, image_facts
from gan.config import load_config
from gan.errors import UserError
from gan.objectives.losses import Hinge
from gan.training.execution import CudaGraphs, Replayed
from gan.training.schedule import Schedule
from gan.training.state import load_optimizer
from gan.training.steps import Game, discriminator_step, generator_step
from tests import DEFAULT
from tests.tape import Tapes

CPU = torch.device("cpu")
DCGAN = ["generator.name=dcgan", "discriminator.backbone.name=dcgan"]
TINY = [
    "generator.width=8", "discriminator.backbone.width=8", "generator.latent_dim=8", "training.precision=float32",
    f"optimizer.generator_lr={2**-11}", f"optimizer.discriminator_lr={2**-10}",  # the same in float32 and float64
]  # fmt: skip
B, STEPS = 6, 12
AUGMENTED = "augmentation={operations: [color, translation, cutout], target: 0.6, images_to_full: 60}"
GAMES = {
    "sngan": [],
    "sngan in bfloat16": ["training.precision=bfloat16"],
    "conditional": [*DCGAN, "conditional=true", "discriminator.head.options={stages: 3, embeddings: shared}"],
    "adaptive augmentation": [*DCGAN, AUGMENTED],
    "transforms of ADA": [*DCGAN, "augmentation={operations: [ada_geometry, ada_color], probability: 0.8}"],
    "augmented fakes again": [*DCGAN, AUGMENTED, "objective.regularizers={latent_consistency: {weight: 0.1}}"],
    "lazy penalties": [
        *DCGAN,
        "objective.regularizers={r1: {weight: 0.1, interval: 2}, balanced_consistency: {weight: 0.1}}",
    ],
    "finite differences": [
        *DCGAN,
        "objective.regularizers={r1: {weight: 0.1, options: {method: finite_difference}}}",
    ],
    "running means": [*DCGAN, "objective.regularizers={lecam: {weight: 0.1}, contrastive: {weight: 0.1}}"],
    "moving moments": [*DCGAN, "discriminator.head.options={rejection: decorrelated}"],
    "directions": [*DCGAN, "discriminator.head={name: sliced_cascade}", "objective.stage_weights=learned"],
    "fewer samples": [*DCGAN, "objective.top_k={fraction: 0.5, decay: 0.6}", "objective.loss=relativistic"],
}
Iteration = dict[str, Tensor]


def make_game(*overrides: str) -> Game:
    config = load_config(DEFAULT, [*TINY, *overrides])
    return build_game(config, image_facts(config), CPU)


def captured_game(*overrides: str) -> tuple[Game, Tapes]:
    game, tapes = make_game("training.cuda_graphs=true", *overrides), Tapes()
    parameters = [parameter for part in networks(game) for parameter in part.parameters()]
    return replace(game, execution=Replayed(tapes, parameters, game.noise)), tapes


def networks(game: Game) -> list[torch.nn.Module]:
    return [game.generator, game.discriminator, game.stage_weights]


def played(game: Game, first: int = 0, last: int = STEPS) -> Iterator[Iteration]:
    """Iterations on batches that their numbers give, with learning rates that decay."""
    schedule = Schedule(STEPS, 1, "linear", 1, 1, 1, 1)
    optimizers = [game.generator_optimizer, game.discriminator_optimizer]
    conditional = game.discriminator.head.takes_labels
    for step in range(first, last):
        random = torch.Generator().manual_seed(step)
        images = torch.rand(B, 1, 32, 32, generator=random) * 2 - 1
        latents = torch.randn(2, B, 8, generator=random)
        labels = torch.randint(10, (2, B), generator=random) if conditional else (None, None)
        schedule.set_learning_rates(optimizers, 2 * (step // 2))  # rates that are the same in float32, too
        values, _ = discriminator_step(game, images, labels[0], latents[0], labels[1])
        yield {**values, **generator_step(game, latents[1], labels[1], images, labels[0])}


def weights(game: Game) -> dict[str, Any]:
    """All that a step has changed, gradients and moments included."""
    found: dict[str, Any] = {f"{index}": part.state_dict() for index, part in enumerate(networks(game))}
    for optimizer in (game.generator_optimizer, game.discriminator_optimizer):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        found[str(len(found))] = [(parameter.grad, optimizer.state[parameter]) for parameter in parameters]
    names = ("regularizers", "augmentation", "noise")
    return found | {name: getattr(game, name).state_dict() for name in names}


@pytest.mark.parametrize("name", GAMES)
def test_a_replayed_game_is_the_game(name: str) -> None:
    plain, (game, tapes) = make_game(*GAMES[name]), captured_game(*GAMES[name])
    for expected, found in zip(played(plain), played(game), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(weights(game), weights(plain), rtol=1e-6, atol=1e-7)
    assert tapes.replays >= 4 and len(tapes.tapes) >= 2


def test_what_a_discriminators_graph_has_left_outlives_the_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradients and what it saw are read after the generator's replay, which therefore has memory of its own."""
    pools: list[int] = []

    @contextmanager
    def graph(_: object, pool: int, **__: object) -> Iterator[None]:
        pools.append(pool)
        yield

    handles = count()
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Mock)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(handles))
    monkeypatch.setattr(torch.cuda, "graph", graph)
    graphs = CudaGraphs(torch.device("cuda", 0))
    for player in ("generator", "discriminator", "discriminator", "generator"):
        graphs.capture(player, lambda: None, [])
    assert pools[0] == pools[3] != pools[1] == pools[2]


def addresses(game: Game) -> list[int]:
    """Of parameters, gradients, buffers, moments and rates."""
    found = [tensor for part in (*networks(game), game.regularizers) for tensor in part.state_dict().values()]
    for optimizer in (game.generator_optimizer, game.discriminator_optimizer):
        found += [value for moments in optimizer.state.values() for value in moments.values()]
        found += [group["lr"] for group in optimizer.param_groups]
    found += [parameter.grad for part in networks(game) for parameter in part.parameters()]
    return [tensor.data_ptr() for tensor in found if tensor is not None]


def test_everything_stays_where_it_is() -> None:
    game, _ = captured_game(*GAMES["running means"])
    seen = [addresses(game) for _ in played(game)]
    assert len(seen[-1]) > 60 and seen[4:] == [seen[4]] * (STEPS - 4)


@pytest.mark.parametrize("reached", [6, 8])
def test_a_game_goes_back_to_a_state_where_it_is(reached: int) -> None:
    """Recovery after a NaN: the state is loaded into a game that has been captured."""
    plain, (game, _) = make_game(*GAMES["running means"]), captured_game(*GAMES["running means"])
    for _ in played(plain, last=5):
        pass
    saved = {name: part.state_dict() for name, part in plain.parts.items()}
    saved = torch.load(_bytes(saved), weights_only=True)
    for _ in played(game, last=reached):
        pass
    before = addresses(game)
    for name, part in game.parts.items():
        if isinstance(part, torch.optim.Optimizer):
            load_optimizer(part, saved[name])
        else:
            part.load_state_dict(saved[name])
    assert addresses(game) == before
    for expected, found in zip(played(plain, first=5), played(game, first=5), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(weights(game), weights(plain), rtol=1e-6, atol=1e-7)


def _bytes(state: dict[str, Any]) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def test_a_checkpoint_of_a_replayed_game_goes_on_without_graphs_and_the_other_way_round() -> None:
    undisturbed = make_game()
    assert list(played(undisturbed))
    for (one, used), (other, others) in ((_plain(), captured_game()), (captured_game(), _plain())):
        for _ in played(one, last=6):
            pass
        saved = torch.load(_bytes({name: part.state_dict() for name, part in one.parts.items()}), weights_only=True)
        before = dict(other.generator_optimizer.param_groups[0])
        for name, part in other.parts.items():
            if isinstance(part, torch.optim.Optimizer):
                load_optimizer(part, saved[name])
            else:
                part.load_state_dict(saved[name])
        after = other.generator_optimizer.param_groups[0]
        assert (type(after["lr"]), after["capturable"]) == (type(before["lr"]), before["capturable"])
        for _ in played(other, first=6):
            pass
        torch.testing.assert_close(weights(other), weights(undisturbed), rtol=1e-6, atol=1e-7)
        (tapes,) = (found for found in (used, others) if found is not None)
        assert len(tapes.tapes) >= 2 and tapes.replays > 0


def _plain() -> tuple[Game, None]:
    return make_game(), None


class Drifting(Hinge):
    """A loss that changes from step to step where Python alone sees it."""

    calls = 0

    def generator_loss(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        self.calls += 1
        return super().generator_loss(fake_scores) * (1 + self.calls)


def test_what_python_alone_decides_is_noticed() -> None:
    plain, (game, _) = make_game(*DCGAN), captured_game(*DCGAN)
    plain, game = replace(plain, loss=Drifting()), replace(game, loss=Drifting())
    pairs = zip(played(plain), played(game), strict=True)
    same = [torch.equal(one["loss/generator"], other["loss/generator"]) for one, other in pairs]
    assert same[:4] == [True] * 4 and not any(same[4:])


def test_without_a_gpu_inputs_are_fixed_and_nothing_is_captured() -> None:
    plain, game = make_game(*DCGAN), make_game(*DCGAN, "training.cuda_graphs=true")
    for expected, found in zip(played(plain, last=5), played(game, last=5), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="torch without CUDA has no graphs")
def test_what_captures_on_a_gpu_is_called_as_torch_has_it() -> None:
    options = {"pool": (0, 0), "stream": None, "capture_error_mode": "thread_local"}
    inspect.signature(torch.cuda.graph.__init__).bind(None, None, **options)
    assert {"register_generator_state", "replay"} <= set(dir(torch.cuda.CUDAGraph))


@pytest.mark.parametrize(
    ("override", "words"),
    [("training.accumulation=2", "accumulation: 2 found"), ("training.shared_latents=true", "shared_latents: true")],
)
def test_what_graphs_cannot_do_is_refused(override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_config(DEFAULT, ["training.cuda_graphs=true", override])
