from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from darkroom.manifest import Abilities, ManifestError, checks, open_manifest
from darkroom.manifest.processes import ordered_map
from darkroom.storage import StorageError

TEXT = Abilities("if-xs", (24, 48), 48, "text", "diffusion", 1000, upscale=True)


def refuse(item: int) -> int:
    if item == 7:
        raise ManifestError(["seven"])
    if item == 27:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_a_few_items_pay_for_no_process() -> None:
    here = []
    assert list(ordered_map(here.append, range(3), processes=2)) == [None] * 3
    assert here == [0, 1, 2]


def test_what_goes_wrong_elsewhere_is_raised_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)  # where the other process finds this file
    with pytest.raises(ManifestError, match="seven"):
        list(ordered_map(refuse, range(20), processes=2))
    with pytest.raises(StorageError, match="was ended, perhaps for want of memory"):
        list(ordered_map(refuse, range(20, 40), processes=2))


def test_results_come_in_order_and_a_script_without_a_guard_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from functools import partial\n"
        "from darkroom.manifest.processes import ordered_map\n"
        "print(list(ordered_map(partial(pow, 3), range(50), processes=3)))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == (f"{[3**item for item in range(50)]}\n", 0), done.stderr


def test_a_long_manifest_has_the_same_problems_as_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"task": "text_to_image", "prompt": "x", "seed": seed % 40_000} for seed in range(-2, 60_000)]
    rows += [{"task": "text_to_image", "prompt": "x", "id": f"a{seed % 50_000}"} for seed in range(50_001)]
    path = tmp_path / "jobs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    found = []
    for processes in (1, 2):
        monkeypatch.setattr(checks, "ordered_map", partial(ordered_map, processes=processes))
        with pytest.raises(ManifestError) as caught:
            open_manifest(str(path), TEXT)
        found.append(caught.value.problems)
    assert found[0] == found[1]
    assert len(found[0]) == 2 and "the id 'a0' is given twice, first in jobs.jsonl line 60003" in found[0][0]
