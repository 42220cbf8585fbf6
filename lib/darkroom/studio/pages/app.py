"""The script that Streamlit runs at every move of somebody who looks.

It lies among the pages, as beside a folder of that name Streamlit would take each file in there for a page of its own.
"""

from __future__ import annotations

from functools import partial

import streamlit as st

from darkroom.storage import StorageError
from darkroom.studio import settings
from darkroom.studio.pages import cluster, make, models, runs
from darkroom.studio.text import plain

PAGES = {
    "runs": ("Runs", ":material/photo_library:", runs.page),
    "make": ("Make", ":material/photo_camera:", make.page),
    "models": ("Models", ":material/show_chart:", models.page),
    "cluster": ("Cluster", ":material/dns:", cluster.page),
}


def main() -> None:
    st.set_page_config(page_title="Darkroom studio", page_icon=":material/photo_camera:", layout="wide")
    given = settings.read()
    pages = {name: about for name, about in PAGES.items() if name != "make" or given.model}
    listed = [
        st.Page(partial(page, given), title=title, icon=icon, url_path=name, default=name == "runs")
        for name, (title, icon, page) in pages.items()
    ]
    try:
        st.navigation(listed, position="top").run()
    except (StorageError, ValueError) as error:
        st.error(plain(error, 2000))


if __name__ == "__main__":
    main()
