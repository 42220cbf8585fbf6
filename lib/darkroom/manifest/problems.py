"""Problems of a manifest: gathered while it is read, in bounded memory, and raised as one error."""

from __future__ import annotations

LISTED_PROBLEMS = 50
# One mistake in a generated manifest is in each of its rows: a text found more often than this is listed once.
LISTED_PLACES = 3
# A manifest of millions of rows with another problem in each must not fill the memory with sentences.
KEPT_TEXTS = 10_000


class ProblemsError(ValueError):
    """A file of the user's that cannot be followed. problems: all of them, each with its file and line or row."""

    what = "file"

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [f"the {self.what} has {count:,} problem{'s' if count > 1 else ''}:", *self.problems[:LISTED_PROBLEMS]]
        if count > LISTED_PROBLEMS:
            lines.append(f"... and {count - LISTED_PROBLEMS:,} more")
        return "\n  ".join(lines)


class ManifestError(ProblemsError):
    """The manifest asks for what cannot be done."""

    what = "manifest"


class Problems:
    """Problems by their text, so that a flood of one kind takes the memory and the lines of one."""

    def __init__(self, what: str = "problems") -> None:
        self._what = what
        self._places: dict[str, list[tuple[int, str]]] = {}
        self._last: dict[str, tuple[int, str]] = {}
        self._dropped = 0

    def __bool__(self) -> bool:
        return bool(self._places)

    def add(self, number: int, where: str, text: str) -> None:
        if text not in self._places and len(self._places) == KEPT_TEXTS:
            self._dropped += 1
            return
        places = self._places.setdefault(text, [])
        if len(places) < LISTED_PLACES:
            places.append((number, where))
        count, _ = self._last.get(text, (0, ""))
        self._last[text] = (count + 1, where)

    def lines(self) -> list[str]:
        found: list[tuple[int, str]] = []
        for text, places in self._places.items():
            count, last = self._last[text]
            if count > LISTED_PLACES:
                number, where = places[0]
                rest = f"(so in {count - 1:,} more places, the last is {last})"
                found.append((number, f"{where}: {text} {rest}"))
            else:
                found += [(number, f"{where}: {text}") for number, where in places]
        lines = [line for _, line in sorted(found, key=lambda entry: entry[0])]
        return lines + ([f"and {self._dropped:,} {self._what} that were not kept"] if self._dropped else [])
