"""What `darkroom init` writes can be run as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from darkroom.manifest import open_manifest
from darkroom.models.catalog import abilities, open_model
from darkroom.starter import write_starter
from runs import tree


def test_its_manifests_are_good_for_the_embedded_model(tmp_path: Path) -> None:
    files = write_starter(tmp_path)
    assert files == tree(tmp_path) and "first.yaml" in files
    named = re.findall(r"darkroom generate (\S+)", (tmp_path / "README.md").read_text())
    assert named
    for name in named:
        rows = list(open_manifest(str(tmp_path / name), abilities(open_model("if-xs"))).tasks())
        assert len(rows) >= 3
        for row in rows:
            assert all(
                (tmp_path / value).exists() for key, value in row.canonical().items() if key in ("image", "mask")
            )


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text("mine")
    with pytest.raises(ValueError, match="has first.yaml already"):
        write_starter(tmp_path)
    assert tree(tmp_path) == ["first.yaml"] and (tmp_path / "first.yaml").read_text() == "mine"
