"""The part of the page Models that shows a registry, and moves its champions behind a confirmation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from darkroom.models.errors import ModelError
from darkroom.models.registry import RegisteredModel, names_of_all
from darkroom.models.registry_words import live
from darkroom.storage import StorageError
from darkroom.studio.pages.attempt import attempt
from darkroom.studio.registry_moves import Move, differences, history, moves, versions
from darkroom.studio.text import plain


def registry_view(root: str) -> None:
    if not root:
        st.info("No registry was named. To see one here:")
        st.code("darkroom studio RUNS --registry runs/registry", language=None)
        return
    names = names_of_all(root)
    if not names:
        st.info(f"There is no model in {plain(root)} yet. A trained one comes in by:")
        st.code(f"darkroom registry add NAME RUN --registry {root}", language=None)
        return
    name = st.selectbox("Model", names, key="model")
    if said := st.session_state.pop("moved", ""):
        st.success(plain(said))
    _model(root, RegisteredModel(root, name))


def _model(root: str, model: RegisteredModel) -> None:
    st.markdown(f"`registry://{model.name}`, champion: {plain(live(model.champion()))}")
    attempt(_offers, root, model)
    st.subheader("Versions")
    attempt(_table, versions, model)
    st.subheader("History")
    attempt(_table, history, model)


def _table(lines: Callable[[RegisteredModel], list[dict[str, Any]]], model: RegisteredModel) -> None:
    st.dataframe(pd.DataFrame(lines(model)), hide_index=True)


def _offers(root: str, model: RegisteredModel) -> None:
    """A button for each change that could be made; none changes anything by itself."""
    with st.container(horizontal=True):
        for move in moves(model)[:_MOST]:
            label = f"{_VERBS[move.kind]} version {move.after} …"
            st.button(label, key=f"{move.kind} {move.after}", on_click=_ask, args=(move,))
    asked: Move | None = st.session_state.get(_ASKED)
    if asked is not None and asked.name == model.name:
        _confirm(root, model, asked)


_VERBS = {"promote": "Promote", "rollback": "Roll back to"}
_MOST = 6  # buttons; older versions are promoted by `darkroom registry promote`
_ASKED = "asked move"  # kept as it was shown: it is refused where the champion moved meanwhile


def _ask(move: Move | None = None) -> None:
    st.session_state[_ASKED] = move


@st.dialog("Change the champion", on_dismiss=_ask)
def _confirm(root: str, model: RegisteredModel, move: Move) -> None:
    st.markdown(plain(move.question, 2000))
    if differ := differences(model, move):
        with st.expander(f"In what they differ ({len(differ)})"):
            st.dataframe(pd.DataFrame(differ), hide_index=True)
    if move.kind == "promote":
        st.caption("By hand, past every gate; the history will say so.")
    reason = st.text_input("Why, for the history", max_chars=500, key="reason")
    if st.button(move.label, type="primary", key="confirm"):
        try:
            pointer = move.carry_out(root, reason)
        except (ModelError, StorageError) as error:
            st.error(plain(error, 2000))
            return
        _ask(None)
        st.session_state["moved"] = f"The champion of {model.name} is version {pointer.version} now."
        st.rerun()
