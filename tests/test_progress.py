"""Bars: what a terminal shows and a log file does not."""

import io
import sys

import pytest

from gan.progress import lasting_bar, passing, passing_bar


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
    assert passed == ""
    assert lasted.count("\r") == 2 and "100/200" in lasted and "200/200" in lasted


def test_a_terminal_sees_both(monkeypatch: pytest.MonkeyPatch) -> None:
    passed, lasted = written(monkeypatch, Screen())
    assert "features" in passed and "200/200" in lasted


def test_a_bar_that_is_not_to_be_shown_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    list(passing(range(9), "features", "images", shown=False))
    lasting_bar(9, None, "steps", shown=False).close()
    assert screen.getvalue() == ""
