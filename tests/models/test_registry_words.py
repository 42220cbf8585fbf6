"""`darkroom registry ...` as a user reads it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from darkroom.jobs import registry as job
from darkroom.models.registry import RegisteredModel
from darkroom.storage.lease import actor


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


def said(*arguments: str) -> str:
    done = CliRunner().invoke(job.app, [*arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(job.app, [*arguments])
    assert done.exit_code == 2, done.output
    return done.stderr


def test_list_show_diff_and_rollback(root: str) -> None:
    assert said("list", "--registry", root).startswith("digits                  champion: version 2, since 20")
    before = datetime.now(UTC).isoformat()
    assert said("diff", "digits", "1", "2", "--registry", root).splitlines()[1:] == [
        "metrics.validation_loss: 0.25 -> 0.125",
        "parent: None -> 1",
    ]
    rolled = said("rollback", "digits", "--registry", root, "--reason", "sevens look like ones")
    assert rolled == "the champion of digits is version 1 again\n"
    history = said("show", "digits", "--registry", root).splitlines()
    assert history[0] == "digits: champion 1" and len(history) == 6
    assert "rolled_back version 1   from 2, reason sevens look like ones  by " in history[-1]
    assert "promoted    version 2   tick 20261121T020000Z  by " in history[-2]
    assert said("show", "digits", "--registry", root, "--at", before).endswith(": version 2\n")
    assert said("show", "digits", "--registry", root, "--at", "2020-01-01T00:00Z").endswith(": no champion\n")


def test_what_is_not_there_is_a_sentence(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DARKROOM_REGISTRY", raising=False)
    assert "there is no model 'letters' in" in refused("show", "letters", "--registry", root)
    assert "Give --registry its folder or s3:// uri, or set DARKROOM_REGISTRY" in refused("list")
    assert "digits has no version 7" in refused("diff", "digits", "1", "7", "--registry", root)
    assert "in which time zone?" in refused("show", "digits", "--registry", root, "--at", "2026-11-21T12:00:00")
    assert "digits@2 is the champion already" in refused("rollback", "digits", "--registry", root, "--to", "2")
    assert said("list", "--registry", f"{root}/none") == f"no models in {root}/none\n"


def test_a_model_is_put_in_and_promoted_by_hand(root: str, toy_network: str) -> None:
    where = ("--registry", root)
    added = said("add", "digits", toy_network, *where, "--reason", "mended labels")
    assert added == f"{toy_network} is digits@3; live it is after: darkroom registry promote digits 3\n"
    assert said("show", "digits", *where).startswith("digits: champion 2\n"), "not live before it is promoted"
    assert said("promote", "digits", "3", *where, "--reason", "shown to a person") == (
        "the champion of digits is version 3\n"
    )
    registered, promoted = said("show", "digits", *where).splitlines()[-2:]
    assert f"registered  version 3   from {toy_network}, reason mended labels  by {actor()}" in registered
    assert f"promoted    version 3   by hand, past every gate, reason shown to a person  by {actor()}" in promoted
    assert "digits@3 is the champion already" in refused("promote", "digits", "3", *where)
    assert said("rollback", "digits", *where) == "the champion of digits is version 2 again\n"
    assert said("promote", "digits", "1", *where) and said("rollback", "digits", *where).endswith("version 2 again\n")
    said("add", "new", toy_network, *where)
    assert "new                     champion: none yet; 1 version" in said("list", *where)
    assert said("promote", "new", "1", *where) and "new@1 is the first champion" in refused("rollback", "new", *where)
