"""What a machine remembers for all of its processes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from darkroom.models import sources
from darkroom.models.node_cache import remember
from darkroom.models.sources import LocalFolder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DARKROOM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_of_several_who_ask_at_once_one_finds_it(cache: Path) -> None:
    found: list[int] = []

    def find() -> list[int]:
        found.append(1)
        return [3, 4]

    answers: list[list[int]] = []
    askers = [threading.Thread(target=lambda: answers.append(remember("facts", "a b", find))) for _ in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert answers == [[3, 4]] * 8 and len(found) == 1
    assert remember("facts", "a c", find) == [3, 4] and len(found) == 2, "another question"
    (kept,) = [path for path in (cache / "facts").glob("*.json") if '"a b"' in path.read_text()]
    kept.write_text("{torn")
    assert remember("facts", "a b", find) == [3, 4] and len(found) == 3


def test_a_cache_that_cannot_be_written_is_no_loss(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert remember("facts", "a", lambda: 7) == 7


def test_weights_are_hashed_once_a_machine_and_anew_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    real = sources._sha256
    monkeypatch.setattr(sources, "_LARGE", 10)
    monkeypatch.setattr(sources, "_sha256", lambda path: hashed.append(path) or real(path))
    weights = tmp_path / "model" / "unet" / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"x" * 100)
    first = LocalFolder(str(tmp_path / "model")).digest(["unet"])
    assert LocalFolder(str(tmp_path / "model")).digest(["unet"]) == first and hashed == [weights]
    weights.write_bytes(b"y" * 100)
    assert LocalFolder(str(tmp_path / "model")).digest(["unet"]) != first and len(hashed) == 2
