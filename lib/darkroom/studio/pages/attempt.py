"""A part of a page that must not take the others with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from darkroom.studio.found_runs import DAMAGED
from darkroom.studio.text import plain


def attempt(draw: Callable[..., None], *given: Any) -> None:
    """Draws it; where what it reads is damaged, or gone, the reason stands in its place."""
    try:
        draw(*given)
    except DAMAGED as error:
        st.error(plain(f"This cannot be shown: {type(error).__name__}: {error}", 2000))
