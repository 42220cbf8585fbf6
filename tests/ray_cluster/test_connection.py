"""Joining Ray: what goes wrong is the environment's fault, in a sentence."""

from __future__ import annotations

import pytest
import ray

from darkroom.ray_cluster import ClusterError, connect


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("no route"),
        RuntimeError("its version differs"),
        Exception("The current node timed out during startup."),  # as Ray raises it on a busy machine
    ],
)
def test_a_ray_that_does_not_come_up_is_the_environments_fault(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(ClusterError, match=f"no Ray cluster at this machine: {error}"):
        connect(None, verbose=False)


def test_a_bug_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: object) -> None:
        raise TypeError("an argument too many")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(TypeError):
        connect(None, verbose=False)


def test_the_address_of_a_job_api_is_the_users_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ValueError, match="is where jobs are sent to"):
        connect("http://127.0.0.1:8265", verbose=False)
