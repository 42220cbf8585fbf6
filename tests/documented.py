"""The commands on the pages, as their readers type them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("manifests/*.md"), *ROOT.glob("cluster/*.md")]
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"""'[^']*'|"[^"]*\"""")
COMMAND = re.compile(r'(?:^|(?<!-n)\s|\$\()darkroom (?=[a-z])(.*?)(?:\)"|\s#\s.*|\s(?:>|\|).*)?$')


def commands(text: str) -> list[str]:
    """What follows `darkroom` in fenced and indented lines: no synopses, whose words are in brackets,
    and no loops of a shell."""
    blocks = [body for language, body in FENCE.findall(text) if language in ("", "sh", "bash")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines() + re.findall(r"^ {4}(darkroom .*)", text, re.MULTILINE)
    found = [match[1].partition(')"')[0].strip() for line in lines if (match := COMMAND.search(line))]
    return [line for line in found if not re.search(r"[\[\]{|;]", QUOTED.sub("", line))]


def section(text: str, heading: str | None) -> str:
    """What stands between a heading and the next; all of it for none."""
    parts = re.split(r"^#+ (.*)\n", text, flags=re.MULTILINE)
    return text if heading is None else parts[parts.index(heading) + 1]
