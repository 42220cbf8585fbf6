"""The desk on the embedded cascade: rows take a job's way, several share passes, none is made twice."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from darkroom.batch.options import Options
from darkroom.batch.sample import sample
from darkroom.manifest import ManifestError, open_manifest
from darkroom.models.catalog import abilities, open_model
from darkroom.models.errors import ModelError
from darkroom.runs.audit import Audit, audit, fix
from darkroom.runs.reading import NoRun, open_run, read_run_record
from darkroom.storage import StorageError, image_key_of
from darkroom.studio.desk import CAPACITY, MOST_OPEN, Desk, Ticket
from runs import png

ROW = {"task": "text_to_image", "prompt": "a red seven", "steps": 4, "seed": 1}
LONG = ROW | {"steps": 400, "seed": 2}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(Options("", str(tmp_path_factory.mktemp("desk"))), say=lambda line: None)
    yield desk
    desk.close()


def ended(ticket: Ticket) -> Ticket:
    until = time.monotonic() + 120
    while ticket.ended is None:
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.01)
    return ticket


def audited(desk: Desk) -> Audit:
    """Its run, once that knows of all rows."""
    until = time.monotonic() + 60
    while True:
        with suppress(NoRun):
            if read_run_record(desk.store)["manifest"]["rows"] == len(desk._requests):
                return audit(desk.store.root)
        assert time.monotonic() < until, "its rows are never said"
        time.sleep(0.01)


def test_a_row_is_made_as_elsewhere_and_kept_as_a_jobs_is(desk: Desk) -> None:
    made = ended(desk.submit(ROW))
    assert made.problem == "" and made.record is not None and not made.known
    (alone,) = sample("if-xs", ROW, capacity=CAPACITY)
    picture = np.asarray(Image.open(io.BytesIO(desk.picture(made.record))))
    assert np.array_equal(picture, np.asarray(alone))
    again = desk.submit({"prompt": "a red seven", "seed": 1, "steps": 4.0, "task": "text_to_image"})
    assert again.known and again.ended is not None and again.record == made.record
    run = open_run(desk.store.root)
    assert np.array_equal(np.asarray(run.picture(made.id)), picture)
    assert audited(desk).passed


def test_rows_that_come_together_share_passes(desk: Desk) -> None:
    engine = desk._workers[0].engine
    before = engine.statistics.passes
    rows = [ROW | {"seed": seed, "steps": 20} for seed in (10, 11, 12)]
    tickets = [desk.submit(row) for row in rows]
    assert desk.submit(rows[0]) is tickets[0], "what two people ask for at once is one row"
    seen = set()
    while any(ticket.ended is None for ticket in tickets):
        seen.add(desk.progress(tickets[0]))
        time.sleep(0.002)  # who only asks leaves the engine no processor
    passes = engine.statistics.passes - before
    assert [ticket.problem for ticket in tickets] == [""] * 3
    assert passes < 2 * 20, f"alone they take 20 passes each, together {passes}"
    moves = [made for made, of in seen if of == 20]
    assert len(moves) > 3 and max(moves) > 10, "it is told how far it is"


def test_pictures_and_masks_are_kept_with_the_run(desk: Desk) -> None:
    picture = desk.keep_picture(png(24))
    mask = desk.keep_picture(png(24, mode="L"))  # its left half is white
    row = {"task": "inpaint", "image": picture, "mask": mask, "prompt": "a red one"}
    made = ended(desk.submit(row | {"steps": 4}))
    assert made.problem == "" and picture.startswith(desk.store.root)
    pixels = np.asarray(open_run(desk.store.root).picture(made.id))
    given = np.asarray(Image.open(io.BytesIO(png(24))))
    assert np.array_equal(pixels[:, 12:], given[:, 12:]) and not np.array_equal(pixels[:, :12], given[:, :12])


def test_what_cannot_be_asked_for_is_refused_and_what_cannot_be_made_is_said(desk: Desk) -> None:
    with pytest.raises(ManifestError) as error:
        desk.submit(ROW | {"steps": 0, "sampler": "foo"})
    assert [problem.partition(" must")[0] for problem in error.value.problems] == ["row 1: 'steps'", "row 1: 'sampler'"]
    broken = desk.keep_picture(b"no picture")
    failed = ended(desk.submit({"task": "image_to_image", "image": broken, "strength": 0.5, "prompt": "a", "steps": 4}))
    assert failed.record is None and "not an image of a known format" in failed.problem
    assert audited(desk).passed, "the run has rows that were made, and no others"


def test_one_is_cancelled_and_the_others_go_on(desk: Desk) -> None:
    first = desk._workers[0]
    long = desk.submit(LONG)
    while not desk.progress(long)[0]:
        time.sleep(0.01)
    short = desk.submit(ROW | {"seed": 5})
    desk.cancel(long)
    assert ended(long).problem == "cancelled" and ended(short).record is not None
    assert desk.submit(ROW | {"seed": 5}).known
    assert first.engine.engine.idle and first.statistics.evaluations < LONG["steps"], "its engine let go of it"


def test_what_two_ask_for_is_cancelled_when_neither_waits(desk: Desk) -> None:
    mine = desk.submit(LONG | {"seed": 50})
    assert desk.submit(LONG | {"seed": 50}) is mine
    desk.cancel(mine)
    time.sleep(0.2)
    assert mine.ended is None
    desk.cancel(mine)
    again = desk.submit(LONG | {"seed": 50})
    assert again is not mine and ended(mine).problem == "cancelled" and again.ended is None
    desk.cancel(again)
    assert ended(again).problem == "cancelled" and not desk._open


def test_one_that_is_cancelled_before_it_begins_ends_too(desk: Desk) -> None:
    desk._loop.call_soon_threadsafe(time.sleep, 0.5)  # the desk is busy
    ticket = desk.submit(LONG | {"seed": 60})
    desk.cancel(ticket)
    assert ended(ticket).problem == "cancelled" and not desk._open


def test_only_so_many_wait(desk: Desk) -> None:
    tickets = [desk.submit(LONG | {"seed": 100 + number}) for number in range(MOST_OPEN)]
    with pytest.raises(ValueError, match="64 pictures are waited for already"):
        desk.submit(LONG | {"seed": 1000})
    for ticket in tickets:
        desk.cancel(ticket)
    assert {ended(ticket).problem for ticket in tickets} == {"cancelled"}


def test_a_run_has_one_desk_and_the_next_knows_its_rows(tmp_path: Path) -> None:
    options: dict[str, Any] = {"manifest": "", "out": str(tmp_path)}
    first = Desk(Options(**options), say=lambda line: None)
    made = ended(first.submit(ROW))
    first.close()
    with pytest.raises(Exception, match="closed"):
        first._workers[0].engine.submit(None)
    second = Desk(Options(**options), say=lambda line: None)
    assert second.submit(ROW).known and ended(second.submit(ROW | {"seed": 3})).record is not None
    second.close()
    found = open_manifest(second.options.manifest, abilities(open_model("if-xs")))
    assert [task.seed for task in found.tasks()] == [1, 3] and audited(second).rows == 2
    assert made.record is not None


def test_a_row_whose_picture_was_lost_is_made_anew_and_the_run_stays_good(tmp_path: Path) -> None:
    options = Options("", str(tmp_path))
    desk = Desk(options, say=lambda line: None)
    made = ended(desk.submit(ROW))
    desk.close()
    assert made.record is not None
    (tmp_path / image_key(desk, made)).unlink()
    fix(desk.store.root)
    desk = Desk(options, say=lambda line: None)
    again = ended(desk.submit(ROW))
    assert again.record is not None and not again.known
    assert ended(desk.submit(ROW | {"seed": 3})).record is not None and audited(desk).passed
    desk.close()


def test_a_row_that_could_not_be_committed_is_asked_for_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(Options("", str(tmp_path)), say=lambda line: None)
    with monkeypatch.context() as patch:
        patch.setattr(desk._writer, "commit", fails)
        assert "storage is away" in ended(desk.submit(ROW)).problem
    assert ended(desk.submit(ROW)).record is not None and audited(desk).passed
    desk.close()


def fails(*_: Any) -> None:
    raise StorageError("storage is away")


def image_key(desk: Desk, ticket: Ticket) -> str:
    """Of its picture's file, in the folder in which the desk's run lies."""
    assert ticket.record is not None
    return f"{Path(desk.store.root).name}/{image_key_of(ticket.record['image_uri'])}"


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model 'if-sx'"):
        Desk(Options("", str(tmp_path), model="if-sx"), say=lambda line: None)
