from __future__ import annotations

from pathlib import Path

import pytest

from small_world import World


@pytest.fixture
def world(store_uri: str, tmp_path: Path) -> World:
    return World(store_uri, tmp_path)


@pytest.fixture
def here(tmp_path: Path) -> World:
    """A world in a folder, for what has nothing to do with storage."""
    return World(str(tmp_path / "world"), tmp_path)
