"""A browser without a window, spoken to in the DevTools protocol over a pipe: JSON messages that end in a zero byte."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# All elements of a page, those in shadow roots too.
WALK = """
function* elements(root) {
  for (const element of root.querySelectorAll('*')) {
    yield element;
    if (element.shadowRoot) yield* elements(element.shadowRoot);
  }
}
"""
TEXTS = """
const written = [...elements(document)].filter(element => !['STYLE', 'SCRIPT', 'HEAD'].includes(element.tagName))
  .flatMap(element => [...element.childNodes]).filter(node => node.nodeType === Node.TEXT_NODE);
written.map(node => node.textContent.trim()).filter(Boolean);
"""


def find_browser() -> str | None:
    """The first browser that is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page of a browser."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer = reader, writer
        self._received, self._count, self._session = b"", 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What a method of the protocol gives."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        while (answer := self._next_message()).get("id") != self._count:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, which may use `elements(document)`: see `WALK`."""
        answer = self.call("Runtime.evaluate", expression=f"{{{WALK}\n{expression}}}", returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def texts(self) -> list[str]:
        """What is written on the page, element by element."""
        return self.evaluate(TEXTS)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Return when a condition holds, or the time is up."""
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            time.sleep(0.2)

    def _next_message(self, seconds: float = 60) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._reader], [], [], seconds)
            part = os.read(self._reader, 1 << 16) if ready else b""
            assert part, "the browser says nothing"
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)


@contextmanager
def opened(browser: str, profile: Path) -> Iterator[Page]:
    """A page of a browser that keeps what it must in `profile`, closed afterwards."""
    to_browser, from_browser = os.pipe(), os.pipe()
    ends = {to_browser[0]: 3, from_browser[1]: 4}

    def give_pipe() -> None:
        """The browser reads descriptor 3 and writes descriptor 4, which may be something else here."""
        for copy, number in [(fcntl.fcntl(end, fcntl.F_DUPFD, 10), number) for end, number in ends.items()]:
            os.dup2(copy, number)

    arguments = ["--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    arguments += ["--disable-dev-shm-usage", "--window-size=1600,1200", f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        [browser, *arguments], stderr=subprocess.DEVNULL, preexec_fn=give_pipe, close_fds=False, start_new_session=True
    )
    for end in ends:
        os.close(end)
    try:
        yield Page(from_browser[0], to_browser[1])
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        for end in (from_browser[0], to_browser[1]):
            os.close(end)
