"""Words that came from people, as Streamlit is to be given them: never as Markdown or HTML."""

from __future__ import annotations

import re

LONGEST = 300  # characters: a page must open whatever a row holds
_MARKS = re.compile(r"([!-/:-@\[-`{-~])")  # ASCII's punctuation, all of which CommonMark lets one escape (section 2.4)


def plain(text: object, most: int = LONGEST) -> str:
    """The same as Markdown that says just this, in one line of at most so many characters."""
    line = " ".join(str(text)[: most + 1].split())
    line = line if len(line) <= most else line[: most - 1] + "…"
    return _MARKS.sub(r"\\\1", line)
