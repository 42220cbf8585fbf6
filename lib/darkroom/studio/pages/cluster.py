"""The page Cluster: jobs with their progress and logs, stop behind a confirmation, and the nodes."""

from __future__ import annotations

import os

import pandas as pd
import streamlit as st

from darkroom.phases import duration, plural, redacted
from darkroom.ray_cluster import ClusterError
from darkroom.studio.cluster_jobs import Job, job_of, last_lines, node_lines, progress, totals
from darkroom.studio.settings import Settings
from darkroom.studio.text import plain
from darkroom.submit.submission import Cluster

LOOK_EVERY = 5.0  # seconds
LISTED = 200  # jobs, the newest
_ASKED = "asked to stop"


def page(settings: Settings) -> None:
    address = settings.address or os.environ.get("RAY_ADDRESS", "")
    if not address:
        st.info("No cluster was named. To see its jobs and nodes here, start the studio with its job API's address:")
        st.code("darkroom studio RUNS --address http://HOST:8265", language=None)
        return
    try:
        cluster = _cluster(address)
    except (ClusterError, ValueError) as error:
        st.error(plain(error, 2000))
        st.button("Try again")
        return
    st.caption(plain(f"The cluster at {redacted(address)}"))
    if said := st.session_state.pop("stopped", ""):
        st.success(plain(said))
    asked: Job | None = st.session_state.get(_ASKED)
    # Nothing is looked at anew meanwhile: it would break into the run in which the job is stopped.
    st.fragment(_jobs, run_every=None if asked else LOOK_EVERY)(cluster)
    st.fragment(_nodes, run_every=None if asked else 2 * LOOK_EVERY)(cluster)
    if asked is not None:
        _confirm(cluster, asked)


@st.cache_resource(ttl=300, max_entries=8, show_spinner="asking the cluster")
def _cluster(address: str) -> Cluster:
    return Cluster(address)


def _jobs(cluster: Cluster) -> None:
    try:
        jobs = [job_of(details) for details in cluster.jobs()][: -LISTED - 1 : -1]
    except (ClusterError, ValueError) as error:
        st.error(plain(error, 2000))
        return
    st.subheader("Jobs")
    if not jobs:
        st.info("No job was submitted yet. One is sent by:")
        st.code("darkroom submit generate MANIFEST --out s3://bucket/run", language=None)
        return
    st.dataframe(pd.DataFrame(job.line for job in jobs), hide_index=True, height=min(38 + 35 * len(jobs), 290))
    by_id = {job.id: job for job in jobs}
    chosen = st.selectbox("Job", list(by_id), key="job", bind="query-params")
    _job(cluster, by_id[chosen])


def _job(cluster: Cluster, job: Job) -> None:
    st.caption(f"{plain(job.status)}, for {duration(job.seconds)}" if job.began else plain(job.status))
    st.code(job.command, language=None, wrap_lines=True)
    if job.message and job.over:
        st.caption(plain(job.message, 1000))
    try:
        log = cluster.log(job.id)
    except (ClusterError, ValueError) as error:
        st.warning(plain(error, 2000))
        log = ""
    if not job.over:
        _under_way(job, log)
    text, left_out = last_lines(log)
    st.caption(f"Its log; {left_out:,} earlier lines: `darkroom logs`." if left_out else "Its log")
    st.code(
        text or "It has said nothing yet.",
        language=None,
        wrap_lines=True,
        height=360 if text.count("\n") > 15 else "content",
    )


def _under_way(job: Job, log: str) -> None:
    now = progress(log)
    if now.share is not None:
        st.progress(now.share, plain(now.text))
    elif now.text:
        st.caption(plain(now.text))
    if st.button("Stop this job …", key=f"stop {job.id}"):
        _ask(job)
        st.rerun()


def _ask(job: Job | None = None) -> None:
    st.session_state[_ASKED] = job


@st.dialog("Stop a job", on_dismiss=_ask)
def _confirm(cluster: Cluster, job: Job) -> None:
    run = f", which writes to {job.run}," if job.run else ""
    st.markdown(
        plain(f"{job.id}{run} is ended. What it committed stays: submitted again, it goes on from there.", 2000)
    )
    if st.button(f"Stop {job.id}", type="primary", key="confirm stop"):
        try:
            with st.spinner("it is told to stop, and given half a minute to write down where it is"):
                status = job_of(cluster.stop(job.id)).status
        except (ClusterError, ValueError) as error:
            st.error(plain(error, 2000))
            return
        _ask(None)
        st.session_state["stopped"] = f"{job.id}: {status}"
        st.rerun()


def _nodes(cluster: Cluster) -> None:
    try:
        nodes = cluster.nodes()
    except (ClusterError, ValueError, KeyError, TypeError) as error:
        st.error(plain(f"The nodes cannot be listed: {error}", 2000))
        return
    st.subheader("Nodes")
    st.dataframe(pd.DataFrame(node_lines(nodes)), hide_index=True)
    has = totals(nodes)
    st.caption(f"Together {plural(int(has.get('CPU', 0)), 'CPU')} and {plural(int(has.get('GPU', 0)), 'GPU')}.")
