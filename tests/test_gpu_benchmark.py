"""The command for the first GPU: it goes on, says what failed, and keeps cards apart."""

import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.card.campaign import best_jobs, run
from benchmarks.card.findings import BROKEN, Findings
from benchmarks.card.smoke import WAYS, small
from gan.config import load_config
from tests import ROOT

CPU = torch.device("cpu")


def test_a_case_is_found_out_once_and_an_error_again(tmp_path: Path) -> None:
    findings, calls = Findings(tmp_path / "out" / "findings.jsonl", CPU), []

    def find(fails: bool) -> dict[str, float]:
        calls.append(fails)
        if fails:
            raise RuntimeError("out of memory\nand much more")
        return {"seconds": 1.0}

    for fails in (True, False, False):
        findings.case("part", "case", lambda fails=fails: find(fails))
    assert calls == [True, False]
    first, second = map(json.loads, findings.path.read_text().splitlines())
    assert first["error"] == "RuntimeError: out of memory"
    assert second["seconds"] == 1.0 and {"card", "torch", "python", "commit"} <= second.keys()


def test_a_case_that_breaks_its_process_is_left_out_by_the_next_one(tmp_path: Path) -> None:
    def breaks() -> dict[str, float]:
        raise RuntimeError("CUDA error: unspecified launch failure")

    path, began = tmp_path / "findings.jsonl", time.time()
    with pytest.raises(SystemExit, match=str(BROKEN)):
        Findings(path, CPU, began).case("part", "case", breaks)
    Findings(path, CPU, began).case("part", "case", breaks)
    assert not Findings(path, CPU).settled("part", "case")


def test_another_card_and_a_torn_line_are_left_alone(tmp_path: Path) -> None:
    findings = Findings(tmp_path / "findings.jsonl", CPU)
    line = {"part": "part", "case": "case", "card": "another"}
    findings.path.write_text(json.dumps(line) + "\n" + json.dumps({**line, **findings.identity})[:30])
    assert findings.lines() == [] and not findings.settled("part", "case")
    findings.write("part", "case", images_per_second=3.0)
    assert [one["images_per_second"] for one in findings.lines()] == [3.0]  # the line after the torn one is whole


@pytest.mark.parametrize(("name", "limit", "words"), [("no such part", 60, "no such part"), ("rates", 0.2, "stopped")])
def test_a_part_that_fails_or_does_not_end_is_one_line(name: str, limit: float, words: str, tmp_path: Path) -> None:
    findings = Findings(tmp_path / "findings.jsonl", CPU)
    gpu.run_part(name, limit, findings, tiny=True)
    (line,) = findings.lines()
    assert (line["part"], line["case"]) == ("parts", name) and words in line["error"]


@pytest.mark.slow
def test_a_part_that_ends_is_settled_and_so_are_its_cases(tmp_path: Path) -> None:
    findings = Findings(tmp_path / "findings.jsonl", CPU)
    gpu.run_part("rates", 300, findings, tiny=True)
    assert findings.settled("parts", "rates") and findings.settled("rates", "matrix product")


def test_the_campaign_is_stopped_in_time_and_says_what_failed(tmp_path: Path) -> None:
    assert run(["sleep", "60"], tmp_path, until=0)["stopped"]
    assert "No such file" in run(["cat", "missing"], tmp_path, until=time.time() + 60)["error"]


def test_as_many_runs_at_once_as_pay(tmp_path: Path) -> None:
    findings = Findings(tmp_path / "findings.jsonl", CPU)
    assert best_jobs(findings) == 1
    for count, images in ((1, 100.0), (2, 180.0), (4, 150.0)):
        findings.write("seeds", f"{count} at once", images_per_second=images)
    assert best_jobs(findings) == 2


def test_the_limits_fit_the_half_hour_and_the_page_has_every_part() -> None:
    assert sum(limit for _, limit in gpu.PARTS.values()) <= 31 * 60
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    for name, (_, limit) in gpu.PARTS.items():
        assert any(line.startswith(f"| `{name}` |") and f"| {limit} |" in line for line in page.splitlines()), name


@pytest.mark.parametrize("way", WAYS)
def test_every_config_can_be_played_in_every_way(way: str) -> None:
    for path in (ROOT / "configs").rglob("*.yaml"):
        if path.parent.name != "experiments":
            config, whole = small(path, WAYS[way], tiny=False), load_config(path)
            assert (config.training.batch_size, config.training.accumulation) == (4, 1)
            assert (config.training.compile, config.training.cuda_graphs) == (way == "compiled", way == "graphs")
            assert all(term.interval == 1 for term in config.objective.regularizers.values())
            assert (config.generator, config.discriminator) == (whole.generator, whole.discriminator)
