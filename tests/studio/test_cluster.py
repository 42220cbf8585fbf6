"""The page Cluster: what jobs say of themselves; on a real cluster of one node, a job that is stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray._private.authentication_test_utils import reset_auth_token_state
from streamlit.testing.v1 import AppTest

from darkroom.studio.cluster_jobs import SHOWN_LINES, clean, last_lines, node_lines, progress, totals
from darkroom.submit import nodes
from darkroom.submit.nodes import LocalCluster

HEAD = {
    "nodeManagerAddress": "127.0.0.2",
    "state": "ALIVE",
    "isHeadNode": True,
    "resourcesTotal": {"memory": 8.0, "objectStoreMemory": 2.0},
}
WORKER = {
    "nodeManagerAddress": "127.0.0.3",
    "state": "ALIVE",
    "resourcesTotal": {"CPU": 4.0, "GPU": 1.0, "stage1": 1.0, "node:127.0.0.3": 1.0, "accelerator_type:H100": 1.0},
}


def cluster(address: str = "", **environment: str) -> AppTest:
    """The page, run once."""

    def script(address: str) -> None:
        from darkroom.studio.pages.cluster import page
        from darkroom.studio.settings import Settings

        page(Settings("runs", address=address))

    return AppTest.from_function(script, kwargs={"address": address}, default_timeout=120).run()


@pytest.mark.parametrize(
    ("log", "text", "share"),
    [
        ("   4.1 s  importing torch\n  30.3 s  starting Ray\n", "30.3 s  starting Ray", None),
        ("x\n96/480 rows committed, 2 min 4 s left\nnote\n", "96/480 rows committed, 2 min 4 s left", 0.2),
        ("1,000/4,000 rows committed\n", "1,000/4,000 rows committed", 0.25),
        ("epoch 1/4  step 50/1,000  loss 0.5\n", "epoch 1/4  step 50/1,000  loss 0.5", 0.05),
        ("base  epoch 3/4  loss 0.5\n", "base  epoch 3/4  loss 0.5", 0.75),
        ("a prompt says 3/4 rows committed\n", "", None),
        ("0/0 rows committed\n", "0/0 rows committed", None),
        ("", "", None),
    ],
)  # fmt: skip
def test_how_far_a_job_is(log: str, text: str, share: float | None) -> None:
    found = progress(log)
    assert (found.text, found.share) == (text, share)


def test_a_log_is_shown_without_what_moves_a_terminal() -> None:
    assert clean("a\x1b[31mred\x1b[0m\r\nold\rnew\r\nbell\x07") == "ared\nnew\nbell"
    text, left_out = last_lines("".join(f"line {number}\n" for number in range(SHOWN_LINES + 7)))
    assert text.splitlines()[0] == "line 7" and left_out == 7
    assert len(last_lines("x" * 5_000_000)[0]) == 200_000
    assert last_lines("at https://me:secret@host/x")[0] == "at https://host/x"


def test_nodes_with_their_resources() -> None:
    dead: dict[str, Any] = {"raylet": {**WORKER, "nodeManagerAddress": "127.0.0.1", "state": "DEAD"}}
    found = [dead, {"raylet": WORKER, "hostname": "two", "cpu": 12.4, "mem": [2**33, 2**32, 50.0]}, {"raylet": HEAD}]
    lines = list(node_lines(found))
    assert [(one["node"], one["state"]) for one in lines] == [
        ("127.0.0.2", "head"), ("127.0.0.3", "alive"), ("127.0.0.1", "dead"),
    ]  # fmt: skip
    assert lines[1]["in use"] == "12 % of the processor, 4.0 GiB of 8.0 GiB" and lines[1]["set apart for"] == "stage1"
    assert lines[0]["set apart for"] == ""
    assert totals(found) == {"memory": 8.0, "objectStoreMemory": 2.0, "CPU": 4.0, "GPU": 1.0, "stage1": 1.0}


def test_without_a_cluster_the_page_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    app = cluster()
    assert not app.exception and app.code[0].value == "darkroom studio RUNS --address http://HOST:8265"


def test_a_cluster_that_does_not_answer_is_a_sentence() -> None:
    app = cluster("http://127.0.0.1:9")
    assert not app.exception and "does not answer" in app.error[0].value


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A head and a worker, whose token this process brings."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        up = nodes.up(str(tmp_path_factory.mktemp("cluster")), workers=1, cpus_per_node=1)
        try:
            for name, value in up.environment.items():
                patch.setenv(name, value)
            reset_auth_token_state()  # other tests had Ray look, which it does once
            yield up
        finally:
            nodes.down(up.folder)
    reset_auth_token_state()


@pytest.mark.slow
def test_a_job_is_followed_and_stopped_behind_a_confirmation(local: LocalCluster) -> None:
    from darkroom.submit.submission import Cluster

    token = Path(local.folder, "token").read_text()
    api = Cluster(local.dashboard, token)
    say = "import time; print('96/480 rows committed, <b>bold</b>', flush=True); time.sleep(600)"
    name = api._client.submit_job(
        entrypoint=f'python -c "{say}"', submission_id="generate-demo-1", metadata={"job": "generate"}
    )
    deadline = time.monotonic() + 120
    while "96/480" not in api.log(name) and time.monotonic() < deadline:
        time.sleep(0.5)
    app = cluster(local.dashboard)
    assert not app.exception and not app.error, [error.value for error in app.error]
    assert "96/480 rows committed, <b>bold</b>" in app.code[1].value
    table = app.dataframe[-1].value
    assert list(table["state"]) == ["head", "alive"] and list(table["CPUs"]) == ["0", "1"]
    app.button(key=f"stop {name}").click().run()
    assert not api.job(name).status.is_terminal(), "nothing was done yet"
    app.button(key="confirm stop").click().run(timeout=120)
    assert api.job(name).status.value == "STOPPED"
    assert app.success[0].value.startswith(r"generate\-demo\-1\: stopped")
