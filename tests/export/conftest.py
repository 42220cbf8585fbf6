from __future__ import annotations

from pathlib import Path

import pytest

from exports import make_run


@pytest.fixture
def run(tmp_path: Path) -> str:
    return make_run(str(tmp_path / "run"))
