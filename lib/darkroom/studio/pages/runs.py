"""The page Runs."""

from __future__ import annotations

import streamlit as st

from darkroom.studio.settings import Settings


def page(settings: Settings) -> None:
    st.info("This page is empty so far.")
