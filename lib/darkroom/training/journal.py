"""What the workers of a training say. Its actor has no use for torch, and would take seconds to import it."""

from __future__ import annotations

import time


class Journal:
    """An actor that the workers tell what the user should read."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._final: tuple[str, str] | None = None
        self._heard = time.monotonic()

    def lives(self) -> None:
        self._heard = time.monotonic()

    def say(self, line: str) -> None:
        self._lines.append(line)
        self.lives()

    def since(self, count: int) -> tuple[list[str], float, bool]:
        """The lines after so many, the seconds since a worker was heard of, whether there is a final error."""
        return self._lines[count:], time.monotonic() - self._heard, self._final is not None

    def end(self, kind: str, message: str) -> None:
        """Notes an error that every other try would meet again."""
        self._final = self._final or (kind, message)

    def final(self) -> tuple[str, str] | None:
        return self._final
