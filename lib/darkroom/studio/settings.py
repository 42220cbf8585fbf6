"""What the studio was started with, for its pages."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

VARIABLE = "DARKROOM_STUDIO"


@dataclass(frozen=True)
class Settings:
    """runs: a folder or s3:// uri with runs below it, or a run itself; registry: a uri, "" for none; address: of a
    cluster's job API, "" for none; model, adapter, control, depth, scorer: of the page Make, as `generate` has them, no
    model for no such page. The token is not here: pages need none."""

    runs: str
    registry: str = ""
    address: str = ""
    model: str = ""
    adapter: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    depth: str | None = None
    scorer: str | None = None

    def write(self) -> None:
        """For `read`, in this process and in those that it starts."""
        os.environ[VARIABLE] = json.dumps(asdict(self))


def read() -> Settings:
    """Those of this process. ValueError where the studio was not started by `darkroom studio`."""
    given = os.environ.get(VARIABLE)
    if given is None:
        raise ValueError(f"{VARIABLE} is not set: start the studio by `darkroom studio RUNS`")
    record = json.loads(given)
    return Settings(**record | {name: tuple(record[name]) for name in ("adapter", "control")})
