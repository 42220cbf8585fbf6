"""The jobs as functions: what is refused, and what `evaluate` measures without a command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import darkroom
from darkroom.training.data import sample_uri
from toys import network_config, save_toy_network


def test_a_network_is_measured_against_its_data(tmp_path: Path) -> None:
    network = save_toy_network(str(tmp_path / "network"), network_config(channels=1))
    said: list[str] = []
    options = {"count": 10, "steps": 1, "guidance": 2.0}
    found = darkroom.evaluate(network, sample_uri(), tmp_path / "quality", say=said.append, **options)
    assert found["sampling"]["steps"] == 1 and 0 <= found["measures"]["class_accuracy"]["mean"] <= 1
    assert (tmp_path / "quality/index.html").exists() and len(said) == 3
    opened = darkroom.open_model(network)
    again = darkroom.evaluate(opened, sample_uri(), say=said.append, **options)
    assert again["measures"]["class_accuracy"] == found["measures"]["class_accuracy"]


def test_a_cascade_of_painted_digits_wants_no_data(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="if-xs is a cascade of painted digits, which is judged without data"):
        darkroom.evaluate("if-xs", sample_uri())
    found = darkroom.evaluate("if-xs", out=tmp_path, count=10, stride=500)
    assert json.loads((tmp_path / "quality.json").read_text()) == found
    assert found["count"] == 10 and found["quality"].keys() == {"24", "48"}


def test_what_evaluate_refuses(toy_network: str) -> None:
    with pytest.raises(ValueError, match="toy-network is a network: `data` wants the data set"):
        darkroom.evaluate(toy_network)
    with pytest.raises(TypeError, match=r"evaluate\(\) has no option 'stride'; wanted count, steps, guidance,"):
        darkroom.evaluate(toy_network, sample_uri(), stride=3)
    with pytest.raises(TypeError, match=r"evaluate\(\) has no option 'sampler'; wanted count, stride,"):
        darkroom.evaluate("if-xs", sampler="ddim")
