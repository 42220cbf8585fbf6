"""What a job is at, said as it begins, each line with the seconds since the program began: the time up to the next line
is what it took."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable

BEGAN = time.monotonic()  # the console command imports this first
current, current_since = "", BEGAN  # what was said to begin last, and when

Say = Callable[[str], None]

_SECRETS = (
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "RAY_AUTH_TOKEN",
)  # fmt: skip
_SHORTEST = 8  # letters of one: "secret" may stand in any sentence
# A password may have any sign in it, but a name and a port are no password. registry://NAME@VERSION has none.
_KEYS = re.compile(r"\b(?!registry:)([a-z][a-z0-9+.-]*://)(?:[^/\s\"']*@|[^/\s\"':@]*:(?!\d+(?:/|\b))[^\s\"']*@)")
_SIGNED = re.compile(r"([?&](?:x-amz-\w[\w-]*|signature|sig|token|access_token|api_?key)=)[^&\s\"']+", re.IGNORECASE)


def redacted(text: str) -> str:
    """A text for people, without what nobody should read in it: keys before the host of its urls (http://key:secret@host
    is http://host), signatures, and the secrets of this process' environment."""
    for name in _SECRETS:
        if len(value := os.environ.get(name, "")) >= _SHORTEST:
            text = text.replace(value, "***")
    return _SIGNED.sub(r"\1...", _KEYS.sub(r"\1", text))


def plural(count: int, one: str, many: str = "") -> str:
    """`1 row`, `2,000 rows`. many: where it is not `one` and an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 48 s, 3 min 20 s, 5 h 12 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def phase(say: Say, what: str, ago: float = 0.0) -> None:
    """Says that `what` began, so many seconds ago: `   3.2 s  starting Ray`."""
    global current, current_since
    current, current_since = what, time.monotonic()
    say(f"{current_since - BEGAN - ago:7.1f} s  {what}")


def phase_of_ray(say: Say, address: str | None) -> None:
    """Says that Ray is joined at that address, or started here."""
    phase(say, "starting Ray" if address is None else f"joining the Ray cluster at {address}")


def to_stderr(line: str) -> None:
    """A line for the user, whole even where two threads have something to say."""
    sys.stderr.write(f"{redacted(line)}\n")
    sys.stderr.flush()
