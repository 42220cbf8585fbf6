"""`import darkroom`: ten names, quick to import, each with an example that runs."""

from __future__ import annotations

import doctest
import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import darkroom
from darkroom.models.scorers import open_scorer
from runs import python_of

HEAVY = ("torch", "ray", "diffusers", "transformers", "pyarrow", "numpy", "PIL", "typer")


def in_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_imports_nothing_heavy() -> None:
    code = f"import sys, darkroom; print(*[name for name in {HEAVY} if name in sys.modules])"
    assert in_python(code).split() == []


def test_sampling_needs_no_ray() -> None:
    code = """
import sys, darkroom
row = {"task": "text_to_image", "prompt": "a red one", "steps": 1}
print(darkroom.sample(darkroom.open_model("if-xs"), row, capacity=2)[0].size, "ray" in sys.modules)
"""
    assert in_python(code).split("\n")[0] == "(24, 24) False"


def test_ten_names_each_with_its_words() -> None:
    assert len(darkroom.__all__) == 10 and set(darkroom.__all__) <= set(dir(darkroom))
    for name in darkroom.__all__:
        assert inspect.getdoc(getattr(darkroom, name)), name
        assert f"{name}" in darkroom.__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'smaple'"):
        darkroom.smaple  # noqa: B018


def test_the_errors_are_those_that_are_raised() -> None:
    assert issubclass(darkroom.ManifestError, ValueError) and issubclass(darkroom.ModelError, ValueError)
    with pytest.raises(darkroom.ModelError, match="no model 'if-xxs'"):
        darkroom.open_model("if-xxs")
    with pytest.raises(darkroom.ManifestError, match="row 2: unknown key 'sede', did you mean 'seed'"):
        darkroom.sample("if-xs", [{"task": "text_to_image", "prompt": "", "seed": 1},
                                  {"task": "text_to_image", "prompt": "", "sede": 1}])  # fmt: skip


def test_an_option_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"generate\(\) has no option 'worker'; wanted model, workers,"):
        darkroom.generate([], tmp_path, worker=1)
    with pytest.raises(TypeError, match=r"train\(\) has no option 'epochs'; wanted workers, resume,"):
        darkroom.train("mnist-flow-class", "data", tmp_path, epochs=1)


@pytest.mark.parametrize("module", ["batch.sample", "models.catalog"])
def test_the_examples_in_docstrings(module: str) -> None:
    found = doctest.testmod(import_module(f"darkroom.{module}"))
    assert found.failed == 0 and found.attempted > 0


def test_the_readmes_lines_draw_the_anagram_that_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upright a six, turned over a nine, by the classifier that judges digits."""
    monkeypatch.chdir(tmp_path)
    exec(python_of("docs/python.md")[0], {})
    picture = Image.open(tmp_path / "six-or-nine.png")
    assert picture.size == (48, 48)
    images = np.stack([np.asarray(seen, np.float32) for seen in (picture, picture.rotate(180))]) / 127.5 - 1
    scores = open_scorer("digits")(torch.from_numpy(images).permute(0, 3, 1, 2), [f"label {n}" for n in range(10)])
    assert scores.argmax(dim=1).tolist() == [6, 9]


def test_the_stub_for_editors_names_what_is_there() -> None:
    stub = Path(darkroom.__file__).with_suffix(".pyi").read_text()
    told = re.findall(r"^from (\S+) import (\S+) as \2$", stub, re.M)
    assert sorted(name for _, name in told) == sorted(darkroom.__all__)
    assert all(getattr(import_module(module), name) is getattr(darkroom, name) for module, name in told)


@pytest.mark.parametrize(
    "options",
    [{"workers": "two"}, {"workers": 0}, {"capacity": "x"}, {"capacity": 0}, {"unit_rows": 0}, {"limit": 0},
     {"images": "foo"}, {"watermark": "x"}, {"compile": True}, {"stage_workers": 5}, {"stall_seconds": -1},
     {"wait_seconds": "x"}, {"embeddings": 5}, {"scorer": 5}],
)  # fmt: skip
def test_options_that_do_not_fit_are_said_before_anything_is_written(tmp_path: Path, options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"^{name} is {re.escape(repr(value))}: "):
        darkroom.generate([{"task": "text_to_image", "prompt": "a red one"}], tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["nope", "cuda:99"])
def test_a_device_that_is_none_or_not_here_is_said(device: str) -> None:
    with pytest.raises(ValueError, match=f"device is '{device}'"):
        darkroom.sample("if-xs", {"task": "text_to_image", "prompt": "a red one"}, device=device)
