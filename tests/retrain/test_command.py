"""`darkroom retrain ...` as a user types it, for what needs no training."""

from __future__ import annotations

import pytest
import typer

from darkroom.jobs import retrain as job
from darkroom.retrain.tick_record import fresh
from darkroom.storage import open_store
from small_world import World


def run(file: str, tick: str | None = None, check: bool = False) -> int:
    with pytest.raises(typer.Exit) as stopped:
        job.main(file, tick=tick, check=check, address=None, verbose=False)
    return stopped.value.exit_code


def test_check_says_what_is_due(here: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(here.file(), "2026-11-21T02:00:00Z", check=True) == 0
    assert capsys.readouterr().out == "digits: due: 20261121T020000Z\n"


def test_a_tick_that_is_over_is_a_result_again(here: World, capsys: pytest.CaptureFixture[str]) -> None:
    fresh(open_store(f"{here.uri}/out"), "20261121T020000Z").end("refused", "size: 7 is not at most 6")
    assert run(here.file(), "20261121T020000Z") == 0
    said = capsys.readouterr()
    assert said.out.startswith("20261121T020000Z  refused  size: 7 is not at most 6\n")
    assert (said.out + said.err).count("size: 7") == 1, "once"
    fresh(open_store(f"{here.uri}/out"), "20261122T020000Z").end("rolled_back", "the smoke manifest failed")
    assert run(here.file(), "20261122T020000Z") == 1


def test_mistakes_are_sentences_and_exit_code_2(here: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(here.file(gate={"class_acuracy": {"at_least": 1}})) == 2
    assert "the pipeline has 1 problem:\n  pipeline.yaml line" in capsys.readouterr().err
    assert run(here.file(), tick="tonight") == 2
    assert "--tick tonight: wanted a time as 2026-11-21T02:00:00Z" in capsys.readouterr().err
    assert run(here.file(), tick="20261121T020000Z") == 2
    assert "no data under" in capsys.readouterr().err, "and it is on record"
    store = open_store(f"{here.uri}/out")
    assert b'"outcome": "failed"' in store.read("ticks/20261121T020000Z.json") and store.exists("index.html")


def test_nothing_due_is_no_failure(here: World, capsys: pytest.CaptureFixture[str]) -> None:
    leap = {"cron": "0 2 29 2 *", "time_zone": "UTC", "missed": "none"}  # the 29th of February: any other day is late
    assert run(here.file(schedule=leap)) == 0
    assert capsys.readouterr().out == "digits: nothing is due\n"
