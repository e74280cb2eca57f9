"""Two processes against one: the same steps, the same scores, the same checkpoints; and how a job ends."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gan import distributed
from gan.build import ImageFacts, build_game, build_latents, build_loader, image_facts, prepare_images
from gan.commands.launch import launch
from gan.config import load_config
from gan.device import make_autocast
from gan.errors import UserError
from gan.metrics import evaluator as evaluator_module
from gan.metrics.distributed_evaluation import share
from gan.metrics.evaluator import Evaluator
from gan.sampling.latents import LatentStream
from gan.scoring.scorer import GeneratorSampler
from gan.seeds import seeded_generator
from gan.training.accumulation import Accumulation
from gan.training.batch_norm import RankStatistics
from gan.training.checkpoint import read_checkpoint
from gan.training.ema import ExponentialMovingAverage
from gan.training.steps import discriminator_step, generator_step
from tests import DEFAULT, ROOT
from tests.test_evaluator import Projection

CPU = torch.device("cpu")
TORCHRUN = str(Path(sys.executable).with_name("torchrun"))
TINY = [
    "generator.name=dcgan", "generator.width=4", "discriminator.backbone.name=dcgan", "discriminator.backbone.width=4",
    "generator.latent_dim=8", "training.batch_size=8", "training.steps=4", "training.precision=float32",
    "logging.scalars_every=2", "logging.samples_every=4", "logging.sample_count=4", "checkpoint.every=2",
    "evaluation.at_end=false", "optimizer.schedule=constant",
]  # fmt: skip
NOISE = "r1: {weight: 1, interval: 2}, gradient_penalty: {weight: 1}, balanced_consistency: {weight: 1}, "
NOISE += "latent_consistency: {weight: 1}, r2: {weight: 1, options: {method: finite_difference}}"
ADAPTIVE = "augmentation={operations: [color, translation, cutout], probability: 0.5, target: 0.6, images_to_full: 100}"
PLAIN = "discriminator.head.options={}"
HEADS = {
    "cascade": ["training.discriminator_steps=2", ADAPTIVE],
    "conditional cascade": ["conditional=true", "generator.name=sngan", "objective.loss=non_saturating"],
    "linear": ["discriminator.head.name=linear", PLAIN, "objective.loss=least_squares"],
    "projection": ["discriminator.head.name=projection", PLAIN, "conditional=true"],
    "auxiliary": ["discriminator.head.name=auxiliary_classifier", PLAIN, "conditional=true",
                  "objective.regularizers={classification: {weight: 1}}"],
    "independent": ["discriminator.head.name=independent", "objective.loss=wasserstein",
                    "objective.regularizers={gradient_penalty: {weight: 10}}"],
    "san": ["discriminator.head.name=san", PLAIN, "objective.loss=relativistic",
            "objective.regularizers={r1: {weight: 1}, r2: {weight: 1}}"],
    "sliced cascade": ["discriminator.head.name=sliced_cascade"],
    "decorrelated": ["discriminator.head.options={stages: 3, rejection: decorrelated}", "conditional=true",
                     "training.discriminator_steps=2", "objective.regularizers={r1: {weight: 1}}"],
    "multidimensional": ["discriminator.head.name=multidimensional", PLAIN],
    "everything": ["objective.stage_weights=learned", "objective.top_k={fraction: 0.5, decay: 0.8}", ADAPTIVE,
                   "data.flip=true", "objective.regularizers={" + NOISE + ", lecam: {weight: 1}, contrastive: {weight: "
                   "1}, orthogonal: {weight: 0.1}, feature_matching: {weight: 1}}"],
}  # fmt: skip
# nothing that draws numbers, which an undivided step draws otherwise
QUIET = ["objective.regularizers={r1: {weight: 1, interval: 2}, r2: {weight: 1}, orthogonal: {weight: 0.1}}"]
QUIET += ["augmentation={operations: [color], probability: 0, target: 0.6}", "data.flip=true"]


def play(data: Path, overrides: list[str], iterations: int = 3) -> dict[str, Any]:
    """Some iterations in float64: all states, what the last steps reported, and the last gradients."""
    config = load_config(DEFAULT, [*TINY, f"data.root={data}", *overrides])
    facts = image_facts(config)
    game = build_game(config, facts, CPU)
    for module in (game.generator, game.discriminator, game.stage_weights, game.regularizers):
        module.double()
    for optimizer in (game.generator_optimizer, game.discriminator_optimizer):
        optimizer.param_groups[0]["eps"] = 1e-3  # gradients that are 0 but for rounding move nothing
    ema = ExponentialMovingAverage(game.generator, 0.9)
    loader = build_loader(config, prepare_images(config.data), CPU)
    source = build_latents(config, facts, CPU)
    reported: dict[str, Any] = {}
    for iteration in range(iterations):
        for _ in range(config.training.discriminator_steps):
            images, labels = loader.next_batch()
            images, labels = images.double(), labels if config.conditional else None
            latents, fake_labels = source.next("discriminator", len(images))
            values, _ = discriminator_step(game, images, labels, latents.double(), fake_labels)
        latents, fake_labels = source.next("generator", len(images))
        reported = {**values, **generator_step(game, latents.double(), fake_labels, images, labels)}
        ema.update(iteration + 1)
    gradients = {name: p.grad for name, p in game.generator.named_parameters() if p.grad is not None}
    optimizers = ("generator_optimizer", "discriminator_optimizer")
    states = {name: part.state_dict() for name, part in game.parts.items() if name not in optimizers}
    sources = {"latents": source.state_dict(), "data": loader.state_dict()}
    return {**states, **sources, "values": reported, "ema": ema.average.state_dict(), "grad": gradients}


class Pixels(nn.Module):
    """Latents to images, in one product."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3 * 8 * 8, generator=torch.Generator().manual_seed(3)))

    def forward(self, latents: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        return (latents @ self.weight).tanh().view(-1, 3, 8, 8)


def evaluate(cache: Path | None = None) -> dict[str, Any]:
    """All metrics with all their intervals, of 150 images in batches of 16 against 117, 90 of them kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator_module, "REFERENCE_FEATURES", 90)
        return _evaluate(cache)


def _evaluate(cache: Path | None) -> dict[str, Any]:
    metrics = ("fid", "is", "kid", "prc", "dc", "fid_infinity", "intra_fid")
    evaluator = Evaluator(Projection(), metrics=metrics, batch_size=16, progress=False, bootstrap=20)
    numbers = np.random.default_rng(0)
    images, labels = numbers.integers(0, 256, (117, 8, 8, 3), dtype=np.uint8), np.arange(117) % 3
    reference = evaluator.reference(
        images, name="noise", split="train", labels=labels, class_names=("a", "b", "c"), cache_dir=cache
    )
    given: list[torch.Tensor] = []
    stream = LatentStream(8, 3, seeded_generator(0, "test"))
    pool, random = torch.arange(3).repeat(7), seeded_generator(0, "labels")
    sampler = GeneratorSampler(Pixels(), stream, pool, random, given, make_autocast("float32", CPU))
    result = evaluator.evaluate(
        sampler, 150, reference, seed=0, weights="raw", label_sampling="reference",
        labels=lambda: torch.cat(given), skip=sampler.skip,
    ).to_dict()  # fmt: skip
    return {name: result[name] for name in ("metrics", "intervals", "classes", "protocol")} | {
        "labels": torch.cat(given)
    }


def run(data: Path, out: Path, *overrides: str) -> None:
    launch(load_config(DEFAULT, [*TINY, f"data.root={data}", *overrides]), CPU, out, "the command")


def check(folder: Path) -> None:
    """What each of two processes does; everything is saved for the tests to compare."""
    data, rank = folder / "data", distributed.rank()
    found: dict[str, Any] = {
        name: play(data, [*case, "training.sync_batch_norm=false"]) for name, case in HEADS.items()
    }
    found["four micro-batches"] = play(
        data, [*HEADS["everything"], "training.sync_batch_norm=false", "training.accumulation=2"]
    )
    found["synchronised"] = play(data, QUIET)
    found["scores"] = evaluate(folder / "cache")
    found["cached scores"] = evaluate(folder / "cache")
    found["from main"] = distributed.from_main({"rank": torch.tensor(rank)} if rank == 0 else None)
    found["gathered"] = distributed.gather(torch.full((2, 1), rank))
    found["any"] = [distributed.any_rank(rank == 1), distributed.any_rank(False)]
    sizes: list[list[int]] = []
    distributed.collect(torch.zeros(rank, 3), lambda tensor: sizes.append(list(tensor.shape)))
    found["collected"] = sizes
    run(data, folder / "two")
    run(data, folder / "one then two", "training.steps=4")
    config = load_config(DEFAULT, [*TINY, f"data.root={data}", "data.flip=false", "training.batch_size=64"])
    loader = build_loader(config, prepare_images(config.data), CPU)
    found["first epoch"] = loader.sampler.num_images, [loader.sampler.next_indices() for _ in range(28)]
    torch.save(found, folder / f"rank_{rank}.pt")


def together(*command: str) -> list[subprocess.Popen[str]]:
    """Two processes of a Python program, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    environments = [{**os.environ, **job, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    return [start(environment, sys.executable, *command) for environment in environments]


def start(environment: dict[str, str], *command: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stderr=pipe, stdout=pipe)


def arguments(data: Path, out: Path, *overrides: str) -> list[str]:
    settings = [part for setting in [*TINY, f"data.root={data}", *overrides] for part in ("--set", setting)]
    return ["train.py", str(DEFAULT), *settings, "--device", "cpu", "--out", str(out)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have found; a run of one process is there for them to go on with."""
    folder = tmp_path_factory.mktemp("two")
    run(folder / "data", folder / "one then two", "training.steps=2")
    run(folder / "data", folder / "one")
    processes = together("-m", "tests.test_distributed", str(folder))
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), errors
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=False) for rank in range(2)]


def assert_close(found: Any, expected: Any, tolerance: float = 1e-9, path: str = "") -> None:
    """Nested states, number by number; integers and random states to the bit."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for name in expected:
            assert_close(found[name], expected[name], tolerance, f"{path}/{name}")
    elif isinstance(expected, torch.Tensor) and expected.is_floating_point():
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, msg=lambda text: f"{path}: {text}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), path
    else:
        assert found == expected, path


@pytest.mark.parametrize("case", HEADS)
def test_two_ranks_compute_what_one_does_with_two_micro_batches(
    folder: Path, found: list[dict[str, Any]], case: str
) -> None:
    expected = play(folder / "data", [*HEADS[case], "training.accumulation=2"])
    assert_close(found[0][case], expected)
    assert_close(found[1][case], found[0][case], tolerance=0)


def test_ranks_times_their_micro_batches_are_those_of_the_batch(folder: Path, found: list[dict[str, Any]]) -> None:
    expected = play(folder / "data", [*HEADS["everything"], "training.accumulation=4"])
    assert_close(found[0]["four micro-batches"], expected)


def test_with_synchronised_batch_norm_two_ranks_compute_what_one_does_undivided(
    folder: Path, found: list[dict[str, Any]]
) -> None:
    assert_close(found[0]["synchronised"], play(folder / "data", QUIET))
    apart = play(folder / "data", [*QUIET, "training.accumulation=2"])["generator"]
    assert any(not torch.allclose(apart[name], value) for name, value in found[0]["synchronised"]["generator"].items())


def test_micro_batches_without_batch_norm_compute_what_the_whole_batch_does(folder: Path) -> None:
    plain = [*QUIET, "generator.name=r3gan", "generator.width=4"]
    whole = play(folder / "data", plain)
    assert_close(play(folder / "data", [*plain, "training.accumulation=4"]), whole)


def test_statistics_are_joined_while_a_backward_pass_is_still_to_come() -> None:
    norm, maps = nn.BatchNorm2d(3), torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    weights = torch.arange(48.0).view(4, 3, 2, 2)
    (expected,) = torch.autograd.grad((norm(maps) * weights).sum(), [norm.weight])
    moved = norm.running_mean.clone()
    statistics = RankStatistics([norm])
    found = norm(maps)
    statistics.join(statistics.shares())
    torch.testing.assert_close(norm.running_mean, 1.9 * moved)  # a second pass of the same images: 1 + 0.9
    torch.testing.assert_close(torch.autograd.grad((found * weights).sum(), [norm.weight]), (expected,))


def test_singular_vectors_are_those_of_the_weights_on_every_rank(found: list[dict[str, Any]]) -> None:
    first, second = (one["conditional cascade"]["discriminator"] for one in found)
    vectors = [name for name in first if name.endswith(("spectral_norm.u", "spectral_norm.v"))]
    assert vectors and all(torch.equal(first[name], second[name]) for name in vectors)


def test_an_evaluation_spread_over_ranks_gives_the_scores_of_one(found: list[dict[str, Any]]) -> None:
    expected = evaluate()
    for one in (found[0]["scores"], found[0]["cached scores"]):
        assert one["protocol"] == expected["protocol"]
        assert torch.equal(one["labels"], expected["labels"])
        for kind in ("metrics", "classes", "intervals"):
            assert one[kind] == expected[kind]  # to the bit: the main rank adds up in the order of one process
    assert found[1]["scores"]["metrics"] == found[0]["scores"]["metrics"]


def test_every_batch_is_of_one_rank_and_the_main_one_has_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    for ranks in range(1, 10):
        monkeypatch.setattr("gan.distributed.world_size", lambda ranks=ranks: ranks)
        for count in (1, 4, 5, 9, 21, 37):
            found = []
            for rank in range(ranks):
                monkeypatch.setattr("gan.distributed.rank", lambda rank=rank: rank)
                found.append(share(count, 4))
            assert found[0][0] == 0 and found[0][1] > 0 and found[-1][1] == count
            assert all(one[1] == other[0] for one, other in pairwise(found))
            assert all(first % 4 == 0 or first == count for first, _ in found)
            sizes = [-(-(end - first) // 4) for first, end in found]
            assert max(sizes) - min(sizes) <= 1


def test_shares_of_the_data_do_not_overlap(found: list[dict[str, Any]]) -> None:
    count, _ = found[0]["first epoch"]
    batches = [
        torch.cat([first, second]) for first, second in zip(*(one["first epoch"][1] for one in found), strict=True)
    ]
    seen = torch.cat(batches)[:count]
    assert torch.equal(seen.sort().values, torch.arange(count))


def test_messages_arrive(found: list[dict[str, Any]]) -> None:
    for one in found:
        assert one["from main"] == {"rank": torch.tensor(0)}
        assert one["gathered"].flatten().tolist() == [0, 0, 1, 1]
        assert one["any"] == [True, False]
    assert [one["collected"] for one in found] == [[[1, 3]], []]


def test_checkpoints_do_not_depend_on_the_number_of_ranks(folder: Path) -> None:
    states = {}
    for name in ("one", "two", "one then two"):
        states[name] = read_checkpoint(folder / name / "checkpoints" / "step_00000004.pt")
        del states[name]["elapsed"], states[name]["run"]
    start = build_game(load_config(DEFAULT, [*TINY, f"data.root={folder / 'data'}"]), ImageFacts(32, 1, None), CPU)
    for name in ("two", "one then two"):
        assert_close(states[name], states["one"], tolerance=0.01)  # Adam, in float32
        for player in ("generator", "discriminator"):
            for key, before in getattr(start, player).state_dict().items():
                expected = states["one"][player][key]
                if expected.ndim > 1:  # what batch norm takes out again, a bias before it, moves by rounding alone
                    moved, off = (expected - before).norm(), (states[name][player][key] - expected).norm()
                    assert moved > 0 and off < 0.05 * moved, (player, key, off / moved)


def test_the_log_is_that_of_the_whole_batch_and_is_written_once(folder: Path) -> None:
    logs = [lines(folder / name) for name in ("one", "two", "one then two")]
    assert [[line["step"] for line in log] for log in logs] == [[2, 4]] * 3
    for log in logs[1:]:
        for mine, theirs in zip(log, logs[0], strict=True):
            assert mine.keys() == theirs.keys()
            for name in ("loss/discriminator", "loss/generator", "stages/auc/stage_1", "scores/real/stage_1"):
                assert mine[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-3)


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="accumulation 3 does not divide batch_size 8"):
        run(tmp_path, tmp_path / "run", "training.accumulation=3")
    with pytest.raises(UserError, match="batch_size: 8 found, multiples of 6 accepted"):
        Accumulation(micro_batches=2, world_size=3).require_divisible(8)


def test_micro_batches_may_change_when_a_run_goes_on(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "one", tmp_path / "one")
    run(folder / "data", tmp_path / "one", "training.steps=6", "training.accumulation=4")
    assert [line["step"] for line in lines(tmp_path / "one")] == [2, 4, 6]


def lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def newest(out: Path) -> Path:
    return sorted((out / "checkpoints").glob("step_*.pt"))[-1]


def wait_for(job: subprocess.Popen[str], out: Path, count: int = 1) -> None:
    """Until training has saved `count` times since; at most four minutes."""
    begun = time.time()
    while len([path for path in out.glob("checkpoints/step_*.pt") if path.stat().st_mtime > begun]) < count:
        assert job.poll() is None, job.communicate()
        assert time.time() < begun + 240, "nothing was saved"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def stopped(folder: Path) -> tuple[Path, list[str]]:
    """A run of which the second rank alone was asked to stop, and what the ranks said."""
    out = folder / "stopped"
    jobs = together(*arguments(folder / "data", out, "training.steps=100000", "checkpoint.every=20"))
    wait_for(jobs[0], out)
    jobs[1].send_signal(signal.SIGTERM)
    errors = [job.communicate(timeout=100)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], errors
    return out, errors


def test_a_signal_to_any_rank_stops_all_at_one_step_which_is_saved_once(stopped: tuple[Path, list[str]]) -> None:
    out, errors = stopped
    (said,) = [line for line in "\n".join(errors).splitlines() if line.startswith("stopped and saved at step ")]
    assert f"saved at step {read_checkpoint(newest(out))['step']}; to go on: torchrun --nproc_per_node=" in said
    assert not errors[1]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_a_rank_that_dies_ends_the_job_with_one_line_and_the_next_start_resumes(
    folder: Path, stopped: tuple[Path, list[str]]
) -> None:
    out, _ = stopped
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = arguments(folder / "data", out, "training.steps=100000", "checkpoint.every=20")
    job = start(environment, TORCHRUN, "--standalone", "--nproc_per_node=2", *program)
    wait_for(job, out)
    ranks = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    os.kill(int(ranks[-1]), signal.SIGKILL)
    _, errors = job.communicate(timeout=100)
    assert job.returncode != 0
    assert errors.count("train.py: another process of this job has ended or does not answer") == 1
    assert "in train" not in errors  # no traceback of ours
    step = int(newest(out).stem.removeprefix("step_"))
    run(folder / "data", out, f"training.steps={step + 2}", "checkpoint.every=20")
    assert lines(out)[-1]["step"] == step + 2


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_ranks_end_with_a_launcher_that_is_killed_and_leave_the_run_free(
    folder: Path, stopped: tuple[Path, list[str]]
) -> None:
    out, _ = stopped
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = arguments(folder / "data", out, "training.steps=100000", "checkpoint.every=20")
    job = start(environment, TORCHRUN, "--standalone", "--nproc_per_node=2", *program)
    wait_for(job, out)
    ranks = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    job.kill()
    job.communicate(timeout=100)  # which waits until the ranks have closed their ends of the pipes
    deadline = time.monotonic() + 60  # the pipes close while a process is still ending
    while any(alive(int(rank)) for rank in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(ranks) == 2 and not any(alive(int(rank)) for rank in ranks)
    step = int(newest(out).stem.removeprefix("step_"))
    run(folder / "data", out, f"training.steps={step + 2}", "checkpoint.every=20")
    assert lines(out)[-1]["step"] == step + 2


def alive(number: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return "(zombie)" not in Path(f"/proc/{number}/status").read_text()
    except OSError:
        return False


def evaluated(jobs: list[subprocess.Popen[str]]) -> dict[str, Any]:
    """What one of `jobs` prints as JSON, while the others say nothing and none anything on standard error."""
    said = [job.communicate(timeout=240) for job in jobs]
    assert [job.returncode for job in jobs] == [0] * len(jobs), said
    assert not any(errors for _, errors in said) and not any(text for text, _ in said[1:])
    found: dict[str, Any] = json.loads(said[0][0])
    return found


def assert_one_is_two(*arguments: str) -> None:
    """`evaluate.py` gives in two processes what it gives in one."""
    command = ["evaluate.py", *arguments, "--device", "cpu", "--json"]
    two = evaluated(together(*command))
    one = evaluated([start({**os.environ, "OMP_NUM_THREADS": "1"}, sys.executable, *command)])
    assert two["protocol"] == one["protocol"]
    assert two["metrics"] == one["metrics"] and two["intervals"] == one["intervals"]


def test_a_generated_set_is_divided_and_scored_as_by_one_process(folder: Path, tmp_path: Path) -> None:
    """As images and as the reference; nine batches of eleven images and a smaller one."""
    images = np.random.default_rng(1).integers(0, 256, (75, 28, 28, 1), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", images=images, labels=np.arange(75) % 3)
    options = ["--extractor", "mnist_digits", "--metrics", "fid,mind", "--limit", "75", "--batch-size", "16"]
    for number, sets in enumerate(((folder / "one", tmp_path / "noise.npz"), (tmp_path / "noise.npz", folder / "one"))):
        assert_one_is_two("images", *map(str, sets), *options, "--cache", str(tmp_path / str(number)))


def test_a_checkpoint_is_scored_by_two_processes_as_by_one(folder: Path) -> None:
    options = ["--extractor", "mnist_digits", "--metrics", "fid,mind,prc", "--samples", "150", "--bootstrap", "20"]
    assert_one_is_two("checkpoint", str(folder / "one"), *options)
    assert len(list((folder / "one" / "evaluations").glob("*mnist_digits*"))) == 1


def test_an_error_of_the_user_is_told_once(tmp_path: Path) -> None:
    jobs = together(*arguments(tmp_path, tmp_path / "run", "training.step=3"))
    errors = [job.communicate(timeout=60)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [2, 2], errors
    assert "training.step" in errors[0] and len(errors[0].splitlines()) == 1
    assert not errors[1]


def test_an_error_of_an_evaluation_is_told_once(tmp_path: Path) -> None:
    jobs = together("evaluate.py", "images", str(tmp_path / "absent"), "digits", "--device", "cpu")
    errors = [job.communicate(timeout=120)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [2, 2], errors
    (said,) = "".join(errors).splitlines()  # by whichever comes first
    assert "absent: neither a folder" in said
    jobs = together("evaluate.py", "modes", str(tmp_path))
    errors = [job.communicate(timeout=120)[1] for job in jobs]
    assert errors == ["evaluate.py modes: found under torchrun; accepted: one process, which audits alone\n", ""]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with distributed.joined(CPU):
        check(Path(sys.argv[1]))
