from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from clusters import exported
from darkroom.submit import commands, nodes


def test_ports_differ_and_are_not_those_that_a_system_gives_out() -> None:
    ports = nodes._free_ports(5)
    assert len(set(ports)) == 5 and set(ports) <= set(nodes.PORTS)


def test_a_port_that_somebody_listens_on_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("", nodes._free_ports(1)[0]))
        held.listen()
        taken = held.getsockname()[1]
        monkeypatch.setattr(nodes, "PORTS", range(taken, taken + 50))
        assert taken not in nodes._free_ports(20)


def test_ray_client_is_up_when_its_port_answers() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert not nodes._listens(f"ray://127.0.0.1:{port}")
        server.listen()
        assert nodes._listens(f"ray://127.0.0.1:{port}")


def test_what_up_prints_is_read_by_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = f"{tmp_path}/my cluster; echo $HOME's"
    cluster = nodes.LocalCluster(folder, "127.0.0.2:6379", "http://x", "ray://x", "/tmp/t", ())
    monkeypatch.setattr(nodes, "up", lambda *given: cluster)
    commands.up(folder=folder)
    printed = capsys.readouterr().out
    said = subprocess.run(["bash", "-c", f'{printed}printf %s "$RAY_AUTH_TOKEN_PATH"'], capture_output=True, text=True)
    assert (said.stdout, said.stderr) == (f"{folder}/token", "")
    assert exported(printed) == cluster.environment
