"""What was asked of a job: opened, held against the run that lies there, and what run.json says of it. A typing error
must not take good rows away, and is refused before Ray is imported."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from darkroom import __version__
from darkroom.batch import options as option
from darkroom.batch.input_files import input_roots, refuse_far
from darkroom.batch.options import Options
from darkroom.batch.planned_rows import Maker, ReadRows
from darkroom.batch.planning import Work
from darkroom.batch.row_filter import RowFilter
from darkroom.batch.scoring import JudgeOptions, offers
from darkroom.manifest import Manifest
from darkroom.models.catalog import abilities, address, open_model
from darkroom.models.errors import ModelError
from darkroom.models.scorers import open_scorer
from darkroom.phases import plural
from darkroom.runs import Ledger
from darkroom.runs.reading import NoRun, read_run_record
from darkroom.sampling.plans import SAMPLER_VERSION
from darkroom.storage import Store, open_store

if TYPE_CHECKING:
    from darkroom.models.catalog import Model

TOKENS_KEPT = 2**16
PACKAGES = ("ray", "torch", "diffusers", "transformers", "pyarrow", "numpy")
OF_ALL_ROWS = ("model", "watermark", "scorer", "sampler_version")  # what has a say in every row


@dataclass(frozen=True)
class Order:
    """What was asked, opened."""

    options: Options
    model: Model
    store: Store

    @classmethod
    def open(cls, options: Options) -> Order:
        """Raises ManifestError, ModelError or another ValueError for whatever can be known before Ray starts."""
        option.refuse_wrong(options)
        named = (option.parse_named("--adapter", options.adapter), option.parse_named("--control", options.control))
        model = open_model(options.model, *named, options.depth)
        option.stage_dtypes(model, options.dtype, on_gpu=False)
        order = cls(options, model, open_store(options.out))
        refuse_far(order.rows.far, order.manifest.base, order.input_roots)
        assert order.asked is None or order.asked.ids
        return order

    @cached_property
    def rows(self) -> ReadRows:
        """The manifest's, which are all good. ManifestError."""
        able = abilities(self.model, scorer=self.options.scorer is not None)
        return ReadRows(self.options.manifest, able, self.maker, self.store)

    @property
    def notes(self) -> list[str]:
        """What to know before anything is done: of rows, and of what is loaded beside the model."""
        nets = [f"the control network {net.name!r} is {net.address} ({net.digest[:12]})" for net in self.model.nets]
        depth = self.model.depth
        drawn = [f"depth is drawn by {depth.address} ({depth.digest[:12]})"] if depth else []
        return [*self.manifest.warnings, *nets, *drawn]

    @cached_property
    def asked(self) -> RowFilter | None:
        """The rows that may be made; None: all. StorageError, ValueError."""
        return None if self.options.ids is None else RowFilter.read(self.options.ids)

    @property
    def manifest(self) -> Manifest:
        return self.rows.manifest

    @cached_property
    def input_roots(self) -> tuple[str, ...]:
        """Where pictures may come from. ValueError."""
        return input_roots(self.options.inputs_root, self.manifest.base, self.store.root)

    @cached_property
    def address(self) -> str:
        """What workers open: the very model that was opened here, though a champion may change while the run lasts."""
        return address(self.options.model, self.model)

    @cached_property
    def judging(self) -> JudgeOptions:
        """ModelError where the model lacks what is asked for."""
        has = {part: offers(self.model, part) for part in ("safety_checker", "watermarker")}
        marks = has["watermarker"] if self.options.watermark is None else self.options.watermark == "on"
        for asked, part in ((self.options.safety == "flag", "safety_checker"), (marks, "watermarker")):
            if asked and not has[part]:
                raise ModelError(
                    f"the model {self.model.name!r} has no folder {part!r} of DeepFloyd IF in any of its stages"
                )
        safety = self.options.safety == "flag"
        return JudgeOptions(self.address, self.options.scorer, safety, marks, self.model.revision)

    @cached_property
    def maker(self) -> Maker:
        scorer = self.options.scorer
        return Maker.of(
            self.model,
            finish="watermark" if self.judging.watermark else "",
            judge=open_scorer(scorer).revision if scorer else "",
            too_long=too_long(self.model),
        )


class WrongRun(ValueError):
    """The folder asked for holds another run."""


def refuse_other_folder(order: Order) -> None:
    """Where there is no run nothing may look like one: its owner deletes shards that it does not know. WrongRun."""
    store = order.store
    advice = "choose another --out, or say --replace: rows of this manifest that are there stay"
    try:
        if read_run_record(store).get("kind") == "training":  # whose record --replace would overwrite
            raise WrongRun(f"{order.options.out} holds a training; choose another --out")
    except NoRun as error:
        if order.options.replace:
            return
        # A job that died while it planned its first run has left records of nothing.
        if store.exists("run.json") or store.has("metadata/") or Ledger(store).read().shards:
            raise WrongRun(f"{error}; {advice}") from None


def refuse_to_empty(order: Order, work: Work) -> None:
    """Without --replace, good rows are neither made anew because of another model than the run's, nor replaced and
    withdrawn by another manifest than the run's, if that costs most of them: that is a typing error in --out."""
    options, out = order.options, order.options.out
    if options.replace or not work.before:
        return
    before, now = read_run_record(order.store), run_record(order, work)
    good, lost = f"of its {work.good_before:,} good rows", work.superseded + len(work.leavers)
    advice = "choose another --out, or say --replace"
    stand_by = work.left - work.left_absent  # that are there, and that --ids does not name
    if work.done + work.changed + work.gone + stand_by == 0:
        raise WrongRun(f"{out} holds {plural(work.before, 'row')}, none of them of this manifest; {advice}")
    differing = [name for name in OF_ALL_ROWS if _differs(before.get(name), now[name])]
    if differing and work.superseded:
        others = "; ".join(f"{name} {_short(before.get(name))}, not {_short(now[name])}" for name in differing)
        raise WrongRun(f"{out} was made with {others}: {work.superseded:,} {good} would be made anew; {advice}")
    if "scorer" in differing and work.done:
        scorers = f"scorer {_short(before.get('scorer'))}, not {_short(now['scorer'])}"
        raise WrongRun(f"{out} was made with {scorers}: {work.done:,} {good} would keep their scores; {advice}")
    if (was := before.get("safety", "off")) != options.safety and work.done:
        said = f"--safety {was}, not {options.safety}"
        raise WrongRun(f"{out} was made with {said}: {work.done:,} {good} would keep the flags they have; {advice}")
    same = before["manifest"]["uri"] == order.manifest.uri or before["manifest"]["sha256"] == order.manifest.digest
    if not same and 2 * lost > work.good_before:
        costs = f"replace {work.superseded:,} and withdraw {len(work.leavers):,} {good}"
        raise WrongRun(f"{out} is the run of {before['manifest']['uri']}: {order.manifest.uri} would {costs}; {advice}")


def _differs(was: Any, now: Any) -> bool:
    if isinstance(was, dict) and isinstance(now, dict):
        return was["revision"] != now["revision"]
    return was != now


def _short(value: Any) -> str:
    """What a run's record says of a model, a scorer or another thing, in a word or two."""
    if isinstance(value, dict):
        return f"{value.get('name') or value['address']} ({value['revision'][:12]})"
    return "none" if value is None else str(value)


def run_record(order: Order, work: Work) -> dict[str, Any]:
    options, model, manifest = order.options, order.model, order.manifest
    scorer = {"address": options.scorer, "revision": order.maker.judge} if options.scorer else None
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "plan": work.plan,
        "manifest": {"uri": manifest.uri, "base": manifest.base, "sha256": manifest.digest, "rows": work.rows},
        "checked": order.rows.mark if options.limit is None else None,
        "model": {"name": model.name, "revision": model.revision, "address": order.address},
        "adapters": [asdict(adapter) for adapter in model.adapters],
        "control": [net.record() for net in model.nets],
        "depth": model.depth and asdict(model.depth),
        "sampler_version": SAMPLER_VERSION,
        "scorer": scorer,
        "safety": options.safety,
        "watermark": "on" if order.judging.watermark else "off",
        "options": asdict(options),
        "code": __version__,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def too_long(model: Model) -> Callable[[str, str], bool]:
    """Whether an encoder of the model would cut a prompt."""
    lengths = {name: model.most_tokens(name) for name in model.encoders}
    count = lru_cache(TOKENS_KEPT)(lambda name, prompt: model.encoder_tokens(name, [prompt])[0])
    return lambda name, prompt: count(name, prompt) > lengths[name]
