"""What `darkroom init` writes: the files beside this one."""

from __future__ import annotations

import shutil
from pathlib import Path

_HERE = Path(__file__).parent


def write_starter(folder: Path) -> list[str]:
    """Copies the files into the folder; their names. ValueError, and nothing is written, where one is there."""
    files = sorted(path.relative_to(_HERE) for path in _HERE.rglob("*") if path.is_file() and _is_data(path))
    if present := [str(file) for file in files if (folder / file).exists()]:
        raise ValueError(f"{folder} has {', '.join(present)} already, which are not overwritten: name another folder")
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_HERE / file, folder / file)
    return [str(file) for file in files]


def _is_data(path: Path) -> bool:
    return path.suffix != ".py" and "__pycache__" not in path.parts
