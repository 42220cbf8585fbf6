"""Prompts that are longer than the text encoder reads: a warning by row, because the rest merely has no say."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from darkroom.manifest.problems import Places, Problems
from darkroom.manifest.tasks import Task
from darkroom.storage.hashing import hashed

REMEMBERED = 2**20  # prompts whose length is remembered, by their hashes


class Prompts:
    """Every prompt that the rows of a chunk ask, with the first of their places."""

    def __init__(self) -> None:
        self._found: dict[str, Places] = {}

    def add(self, number: int, where: str, task: Task) -> None:
        prompts = task.prompts()
        if prompts:  # else nothing is asked, and a negative prompt has no say either
            others = (task.negative_prompt, getattr(task, "prompt_2", None))
            prompts += [prompt for prompt in others if prompt is not None]
        for prompt in dict.fromkeys(prompts):
            self._found.setdefault(prompt, Places()).add(Places(1, [(number, where)], where))

    def items(self) -> Iterator[tuple[str, Places]]:
        yield from self._found.items()


class Lengths:
    """Counts the tokens of every prompt, each distinct one once. tokens: of a prompt, end mark included; most: as many
    as the encoder reads. Without them nothing is ever too long."""

    def __init__(self, tokens: Callable[[str], int] | None = None, most: int | None = None) -> None:
        self._tokens, self._most = tokens, most
        self._counted: dict[int, int] = {}
        self._warnings = Problems("warnings")

    def take(self, before: int, prompts: Prompts) -> None:
        """Those of the next chunk. before: rows of the manifest before it."""
        if self._tokens is None or self._most is None:
            return
        for prompt, places in prompts.items():
            count = self._count(prompt)
            if count > self._most:
                shown = prompt if len(prompt) <= 60 else f"{prompt[:57]}..."
                text = f"the prompt {shown!r} has {count} tokens, of which the model reads the first {self._most}"
                moved = Places()
                moved.add(places, before)
                self._warnings.add_many(text, moved)

    def lines(self) -> tuple[str, ...]:
        return tuple(self._warnings.lines())

    def _count(self, prompt: str) -> int:
        key = hashed(prompt)
        if key not in self._counted:
            if len(self._counted) == REMEMBERED:
                self._counted.clear()
            assert self._tokens is not None
            self._counted[key] = self._tokens(prompt)
        return self._counted[key]
