"""The code that travels with a job: this package as it stands here, and nothing beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import darkroom
import darkroom.jobs

# What the package is made of. A list of what may go, because one of what may not always lacks something.
SUFFIXES = {".py", ".json", ".safetensors", ".parquet", ".csv", ".html", ".css", ".svg", ".txt", ".yaml", ".model"}


def stage(folder: str) -> None:
    """Copies the package, jobs included, to FOLDER/darkroom. Hidden files and files of other kinds stay here."""
    target = Path(folder, "darkroom")
    _copy(Path(darkroom.__path__[0]), target)
    _copy(Path(darkroom.jobs.__path__[0]), target / "jobs")


def _copy(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        hidden = any(part.startswith((".", "__pycache__")) for part in inside.parts)
        if path.is_file() and path.suffix in SUFFIXES and not hidden:
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / inside)
