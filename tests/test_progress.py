"""Bars: what a terminal shows and a log file does not."""

import io
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


class FakeTime:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr("tqdm.std.time", fake)
    return fake


def test_a_log_file_gets_nothing_of_quick_work_and_two_lines_of_a_lasting_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    passed, lasted = written(monkeypatch, io.StringIO())
    assert passed == ""
    first, last = lasted.splitlines()
    assert "100/200" in first and "200/200" in last and "\r" not in lasted


@pytest.mark.parametrize("seconds", [1.0, 7.0, 29.0, 31.0])
def test_a_log_file_gets_a_line_every_half_minute(
    monkeypatch: pytest.MonkeyPatch, clock: FakeTime, seconds: float
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    with passing_bar(50, "evaluate", "images") as bar:  # an evaluation of 50 batches, then faster and slower ones
        for _ in range(50):
            clock.now += seconds
            bar.update()
    lines = screen.getvalue().splitlines()
    between = max(30 // seconds + (30 % seconds > 0), 1)  # batches from one line to the next
    assert len(lines) == 50 // between
    assert [int(line.split("| ")[-1].split("/")[0].split()[-1]) for line in lines] == [
        (i + 1) * between for i in range(len(lines))
    ]
    assert all(line.startswith("evaluate:") for line in lines)


def test_after_quick_steps_slow_ones_still_give_lines(monkeypatch: pytest.MonkeyPatch, clock: FakeTime) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    for _ in passing(range(310), "evaluate", "images"):
        clock.now += 0.1 if clock.now < 1030 else 40
    assert len(screen.getvalue().splitlines()) == 11  # the 300th step, and the last ten


def test_a_pause_is_left_out_of_the_rate(monkeypatch: pytest.MonkeyPatch, clock: FakeTime) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with lasting_bar(100, None, "steps") as bar:
        for step in range(40):
            clock.now += 1
            bar.update()
            if step == 20:
                clock.now += 500
                leave_out(bar, 500)
        assert bar.format_dict["elapsed"] == 40
        assert "00:40<01:00,  1.00 steps/s" in str(bar)
    leave_out(lasting_bar(9, None, "steps", shown=False), 3)


def test_a_terminal_sees_both(monkeypatch: pytest.MonkeyPatch) -> None:
    passed, lasted = written(monkeypatch, Screen())
    assert "features" in passed and "200/200" in lasted


def test_a_bar_that_is_not_to_be_shown_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    list(passing(range(9), "features", "images", shown=False))
    lasting_bar(9, None, "steps", shown=False).close()
    assert screen.getvalue() == ""
