"""Making rows on Ray: it is joined, its nodes are given stages to work at, and what they finish is committed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from functools import partial

from darkroom.batch import options as option
from darkroom.batch import pipeline, prompts
from darkroom.batch.commits import Commits
from darkroom.batch.order import Order
from darkroom.batch.pipeline import Listener
from darkroom.batch.planning import Work
from darkroom.batch.progress import PROMPTS, News, Progress
from darkroom.batch.setting import Encoding, job_of, set_up
from darkroom.batch.stages import stage_name
from darkroom.batch.summary import Developed, count_evaluations
from darkroom.batch.write_results import Receipt
from darkroom.metrics import RunMetrics
from darkroom.phases import Say, phase, phase_of_ray, plural
from darkroom.ray_cluster import connect
from darkroom.runs import Writer


def execute(order: Order, work: Work, writer: Writer, progress: Progress, say: Say) -> Developed:
    """Makes the rows. Stalled, TooManyFailed, ClusterError, StorageError; what is committed by then stays."""
    options, model = order.options, order.model
    progress.begin(work.to_make)
    phase_of_ray(say, options.address)
    preloading = threading.Thread(target=prompts.preload, args=(model,), daemon=True)
    preloading.start()
    connect(options.address, options.verbose)
    phase(say, "looking at the cluster")
    setting = set_up(order, work, say)
    evaluations = count_evaluations(work, model)
    job = job_of(order, work, setting, evaluations)
    counter = pipeline.start_counter([PROMPTS, *job.names])
    costs = {stage_name(number): model.evaluation_flops(number) for number in setting.numbers}
    progress.expected = work.to_make * sum(evaluations[n] * costs[stage_name(n)] for n in setting.numbers)
    most_failed = option.parse_max_failed(options.max_failed_rows, work.to_make)
    metrics = RunMetrics(order.store.root, work.to_make)
    heard = partial(_committed, say, progress, metrics)
    commits = Commits(writer, heard, most_failed)
    encoding = Encoding(order, setting, counter, say)

    def check() -> None:
        encoding.check()
        commits.flush_if_due()
        metrics.show_left()

    listener = Listener(counter, partial(_hear, say, progress, costs), check, partial(phase, say))
    if setting.together:
        encoding.start()
    else:
        encoding.encode(listener)
    encoding.check()
    phase(say, f"starting the workers, for {plural(len(job.units), 'unit')} of work")
    with commits:
        for receipt in pipeline.run(job, setting.pools, prompts.watchdog(options.stall_seconds), listener):
            commits.add(receipt)
    return Developed(commits.totals, pipeline.busy_seconds(counter), progress.rate())


def _committed(say: Say, progress: Progress, metrics: RunMetrics, receipt: Receipt) -> None:
    if not progress.ok + progress.failed:
        phase(say, "the first rows are committed")
    progress.add(receipt.ok, receipt.failed)
    metrics.commit(receipt.ok, Counter(receipt.causes))


def _hear(say: Say, progress: Progress, costs: Mapping[str, float], news: News) -> None:
    """What workers said, as they said it, and how far they are."""
    for ago, line in news.lines:
        phase(say, line, ago)
    progress.evaluated(news.evaluations, sum(news.by_stage[name] * cost for name, cost in costs.items()))
