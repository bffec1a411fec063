"""Runs `octavo` as a user does: in a separate process."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

COMMAND = [sys.executable, "-m", "octavo.cli.main"]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "COLUMNS": "120", "PYTHONUNBUFFERED": "1", **extra}


def octavo(*arguments: str | Path, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]:
    """Runs octavo to its end. Returns the finished process, with its outputs as text."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], input=data, capture_output=True, env=environment(), timeout=120
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


class Terminal:
    """`octavo` on a pseudo-terminal: reads what it shows and types keys."""

    def __init__(self, arguments: list[str], **variables: str):
        """variables: of the environment; by default the terminal cannot do anything special."""
        self.arguments, self.variables = arguments, {"TERM": "dumb", **variables}
        self.seen, self.status = "", cast(int | None, None)
        self._read = 0

    def __enter__(self) -> Terminal:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [*COMMAND, *self.arguments], environment(**self.variables))
        return self

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        """Waits for a regular expression. Returns what was shown since the last call, up to its end."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen[self._read :])):
            assert time.monotonic() < end, f"{pattern!r} did not come; there was: {self.seen!r}"
            if not self._more():
                raise AssertionError(f"{pattern!r} did not come before the end; there was: {self.seen!r}")
        text = self.seen[self._read : self._read + found.end()]
        self._read += found.end()
        return text

    def leave(self, seconds: float = 30) -> int:
        """Waits until the program ends by itself. Returns its exit status."""
        end = time.monotonic() + seconds
        while self._more():
            assert time.monotonic() < end, f"it goes on: {self.seen!r}"
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def _more(self) -> bool:
        """Reads what is there, after a short wait at most. Returns False at the end."""
        if not select.select([self.fd], [], [], 0.5)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # Linux says so when the other side is closed
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)

    def __exit__(self, *error: object) -> None:
        if self.status is None:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        os.close(self.fd)
