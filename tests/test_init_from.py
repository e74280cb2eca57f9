"""Runs that begin with another run's weights, and runs that are lengthened while their learning rates decay."""

import shlex
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from gan.commands.launch import launch
from gan.commands.main import main
from gan.commands.runs import table_of_runs
from gan.config import load_config
from gan.errors import UserError
from gan.training.checkpoint import digest, read_checkpoint
from tests import DEFAULT
from tests.test_training import CPU, TINY, run, same


def begin(out: Path, data: Path, origin: Path | None, *overrides: str) -> bool:
    config = load_config(DEFAULT, [*TINY, f"data.root={data}", *overrides])
    return launch(config, CPU, out, "the command", init_from=origin)


def state(out: Path, step: int = 6) -> dict:
    return read_checkpoint(out / "checkpoints" / f"step_{step:08d}.pt")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def origin(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "origin"
    run(out, data)
    return out


SLOW = ["optimizer.generator_lr=1e-12", "optimizer.discriminator_lr=1e-12", "training.steps=3"]


@pytest.mark.parametrize("by", ["directory", "checkpoint"])
def test_a_run_begins_with_the_weights_of_another(by: str, origin: Path, data: Path, tmp_path: Path) -> None:
    named = origin if by == "directory" else origin / "checkpoints" / "step_00000006.pt"
    begin(tmp_path / "new", data, named, *SLOW, "seed=5")
    before, after = state(origin), state(tmp_path / "new", 3)
    for part in ("generator", "discriminator"):
        weights = [name for name in before[part] if name.endswith("weight")]
        assert weights
        for name in weights:
            torch.testing.assert_close(after[part][name], before[part][name], atol=1e-6, rtol=0)
    # the first grid is of the average generator: that of the other run where seeds, and so latents, agree
    begin(tmp_path / "same", data, named, *SLOW, "logging.samples_every=6")
    first, last = (
        tmp_path / "same" / "samples" / "samples_00000000.png", origin / "samples" / "samples_00000006.png",
    )  # fmt: skip
    assert Image.open(first).tobytes() == Image.open(last).tobytes()


def test_the_weights_are_part_of_what_a_run_is(origin: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    begin(out, data, origin, "training.steps=3")
    weights = {part: state(origin)[part] for part in ("generator", "discriminator", "ema")}
    recorded = load_config(out / "config.yaml").training.init_from
    assert recorded == f"origin step 6 {digest(weights)[:16]}"
    with pytest.raises(UserError, match=r"training.init_from was .*, now null"):
        run(out, data)
    run(tmp_path / "other" / "plain", data)
    with pytest.raises(UserError, match=r"training\.init_from was null, now"):
        begin(tmp_path / "other" / "plain", data, origin)
    with pytest.raises(UserError, match=r"training\.init_from was"):
        begin(out, data, tmp_path / "other" / "plain")


def test_it_goes_on_bit_for_bit_though_the_other_run_is_gone(origin: Path, data: Path, tmp_path: Path) -> None:
    begin(tmp_path / "whole", data, origin)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "checkpoints" / "step_00000006.pt").unlink()
    begin(tmp_path / "cut", data, tmp_path / "gone" / "origin")
    states = [state(tmp_path / name) for name in ("cut", "whole")]
    for each in states:
        each.pop("elapsed")
    assert same(*states)


def test_another_checkpoint_or_run_than_the_recorded_one_is_refused(origin: Path, data: Path, tmp_path: Path) -> None:
    out, newest = tmp_path / "new", "checkpoints/step_00000006.pt"
    begin(out, data, origin, "training.steps=3")
    with pytest.raises(UserError, match=r'training\.init_from was "origin step 6 .*, now "origin step 3 '):
        begin(out, data, origin / "checkpoints" / "step_00000003.pt", "training.steps=3")
    with pytest.raises(UserError, match=r"step_00000003\.pt: No such file"):
        begin(out, data, tmp_path / "gone" / "origin" / "checkpoints" / "step_00000003.pt", "training.steps=3")
    namesake = tmp_path / "other" / "origin"
    run(namesake, data, "seed=9")
    for named in (namesake, namesake / newest):
        with pytest.raises(UserError, match=r'training\.init_from was "origin step 6 .*, now "origin step 6 '):
            begin(out, data, named, "training.steps=3")
    (namesake / newest).unlink()  # as of one that has gone on: what is left cannot tell
    for named in (namesake, namesake / newest, namesake / "checkpoints" / "best.pt", origin, origin / newest):
        assert begin(out, data, named, "training.steps=3")


def test_a_run_that_was_killed_before_its_first_checkpoint_is_told_how_it_goes_on(
    origin: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(origin, tmp_path / "origin")
    begin(tmp_path / "killed early", data, tmp_path / "origin", "training.steps=3")
    shutil.rmtree(tmp_path / "killed early" / "checkpoints")
    recorded = load_config(tmp_path / "killed early" / "config.yaml").training.init_from

    def told() -> str:
        (line,) = [line for line in table_of_runs(tmp_path).splitlines() if line.startswith("to go on: ")]
        return line.partition(" train ")[2]

    (tmp_path / "origin").rename(tmp_path / "elsewhere")
    assert told().endswith(f"--init-from RUN, where RUN is the path of {recorded}")
    (tmp_path / "elsewhere").rename(tmp_path / "origin")
    result = CliRunner().invoke(main, ["train", *shlex.split(told()), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert load_config(tmp_path / "killed early" / "config.yaml").training.init_from == recorded
    assert "to go on" not in table_of_runs(tmp_path)


def test_a_dry_run_shows_the_weights_that_fit(origin: Path, tmp_path: Path) -> None:
    flags = [part for override in TINY for part in ("--set", override)]
    command = ["train", str(DEFAULT), *flags, "--device", "cpu", "--out", str(tmp_path / "new"), "--dry-run"]
    shown = CliRunner().invoke(main, [*command, "--init-from", str(origin)])
    assert shown.exit_code == 0 and "init_from: origin step 6 " in shown.stdout
    missing = CliRunner().invoke(main, [*command, "--init-from", str(tmp_path / "nowhere")])
    assert missing.exit_code == 2 and "nowhere: no checkpoint in" in missing.stderr


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["generator.width=8"], "of the generator is"),
        (["conditional=true"], "the generator"),
        (["discriminator.head.options.stages=2"], "weight of the discriminator is 3×"),
        (["discriminator.head={name: linear}"], "absent"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(
    overrides: list[str], words: str, more: list[str], origin: Path, data: Path, tmp_path: Path
) -> None:
    flags = [part for override in (*TINY, f"data.root={data}", *overrides) for part in ("--set", override)]
    out = ["--device", "cpu", "--out", str(tmp_path / "new"), "--init-from", str(origin)]
    result = CliRunner().invoke(main, ["train", str(DEFAULT), *flags, *out, *more])
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "--init-from" in line and words in line
    assert not (tmp_path / "new").exists()


def test_what_is_no_run_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint in"):
        begin(tmp_path / "new", data, tmp_path)
    with pytest.raises(UserError, match="--init-from RUN writes it"):
        run(tmp_path / "new", data, "training.init_from=somewhere")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ("linear", "from 0.0% of their first value to 50.0% at step 3, and reach 0 at step 6"),
        ("half_linear", "from 0.0% of their first value to 100.0% at step 3, and reach 0 at step 6"),
        ("constant", None),
    ],
)
def test_a_longer_decay_is_told(
    schedule: str, told: str | None, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option = f"optimizer.schedule={schedule}"
    run(tmp_path, data, option, "training.steps=3")
    assert "learning rates" not in capsys.readouterr().err
    run(tmp_path, data, option)
    said = [line for line in capsys.readouterr().err.splitlines() if "training.steps: 3 before, 6 now" in line]
    assert [line.partition("learning rates go ")[2] for line in said] == ([told] if told else [])
    run(tmp_path, data, option)  # all is done
    assert "learning rates" not in capsys.readouterr().err
