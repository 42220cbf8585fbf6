"""The image, built once for all tests of this folder."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import darkroom
from containers import Containers, why_not

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def containers() -> Containers:
    if reason := why_not():
        pytest.skip(reason)
    return Containers()


@pytest.fixture(scope="session")
def image(containers: Containers) -> str:
    """With the locked packages, CUDA's among them: what is tested is what is shipped."""
    tag = f"localhost/darkroom:{darkroom.__version__}"
    return containers.build(ROOT, tag, VERSION=darkroom.__version__, REVISION="0123abc")


@pytest.fixture(scope="session")
def hardened(containers: Containers, image: str) -> bool:
    """Whether containers run here as pods do; else by chroot alone."""
    return containers.runs_hardened(image)


@pytest.fixture(scope="session")
def run(containers: Containers, image: str, hardened: bool) -> Run:
    """Runs a line of bash in the image."""
    return lambda script, **more: (containers.run if hardened else containers.run_loosely)(image, script, **more)
