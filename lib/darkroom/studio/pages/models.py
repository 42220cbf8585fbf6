"""The page Models: trainings with their curves, live while they go on, and the registry with its champions."""

from __future__ import annotations

import streamlit as st

from darkroom.studio.pages.registry import registry_view
from darkroom.studio.pages.trainings import trainings_view
from darkroom.studio.settings import Settings


def page(settings: Settings) -> None:
    shown = st.segmented_control(
        "Show",
        ["Trainings", "Registry"],
        default="Trainings",
        required=True,
        key="show",
        bind="query-params",
        label_visibility="collapsed",
    )
    if shown == "Registry":
        registry_view(settings.registry)
    else:
        trainings_view(settings.runs)
