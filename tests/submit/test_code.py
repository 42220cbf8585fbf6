"""What travels with a job: the package, and no file that lies about in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import darkroom
from darkroom.submit.submission import stage_code

STRAYS = (".env", "keys.env", "id_rsa", "server.pem", ".git/config", ".venv/lib/x.py", "__pycache__/a.pyc", "log.txt~")


def test_nothing_goes_that_lies_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    for name in (*STRAYS, "a.py", "room/b.py", "room/weights.safetensors", "room/config.json"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("")
    monkeypatch.setattr(darkroom, "__path__", [str(package)])
    monkeypatch.setattr(darkroom.jobs, "__path__", [str(package / "room")])
    stage_code(str(tmp_path / "staged"))
    staged = tmp_path / "staged" / "darkroom"
    assert sorted(path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()) == [
        *("a.py", "jobs/b.py", "jobs/config.json", "jobs/weights.safetensors"),
        *("room/b.py", "room/config.json", "room/weights.safetensors"),
    ]


def test_what_goes_is_whole(tmp_path: Path) -> None:
    """Every file that an installation would have, and jobs run from it alone."""
    stage_code(str(tmp_path))
    staged = {path.relative_to(tmp_path / "darkroom") for path in tmp_path.rglob("*") if path.is_file()}
    for source, inside in ((darkroom.__path__[0], "."), (darkroom.jobs.__path__[0], "jobs")):
        files = [path for path in Path(source).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        left = {Path(inside, path.relative_to(source)) for path in files} - staged
        assert {path.suffix for path in left} <= {".md"}, left
    told = "import darkroom, darkroom.jobs.generate as job; print(darkroom.__file__, job.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    said = subprocess.check_output([sys.executable, "-c", told], env=environment, text=True, cwd=tmp_path)
    assert all(Path(path).is_relative_to(tmp_path) for path in said.split())
