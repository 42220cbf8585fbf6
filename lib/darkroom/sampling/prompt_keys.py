"""What a row asks a model by, as one string: a prompt, and where the row says more of how it is to be read, that too.

Rows of one key share an embedding. A key that is not its prompt begins with MARK, and JSON follows.
"""

from __future__ import annotations

import json
from typing import NamedTuple

MARK = "\x1f"  # ASCII's unit separator, which no keyboard writes


class PromptKey(NamedTuple):
    """prompt: what the text encoder reads; second: what a second encoder reads, where it is another text.

    clip_skip: layers of the encoder's end that are left out. nothing: no text at all, for which some models have
    zeros and not what they make of the empty text.
    """

    prompt: str
    second: str | None = None
    clip_skip: int = 0
    nothing: bool = False

    def write(self) -> str:
        """The key."""
        if self == PromptKey(self.prompt) and not self.prompt.startswith(MARK):
            return self.prompt
        return MARK + json.dumps(self._asdict(), ensure_ascii=False)

    @classmethod
    def read(cls, key: str) -> PromptKey:
        """What `write` wrote, or a plain prompt."""
        return cls(**json.loads(key.removeprefix(MARK))) if key.startswith(MARK) else cls(key)


def prompt_key(prompt: str, second: str | None = None, clip_skip: int = 0) -> str:
    """The key of a prompt. Rows by the million are plain, and need no more than this."""
    if second is None and not clip_skip and not prompt.startswith(MARK):
        return prompt
    return PromptKey(prompt, second, clip_skip).write()


def prompt_of(key: str) -> str:
    """The prompt of a key."""
    return PromptKey.read(key).prompt if key.startswith(MARK) else key
