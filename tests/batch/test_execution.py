"""A job as it goes on: what it says meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom import metrics
from darkroom.batch.generate import Options, run
from runs import write_manifest


def test_a_run_says_what_is_left_while_it_commits_nothing(
    shared_ray: None, toy_network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray forgets a gauge that nobody sets again: the alert on a run that stands still would never see it."""
    said: list[int] = []
    show = metrics.RunMetrics.show_left
    monkeypatch.setattr(metrics.RunMetrics, "show_left", lambda self: (said.append(self.left), show(self)))
    rows = [{"task": "text_to_image", "label": 7, "id": f"r{n}", "seed": n, "steps": 2} for n in range(3)]
    run(Options(write_manifest(tmp_path, rows), str(tmp_path / "run"), toy_network), lambda line: None)
    assert said.count(3) > 1 and said[-1] == 0
