from __future__ import annotations

import pytest

from darkroom.sampling.components import make_component
from darkroom.sampling.names import nearest, unknown
from darkroom.sampling.processes import process_from_config
from darkroom.sampling.views import make_view


def test_a_name_like_no_other_gets_no_hint() -> None:
    assert str(unknown("view", "xyz", ["skew", "identity"])) == "unknown view 'xyz' (known: identity, skew)"
    assert nearest(7, ["seed"]) == ""


def test_a_slip_is_answered_in_the_same_words_everywhere() -> None:
    for refused, said in (
        (lambda: make_view("flip_verticle"), "unknown view 'flip_verticle', did you mean 'flip_vertical'?"),
        (lambda: make_component("lowpass"), "unknown component 'lowpass', did you mean 'low_pass'?"),
        (lambda: process_from_config({"kind": "flwo"}), "unknown kind of process 'flwo', did you mean 'flow'? (known"),
    ):
        with pytest.raises(ValueError, match="unknown") as caught:
            refused()
        assert str(caught.value).startswith(said)
