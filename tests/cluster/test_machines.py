"""cluster/vm: what `ray up` brings to a plain machine, and in which order it is set up there; Slurm's script."""

from __future__ import annotations

import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from kustomize import Object

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "vm"


@pytest.fixture(params=["aws", "gcp"])
def told(request: pytest.FixtureRequest) -> Object:
    return yaml.safe_load((FOLDER / f"{request.param}.yaml").read_text())


def test_all_of_the_package_gets_there_and_every_file_that_is_named(told: Object) -> None:
    """A pattern of rsync's without a slash before it leaves out what has that name at any depth, lone files too."""
    anywhere = [pattern for pattern in told["rsync_exclude"] if "/" not in pattern]
    code = [path.relative_to(ROOT) for room in ("lib", "jobs", "manifests") for path in (ROOT / room).rglob("*.*")]
    wanted = [*code, *(Path(Path(source).name) for source in told["file_mounts"].values())]
    assert len(wanted) > 200
    assert [path for path in wanted for part in path.parts if any(fnmatch(part, name) for name in anywhere)] == []


def test_what_a_bare_ubuntu_lacks_is_installed_before_it_is_called(told: Object) -> None:
    """Its images for clouds have neither make nor pip; 24.04's pip wants to be told that it may install."""
    lines = told["setup_commands"]
    (first,) = [number for number, line in enumerate(lines) if "apt-get install" in line]
    assert {"make", "python3-pip"} <= set(lines[first].split())
    called = [number for number, line in enumerate(lines) if "make -C" in line or "-m pip" in line]
    assert called and min(called) > first
    assert all(line.startswith("PIP_BREAK_SYSTEM_PACKAGES=1 ") for line in lines if "-m pip" in line)


def test_slurm_refuses_to_begin_without_a_token(tmp_path: Path) -> None:
    """With 2: of a Ray that could not start, `ray symmetric-run` makes 0."""
    command = ["bash", str(FOLDER / "slurm.sh"), "generate", "manifests/demo.yaml", "--out", str(tmp_path / "run")]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, f"no token in {tmp_path}/.ray/auth_token: see the head of this file\n")


def test_files_with_keys_stay_out_of_the_repository() -> None:
    """cluster/.env of Docker Compose, storage.env of a Secret: what says how to fill them in says that they do."""
    assert "*.env" in (ROOT / ".gitignore").read_text().splitlines()
