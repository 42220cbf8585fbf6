"""How many illusions read both ways: anagrams of digits that turn into each other, hybrids of one digit from afar and
small ones, or a pattern, from near. The judges of digits and textures read what a viewer would see of each part."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from darkroom.evaluation.cascade import paint, schedule_of
from darkroom.evaluation.digits import recognise
from darkroom.evaluation.textures import SMALL, TextureWish, read_near_textures
from darkroom.models.catalog import open_model
from darkroom.models.painted_ink import COLOURS, DIGITS, PATTERNS
from darkroom.sampling.components import make_component
from darkroom.sampling.views import make_view

BEST_OF = {"anagram": 4, "hybrid": 8}  # pictures of a wish, of which one that reads both ways is enough
TURNS = ((6, 9, "rotate_180"), (2, 5, "flip_vertical"), (1, 7, "rotate_180"), (0, 8, "rotate_90"))
# Ink and paper, and what they are in the negative.
NEGATIVES = (("black", "white", "white", "black"), ("red", "white", "cyan", "black"), ("cyan", "black", "red", "white"))
INKS = tuple(colour for colour in COLOURS if colour != "white")
# Where a hybrid's two components part, in pixels at 64 px. Of real digits and textures put together so, the judges read
# both on 8 of 10 with patterns and on 4 of 10 with small digits, whose coarser part lies where the large digit's does.
SIGMA = {"a pattern": 1.75, "small digits": 1.5}
# What is near is painted last, so it is guided longer than if-xs is by itself; small digits run together to the end.
INTERVAL = {"a pattern": [0.0, 1.0], "small digits": [0.0, 0.9]}
NEAR = 2.0  # what is seen from near is read without what is coarser than this
AFAR = 3.0  # of the blur through which the first is read: of real digits the judge reads 99 % so, and 57 % at 5
KINDS = len(TURNS) + 1


def _near(pictures: Tensor) -> Sequence[str]:
    return read_near_textures(make_component("high_pass", sigma=NEAR)(pictures))


def _digits(pictures: Tensor) -> Sequence[Any]:
    return recognise(pictures).digits


@dataclass(frozen=True)
class Part:
    """What one way of looking is to show. row: the view or component with its prompt, as a manifest has it; seen: from
    pictures [N, 3, S, S] to what is looked at then; read: what that shows."""

    row: Mapping[str, Any]
    wanted: Any
    seen: Callable[[Tensor], Tensor]
    read: Callable[[Tensor], Sequence[Any]] = _digits


@dataclass(frozen=True)
class Illusion:
    """A picture that is to show two things; `name` says which, alike for all of a kind. settings: its rows' own."""

    task: str
    name: str
    parts: tuple[Part, Part]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, seed: int) -> list[dict[str, Any]]:
        """Its candidates."""
        key = {"anagram": "views", "hybrid": "components"}[self.task]
        row = {"task": self.task, key: [dict(part.row) for part in self.parts], **self.settings}
        return [{**row, "seed": seed + number} for number in range(BEST_OF[self.task])]


@dataclass(frozen=True)
class Reading:
    """Shares of a kind's pictures. read: of its wishes, those of which the best of `best_of` pictures reads both ways;
    first, second, both: of all its pictures those that read in the first part, in the second, in both."""

    wishes: int
    best_of: int
    read: float
    both: float
    first: float
    second: float


@dataclass(frozen=True, eq=False)
class IllusionEvaluation:
    """What was sampled and how it reads. pictures [N, 2, 3, S, S]: of every wish the candidate that reads best, as its
    two parts are seen; right: whether each does; by_kind: `Reading`s by the wishes' names, and by task in `by_task`."""

    wishes: list[Illusion]
    pictures: Tensor
    right: list[tuple[bool, bool]]
    by_task: dict[str, Reading]
    by_kind: dict[str, Reading]
    seconds: float

    def record(self) -> dict[str, object]:
        """What quality.json holds."""
        groups = {"by_task": self.by_task, "by_kind": self.by_kind}
        found = {name: {kind: asdict(reading) for kind, reading in group.items()} for name, group in groups.items()}
        return {**found, "seconds": round(self.seconds, 1)}

    def text(self) -> str:
        """A line for each task, and one for each kind."""
        lines = [f"{task}s: {_said(reading)}" for task, reading in self.by_task.items()]
        return "\n".join([*lines, *(f"  {kind}: {_said(reading)}" for kind, reading in self.by_kind.items())])


def _said(reading: Reading) -> str:
    return (
        f"{reading.read:.0%} of {reading.wishes} read both ways, best of {reading.best_of} "
        f"(one picture: {reading.both:.0%}; its first part {reading.first:.0%}, its second {reading.second:.0%})"
    )


def wished_illusions(count: int) -> list[Illusion]:
    """So many anagrams, of every kind in turn, and as many hybrids, of small digits and of patterns in turn."""
    return [*(_anagram(number) for number in range(count)), *(_hybrid(number) for number in range(count))]


def _anagram(number: int) -> Illusion:
    turn, kind = divmod(number, KINDS)
    if kind == len(TURNS):
        digit, (ink, paper, other, ground) = turn * 3 % 10, NEGATIVES[turn % len(NEGATIVES)]
        return _turned("negative", "negate", (digit, ink, paper), (digit, other, ground))
    (first, second, view), ink = TURNS[kind], INKS[number % len(INKS)]
    return _turned(f"{first}/{second} {view}", view, (first, ink, "white"), (second, ink, "white"))


def _turned(name: str, view: str, first: tuple[int, str, str], second: tuple[int, str, str]) -> Illusion:
    parts = [
        Part({"view": turn, "prompt": _prompt(*said)}, said[0], make_view(turn).apply)
        for turn, said in (("identity", first), (view, second))
    ]
    return Illusion("anagram", name, (parts[0], parts[1]))


def _hybrid(number: int) -> Illusion:
    """Digits over small ones that lie 1 to 9 apart in turn, so that every pair comes, and over patterns."""
    turn, odd = divmod(number, 2)
    far, ink = turn % 10, INKS[number % len(INKS)]
    kind = "a pattern" if odd else "small digits"
    texture = PATTERNS[turn % len(PATTERNS)] if odd else SMALL[(far + 1 + (turn + turn // 10) % 9) % 10]
    low, high = ({"component": name, "sigma": SIGMA[kind]} for name in ("low_pass", "high_pass"))
    near = TextureWish(texture, ink, "white", 0).prompt
    parts = (
        Part({**low, "prompt": _prompt(far, ink, "white")}, far, make_component("low_pass", sigma=AFAR)),
        Part({**high, "prompt": near}, texture, make_component("whole"), _near),
    )
    return Illusion("hybrid", f"digit over {kind}", parts, {"guidance_interval": INTERVAL[kind]})


def _prompt(digit: int, ink: str, paper: str) -> str:
    return f"a {ink} {DIGITS[digit]} on {paper}"


def sample_illusions(model: str, count: int, settings: Mapping[str, object]) -> IllusionEvaluation:
    """Samples `count` anagrams and as many hybrids with all stages of a cascade of painted digits, and reads them.

    settings: those of an evaluation: guidance, seed (of the first picture; the others follow), stride, or steps and
    their spacing. ValueError for no count.
    """
    if count < 1:
        raise ValueError(f"wanted some illusions, got {count}")
    began, wishes = time.monotonic(), wished_illusions(count)
    rows: list[dict[str, Any]] = []
    for wish in wishes:
        rows += wish.rows(int(settings["seed"]) + len(rows))
    common = {"negative_prompt": "", **schedule_of(settings)}
    cascade = open_model(model)
    *_, pictures = paint(cascade, [{**common, **row} for row in rows], len(cascade.stages))
    return judge_illusions(wishes, pictures, began)


def judge_illusions(wishes: Sequence[Illusion], pictures: Tensor, began: float) -> IllusionEvaluation:
    """pictures float32 [N, 3, S, S] in [-1, 1]: the candidates of every wish, one wish after another."""
    shown, right, all_right, start = [], [], [], 0
    for wish in wishes:
        candidates = pictures[start : (start := start + BEST_OF[wish.task])]
        seen = torch.stack([part.seen(candidates) for part in wish.parts], dim=1)
        read = [[found == part.wanted for found in part.read(seen[:, i])] for i, part in enumerate(wish.parts)]
        verdicts = list(zip(*read, strict=True))
        best = max(range(len(verdicts)), key=lambda number: sum(verdicts[number]))
        shown.append(seen[best])
        right.append(verdicts[best])
        all_right.append(verdicts)
    readings = [_grouped([getattr(wish, key) for wish in wishes], all_right) for key in ("task", "name")]
    return IllusionEvaluation(list(wishes), torch.stack(shown), right, *readings, time.monotonic() - began)


def _grouped(names: Sequence[str], verdicts: Sequence[list[tuple[bool, bool]]]) -> dict[str, Reading]:
    """By name; verdicts: of every wish those of its candidates."""
    found = {}
    for name in dict.fromkeys(names):
        own = [each for other, each in zip(names, verdicts, strict=True) if other == name]
        each = [verdict for wish in own for verdict in wish]
        first, second = ([verdict[part] for verdict in each] for part in (0, 1))
        both = [all(verdict) for verdict in each]
        read = [any(map(all, wish)) for wish in own]
        found[name] = Reading(len(own), len(own[0]), *map(_share, (read, both, first, second)))
    return found


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right)
