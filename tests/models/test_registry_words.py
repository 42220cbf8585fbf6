"""`darkroom registry ...` as a user reads it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from darkroom.jobs import registry as job

from darkroom.models.registry import RegisteredModel


@pytest.fixture
def root(tmp_path: Path, toy_network: str) -> str:
    """A registry with two versions of one model, the second live."""
    model = RegisteredModel(str(tmp_path), "digits")
    for loss in (0.25, 0.125):
        before = model.champion()
        number = model.claim()
        metrics = {"validation_loss": {"mean": loss, "by_seed": [loss], "interval": [loss, loss]}}
        evaluation = {"evaluator": 1, "metrics": metrics}
        record = {"parent": before and before.version, "evaluation": evaluation, "packages": {"torch": "2"}}
        model.register(number, toy_network, record)
        model.promote(number, before, tick="20261121T020000Z")
    return str(tmp_path)


def said(capsys: pytest.CaptureFixture[str], *arguments: Any, **options: Any) -> str:
    job.main(*arguments, **{"registry": None, "at": None, "to": None, "reason": "", **options})
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any, **options: Any) -> str:
    with pytest.raises(typer.Exit) as stopped:
        said(capsys, *arguments, **options)
    assert stopped.value.exit_code == 2
    return capsys.readouterr().err


def test_list_show_diff_and_rollback(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "list", registry=root).startswith("digits                  champion: version 2, since 20")
    before = datetime.now(UTC).isoformat()
    assert said(capsys, "diff", "digits", [1, 2], registry=root).splitlines()[1:] == [
        "metrics.validation_loss: 0.25 -> 0.125",
        "parent: None -> 1",
    ]
    rolled = said(capsys, "rollback", "digits", registry=root, reason="sevens look like ones")
    assert rolled == "the champion of digits is version 1 again\n"
    history = said(capsys, "show", "digits", registry=root).splitlines()
    assert history[0] == "digits: champion 1" and len(history) == 6
    assert "rolled_back version 1   from 2, reason sevens look like ones  by " in history[-1]
    assert "promoted    version 2   tick 20261121T020000Z  by " in history[-2]
    assert said(capsys, "show", "digits", registry=root, at=before).endswith(": version 2\n")
    assert said(capsys, "show", "digits", registry=root, at="2020-01-01T00:00Z").endswith(": no champion\n")


def test_what_is_not_there_is_a_sentence(
    root: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "there is no model 'letters' in" in refused(capsys, "show", "letters", registry=root)
    assert "of which model? There are: digits" in refused(capsys, "show", registry=root)
    assert "Give --registry its folder or s3:// uri, or set DARKROOM_REGISTRY" in refused(capsys, "list")
    assert "digits has no version 7" in refused(capsys, "diff", "digits", [1, 7], registry=root)
    assert "wanted two versions; there are: [1, 2]" in refused(capsys, "diff", "digits", [1], registry=root)
    assert "in which time zone?" in refused(capsys, "show", "digits", registry=root, at="2026-11-21T12:00:00")
    assert "digits@2 is the champion already" in refused(capsys, "rollback", "digits", registry=root, to=2)
    assert said(capsys, "list", registry=f"{root}/none") == f"no models in {root}/none\n"
