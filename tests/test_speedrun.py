"""The speedrun's arithmetic: when a time is a record, what its table says, which images the search holds out."""

import json
import math
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from benchmarks import speedrun, speedrun_search, throughput
from benchmarks.speedrun import config_of, directory_of, entry_of, main
from benchmarks.speedrun_page import LEVEL, PAGE, SEEDS, page, search_table, table, verdict
from benchmarks.speedrun_search import ROOT, seconds_a_step, split, steps_begun
from gan.config import Config, find_config, load_config, parse_yaml
from gan.errors import UserError
from gan.training.run_directory import flatten


def test_a_record_needs_five_seeds_below_the_target_beyond_chance() -> None:
    far = [66.0, 66.5, 67.0, 66.2, 66.8]
    p, is_record = verdict(far, 68.2)
    mean, deviation = np.mean(far), np.std(far, ddof=1)
    assert p == pytest.approx(stats.t.cdf((mean - 68.2) / (deviation / math.sqrt(5)), 4))
    assert p < 0.01 and is_record
    assert not verdict(far[:4], 68.2)[1]  # too few
    assert not verdict([60.0, 75.0, 64.0, 70.0, 62.0], 68.2)[1]  # the mean is below, by chance
    assert verdict([d + 4 for d in far], 68.2)[0] > 0.99
    assert verdict([50.0], 68.2) == (1.0, False)


def test_the_table_compares_machines_by_the_textbook() -> None:
    def entry(config: str, minutes: float, seconds: float, second: float) -> dict[str, Any]:
        measured = {"date": "2026-01-01", "minutes": minutes, "textbook_seconds": seconds}
        runs = [measured | {"distance": 60.0 + seed / 10, "second": second + seed} for seed in range(5)]
        return {"change": "x", "config": config, "settings": [], "runs": runs}

    entries = [entry("base", 20, 2.0, 3.0), entry("quick", 5, 1.0, 2.0), entry("quick", 4, 1.0, 3.5)]
    records = {"target": 68.2, "base": "base", "entries": entries}
    rows = table(records).splitlines()[2:]
    p = stats.t.cdf(-8.0 / (np.std([0, 0.1, 0.2, 0.3, 0.4], ddof=1) / math.sqrt(5)), 4)
    assert rows[0] == f"| 2026-01-01 | x | 20.0 | 600 | 1.00 | 60.2 (60.0 to 60.4) | 5.000 | 5 | {p:.2g} | yes |"
    assert rows[1].split(" | ")[2:5] == ["5.0", "300", "2.00"]  # half of the gain is the machine's
    assert rows[1].endswith(" | yes |") and rows[2].endswith(" | no |")  # worse in the second feature space
    backwards = table(records | {"entries": entries[::-1]}).splitlines()[2:]
    assert backwards[:2] == rows[:0:-1]  # the base is known by its config
    assert backwards[2] == rows[0].replace("| yes |", "| no |")  # as good as it was, and slower than a record before it
    alone = table(records | {"entries": entries[1:2]}).splitlines()[2]
    assert alone.split(" | ")[4] == "–" and alone.endswith(" | when the base has been raced |")

    entries[1]["runs"] = [run | {"minutes": m, "textbook_seconds": s, "date": f"2026-01-0{m}"} for run, m, s in
                          zip(entries[1]["runs"], [4, 4, 4, 8, 8], [1.0, 1.0, 1.0, 2.0, 2.0], strict=True)]  # fmt: skip
    moved = table(records).splitlines()[3].split(" | ")  # seeds of two machines, each in its own textbook's iterations
    assert moved[0] == "| 2026-01-08" and moved[2:5] == ["5.6", "240", "2.50"]


def test_a_record_does_not_make_its_own_commit_dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, code = tmp_path / "docs" / "records.yaml", tmp_path / "code.py"
    results.parent.mkdir()
    results.write_text("a")
    code.write_text("a")
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "--quiet"], ["add", "."], [*author, "commit", "--quiet", "--message=a"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(throughput, "ROOT", tmp_path)
    clean = throughput.commit()
    results.write_text("b")
    assert throughput.commit(results) == clean
    assert throughput.commit() == f"{clean}-dirty"
    code.write_text("b")
    assert throughput.commit(results) == f"{clean}-dirty"


def test_a_race_goes_on_with_its_entry() -> None:
    records: dict[str, Any] = {"entries": []}
    first = entry_of(records, "narrower", "quick", ["seed=1"])
    first["runs"].append({"seed": 0})
    assert entry_of(records, "narrower", "quick", ["seed=1"]) is first
    assert entry_of(records, "again, elsewhere", "quick", ["seed=1"])["runs"] == []
    assert [entry["change"] for entry in records["entries"]] == ["narrower", "again, elsewhere"]
    with pytest.raises(UserError, match="--change 'narrower' is in the records, of quick seed=1;"):
        entry_of(records, "narrower", "quick", [])


def test_every_entry_races_in_places_of_its_own() -> None:
    places = [("a", "quick", []), ("b", "quick", []), ("a", "quick", ["training.steps=9"]), (None, "quick", [])]
    found = {directory_of(Path("out"), *place, seed) for place in places for seed in (0, 1)}
    assert len(found) == 8 and directory_of(Path("out"), "a", "cifar10/quick", [], 3).name.startswith("quick_")


def test_a_search_goes_on_with_the_steps_that_it_began_with(tmp_path: Path) -> None:
    assert steps_begun(tmp_path) is None
    (tmp_path / "config.yaml").write_text(load_config(find_config("cifar10/quick"), ["training.steps=77"]).to_yaml())
    assert steps_begun(tmp_path) == 77


def test_a_run_is_recorded_as_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "records.yaml"
    file.write_text("target: 68.2\nbase: cifar10/sngan_cr_small\nentries: []\n")
    raced: list[int] = []

    def fake(config: Config, directory: Path) -> dict[str, Any]:
        if len(raced) == 2:
            raise UserError(f"{directory}: diverged")
        raced.append(config.seed)
        return {"seed": config.seed, "date": "2026-01-01", "minutes": 1.0, "textbook_seconds": 1.0,
                "distance": 60.0 + config.seed, "second": 1.0}  # fmt: skip

    monkeypatch.setattr("benchmarks.speedrun.raced", fake)
    command = ["--record", str(file), "--config", "cifar10/quick", "--change", "x", "--seeds", "3"]
    assert CliRunner().invoke(main, command).exit_code == 2
    found = parse_yaml(file.read_text(), str(file))["entries"][0]
    assert [run["seed"] for run in found["runs"]] == raced == [0, 1]
    raced[:] = [2]
    assert CliRunner().invoke(main, command).exit_code == 0  # seed 2 alone
    assert [run["seed"] for run in parse_yaml(file.read_text(), str(file))["entries"][0]["runs"]] == [0, 1, 2]


def test_a_run_has_the_minutes_of_its_loop_and_the_textbooks_time_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    seconds = iter([1.0, 3.0])

    def textbook_seconds() -> float:
        happened.append("textbook")
        return next(seconds)

    def train(config: Config, directory: Path, device: str, threads: int, what: str) -> bool:
        happened.append(f"{what} on {device}")
        return directory.name == "diverging"

    checkpoint = tmp_path / "checkpoint.pt"
    monkeypatch.setattr(speedrun, "textbook_seconds", textbook_seconds)
    monkeypatch.setattr(speedrun, "train", train)
    monkeypatch.setattr(speedrun, "RunDirectory", lambda path: SimpleNamespace(newest_checkpoint=lambda: checkpoint))
    monkeypatch.setattr(speedrun, "read_checkpoint", lambda path: {checkpoint: {"elapsed": 90.0}}[path])
    monkeypatch.setattr(speedrun, "newest_result", lambda directory: directory / "result.json")
    measured = SimpleNamespace(metrics={"frechet_distance": 61.5, "kernel_distance_mean": 1.0})
    monkeypatch.setattr(speedrun, "read_result", lambda file: {tmp_path / "result.json": measured}[file])
    monkeypatch.setattr(speedrun, "second_opinion", lambda directory: {tmp_path: 7.5}[directory])
    config = config_of("cifar10/quick", [], tmp_path / "x.npz", 3)
    run = speedrun.raced(config, tmp_path)
    assert happened == ["textbook", "seed 3 on cpu", "textbook"]
    assert (run["seed"], run["minutes"], run["textbook_seconds"]) == (3, 1.5, 2.0)
    assert (run["distance"], run["second"]) == (61.5, 7.5)
    seconds = iter([1.0])
    with pytest.raises(UserError, match="diverging: diverged"):
        speedrun.raced(config, tmp_path / "diverging")


def test_the_second_opinion_differs_in_the_feature_space_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("cifar10/quick", [], tmp_path / "x.npz", 3)
    generator = SimpleNamespace(config=config, class_names=("a", "b"), device="cpu", network=object())
    asked: list[Config] = []

    def scorer(config: Config, class_names: object, device: object) -> object:
        asked.append(config)

        def score(network: object, weights: str) -> object:
            assert network is generator.network and weights == "ema"
            return SimpleNamespace(metrics={"frechet_distance": 7.5})

        return SimpleNamespace(score=score)

    monkeypatch.setattr(speedrun, "open_checkpoint", lambda directory, device: generator)
    monkeypatch.setattr(speedrun, "Scorer", scorer)
    assert speedrun.second_opinion(tmp_path) == 7.5
    first, second = flatten(config.model_dump()), flatten(asked[0].model_dump())
    assert {key: second[key] for key in second if second[key] != first[key]} == {
        "evaluation.extractor": "efficientnet_lite0_levels"
    }


def test_the_protocol_is_the_one_of_the_rules_whatever_a_config_says(tmp_path: Path) -> None:
    others = ["evaluation.samples=7", "evaluation.extractor=inception", "evaluation.metrics=[is]", "evaluation.seed=9"]
    config = config_of("cifar10/quick", [*others, "training.precision=bfloat16"], tmp_path / "x.npz", 3)
    asked = config.evaluation
    assert (asked.extractor, [*asked.metrics], asked.at_end, asked.every) == ("efficientnet_lite0", ["fid"], True, 0)
    assert (asked.reference, asked.reference_path, asked.reference_samples) == ("auto", None, None)
    assert config.training.precision == "float32"
    rules = " ".join(PAGE.read_text(encoding="utf-8").partition("**The rules.**")[2].partition("\n\n")[0].split())
    said = (
        f"EfficientNet-Lite0, {asked.samples:,} samples of the averaged generator with seed {asked.seed}, against the"
    )
    assert rules.startswith(said) and f"`{speedrun.SECOND}`" in rules
    assert SEEDS == 5 and f"at p < {LEVEL} over at least five seeds, 0 and up" in rules


def test_the_search_keeps_what_did_best_on_every_rung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distances = {"a": (50.0, 20.0), "b": (30.0, 25.0), "c": (40.0, 10.0), "d": (math.inf, 0.0)}
    plan = tmp_path / "plan.yaml"
    plan.write_text(json.dumps({
        "base": "cifar10/sngan_cr_small", "common": [], "results": "results",
        "settings": {name: [] for name in distances},
        "rungs": [{"minutes": 1, "keep": 3, "seed": 5}, {"minutes": 2, "keep": 2, "seed": 6},
                  {"minutes": 4, "keep": 1, "seed": 7}],
    }))  # fmt: skip
    trained: list[tuple[str, int, int]] = []

    def outcome_of(config: Config, directory: Path, seconds: float) -> dict[str, Any]:
        trained.append((directory.name, config.seed, config.training.steps))
        assert str(config.data.path) == str(tmp_path / "fit_train.npz")
        rung = min(config.seed - 5, 1)
        return {"distance": distances[directory.name][rung], "steps": config.training.steps, "seconds_a_step": seconds}

    monkeypatch.setattr(speedrun_search, "split", lambda data, folder: tmp_path / "fit_train.npz")
    monkeypatch.setattr(
        speedrun_search, "seconds_a_step", lambda configs: {name: 2.0 if name == "c" else 0.5 for name in configs}
    )
    monkeypatch.setattr(speedrun_search, "outcome_of", outcome_of)
    command = [str(plan), "--data", str(plan), "--out", str(tmp_path / "out"), "--jobs", "1"]
    result = CliRunner().invoke(speedrun_search.main, command)
    assert result.exit_code == 0, result.output
    first, second, third = (sorted(run for run in trained if run[1] == seed) for seed in (5, 6, 7))
    assert first == [("a", 5, 120), ("b", 5, 120), ("c", 5, 30), ("d", 5, 120)]
    assert second == [("a", 6, 240), ("b", 6, 240), ("c", 6, 60)]
    assert third == [("a", 7, 480), ("c", 7, 120)]
    lines = [line.split()[-1] for line in result.output.splitlines()]
    assert lines == ["core:", *"bcad", "core:", *"cab", "core:", *"ca"]
    assert json.loads((tmp_path / "results" / "rung_2" / "c.json").read_text())["seconds_a_step"] == 2.0
    kept = len(trained)
    assert CliRunner().invoke(speedrun_search.main, command).output == result.output
    assert len(trained) == kept  # what is there is not run again


def test_the_search_trains_on_nine_tenths_and_measures_against_the_rest(tmp_path: Path) -> None:
    images = np.arange(50, dtype=np.uint8).repeat(32 * 32 * 3).reshape(50, 32, 32, 3)
    np.savez(tmp_path / "cifar10_train.npz", images=images, labels=np.arange(50) % 10)
    path = split(tmp_path / "cifar10_train.npz", tmp_path / "split")
    train, held_out = (np.load(file)["images"][:, 0, 0, 0] for file in (path, path.with_name("fit_test.npz")))
    assert held_out.tolist() == [0, 10, 20, 30, 40]
    assert sorted([*train, *held_out]) == list(range(50))
    np.savez(tmp_path / "another.npz", images=images[:20], labels=np.arange(20) % 10)
    other = split(tmp_path / "another.npz", tmp_path / "split")
    assert len(np.load(other)["images"]) == 18 and len(np.load(path)["images"]) == 45
    np.savez(tmp_path / "unlabelled.npz", images=images)
    with pytest.raises(UserError, match="has no images and labels"):
        split(tmp_path / "unlabelled.npz", tmp_path / "split")


def test_the_page_has_the_records_and_the_search_as_they_are(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text
    outcomes = {0: {"a": 120.0, "b": 110.0, "c": math.inf}, 1: {"a": 90.0, "b": 95.04}}
    for number, found in outcomes.items():
        folder = tmp_path / f"rung_{number}"
        folder.mkdir()
        for name, distance in found.items():
            (folder / f"{name}.json").write_text(json.dumps({"distance": distance, "steps": 1000 + number}))
    plan = {"rungs": [{"minutes": 2.5}, {"minutes": 5}, {"minutes": 10}], "settings": {name: [] for name in "cdab"}}
    assert search_table(plan, tmp_path).splitlines() == [
        "| setting | 2.5 min: FD (steps) | 5 min: FD (steps) | 10 min: FD (steps) |",
        "|---|---|---|---|",
        "| `a` | 120.0 (1,000) | 90.0 (1,001) |  |",
        "| `b` | 110.0 (1,000) | 95.0 (1,001) |  |",
        "| `c` | inf (1,000) |  |  |",
        "| `d` |  |  |  |",
    ]


@pytest.mark.parametrize("name", ["speedrun_search_1", "speedrun_search_2", "speedrun_search_3"])
def test_every_setting_of_a_plan_is_one_that_a_config_takes(tmp_path: Path, name: str) -> None:
    file = ROOT / "benchmarks" / f"{name}.yaml"
    plan = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    for settings in plan["settings"].values():
        load_config(find_config(plan["base"]), [*plan["common"], *settings])
    assert [rung["keep"] for rung in plan["rungs"]] == sorted((rung["keep"] for rung in plan["rungs"]), reverse=True)
    config = config_of("cifar10/sngan_cr_small", ["training.steps=7"], tmp_path / "x.npz", 3)
    assert (config.seed, config.training.steps, config.evaluation.samples) == (3, 7, 5000)


def test_steps_are_timed_in_turn(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "x_train.npz", images=images, labels=np.arange(40) % 10)
    common = [
        "data.source=npz",
        f"data.path={tmp_path / 'x_train.npz'}",
        f"data.root={tmp_path}",
        "training.batch_size=4",
    ]
    small, large = (
        load_config(find_config("cifar10/sngan_cr_small"), [*common, f"generator.width={w}"]) for w in (8, 96)
    )
    found = seconds_a_step({"small": small, "large": large}, rounds=2)
    assert 0 < found["small"] < found["large"]
