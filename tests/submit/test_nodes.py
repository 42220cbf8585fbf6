from __future__ import annotations

import socket

import pytest

from darkroom.submit import nodes


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
