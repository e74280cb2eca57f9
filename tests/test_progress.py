"""Bars: what a terminal shows and a log file does not."""

import io
import re
import sys

import pytest

from gan.progress import lasting_bar, leave_out, passing, passing_bar


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(monkeypatch: pytest.MonkeyPatch, screen: io.StringIO) -> tuple[str, str]:
    """What a passing and a lasting bar write over 200 items."""
    monkeypatch.setattr(sys, "stderr", screen)
    assert list(passing(range(200), "features", "images")) == list(range(200))
    with passing_bar(200, "features", "images") as bar:
        for _ in range(200):
            bar.update()
    first = screen.getvalue()
    with lasting_bar(200, None, "steps", initial=100) as bar:
        for _ in range(100):
            bar.update()
    return first, screen.getvalue().removeprefix(first)


def test_a_log_file_gets_no_passing_bar_and_two_states_of_a_lasting_one(monkeypatch: pytest.MonkeyPatch) -> None:
    passed, lasted = written(monkeypatch, io.StringIO())
    assert passed == "" and "\r" not in lasted
    first, last = lasted.splitlines()
    assert "100/200" in first and "200/200" in last


class Time:
    """A clock that goes on by a second whenever something is done."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_long_work_is_a_line_of_a_log_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, clock = io.StringIO(), Time()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("tqdm.std.time", clock)
    with passing_bar(100, "evaluate", "images") as bar:
        for _ in range(100):
            clock.now += 1
            bar.update()
    seen = [re.search(r"(\d+)/100 \[", line)[1] for line in screen.getvalue().splitlines()]
    assert seen == ["30", "60", "90"]
    assert all(line.startswith("evaluate:") for line in screen.getvalue().splitlines())


def test_the_rate_of_steps_leaves_pauses_out(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, clock = io.StringIO(), Time()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr("tqdm.std.time", clock)
    with lasting_bar(80, None, "steps") as bar:
        for step in range(80):
            clock.now += 0.5
            bar.update()
            if step == 70:
                clock.now += 1000
                leave_out(bar, 1000)
    *_, last = screen.getvalue().splitlines()
    assert "80/80 [00:40<" in last and "2.00 steps/s" in last
    silent = lasting_bar(9, None, "steps", shown=False)
    leave_out(silent, 3)


def test_a_terminal_sees_both(monkeypatch: pytest.MonkeyPatch) -> None:
    passed, lasted = written(monkeypatch, Screen())
    assert "features" in passed and "200/200" in lasted


def test_a_bar_that_is_not_to_be_shown_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    list(passing(range(9), "features", "images", shown=False))
    lasting_bar(9, None, "steps", shown=False).close()
    assert screen.getvalue() == ""
