"""A fixture of two rooms of tests: a cascade that has learnt nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from darkroom.models import if_xs
from darkroom.storage import open_store
from darkroom.training.if_xs import STAGE2, StageTraining, save_cascade
from darkroom.training.painted_digits import vocabulary


@pytest.fixture(scope="session")
def untrained_cascade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of if-xs' architecture with random weights; two steps at stage II."""
    folder = tmp_path_factory.mktemp("cascade")
    tokenizer = if_xs.build_tokenizer(vocabulary())
    torch.manual_seed(0)
    first = StageTraining(1, tokenizer, None)
    save_cascade(first, StageTraining(2, tokenizer, first.network["text_encoder"]), open_store(str(folder)))
    (folder / "config.json").write_text(
        json.dumps({"name": "untrained", "stages": [{}, {**STAGE2, "steps": 2, "start": 1}]})
    )
    return folder
