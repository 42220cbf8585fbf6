"""Problems of a manifest: gathered while it is read, in bounded memory, and raised as one error."""

from __future__ import annotations

from dataclasses import dataclass, field

from darkroom.phases import plural

LISTED_PROBLEMS = 50
# One mistake in a generated manifest is in each of its rows: a text found more often than this is listed once.
LISTED_PLACES = 3
# A manifest of millions of rows with another problem in each must not fill the memory with sentences.
KEPT_TEXTS = 10_000


class ProblemsError(ValueError):
    """A file of the user's that cannot be followed. problems: all of them, each with its file and line or row; note:
    what else to know."""

    what = "file"

    def __init__(self, problems: list[str], note: str = "") -> None:
        super().__init__(problems)
        self.problems, self.note = problems, note

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [f"the {self.what} has {plural(count, 'problem')}:", *self.problems[:LISTED_PROBLEMS]]
        if count > LISTED_PROBLEMS:
            lines.append(f"... and {count - LISTED_PROBLEMS:,} more")
        return "\n  ".join([*lines, *filter(None, [self.note])])


class ManifestError(ProblemsError):
    """The manifest asks for what cannot be done."""

    what = "manifest"


@dataclass
class Places:
    """Where something is found. first: number of the row and its place in words, of the first few; last: its place."""

    count: int = 0
    first: list[tuple[int, str]] = field(default_factory=list)
    last: str = ""

    def add(self, more: Places, offset: int = 0) -> None:
        """What is found later. offset: rows before those that `more` numbers."""
        room = LISTED_PLACES - len(self.first)
        self.first += [(offset + number, where) for number, where in more.first[:room]]
        self.count, self.last = self.count + more.count, more.last


class Problems:
    """Problems by their text, so that a flood of one kind takes the memory and the lines of one."""

    def __init__(self, what: str = "problems") -> None:
        self._what = what
        self._found: dict[str, Places] = {}
        self._dropped = 0

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, number: int, where: str, text: str) -> None:
        self.add_many(text, Places(1, [(number, where)], where))

    def add_many(self, text: str, more: Places) -> None:
        if text not in self._found and len(self._found) == KEPT_TEXTS:
            self._dropped += more.count
            return
        self._found.setdefault(text, Places()).add(more)

    def lines(self) -> list[str]:
        found: list[tuple[int, str]] = []
        for text, places in self._found.items():
            if places.count > LISTED_PLACES:
                number, where = places.first[0]
                rest = f"(so in {places.count - 1:,} more places, the last is {places.last})"
                found.append((number, f"{where}: {text} {rest}"))
            else:
                found += [(number, f"{where}: {text}") for number, where in places.first]
        lines = [line for _, line in sorted(found, key=lambda entry: entry[0])]
        return lines + ([f"and {self._dropped:,} {self._what} that were not kept"] if self._dropped else [])
