"""A trained model put into a registry by hand, and promoted by hand: no pipeline trained it, and no gate judged it.

The version's record and the history say so: where it was copied from, by whom, why. The next tick of a pipeline of that
name holds its candidate against a champion by hand as against any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom import __version__
from darkroom.models.adapter_files import adapter_file, read_weights
from darkroom.models.adapter_folder import KIND, read_about
from darkroom.models.catalog import open_model
from darkroom.models.errors import ModelError
from darkroom.models.network import Network
from darkroom.models.registry import Pointer, RegisteredModel
from darkroom.storage.lease import actor


def add(registry: str, name: str, source: str, reason: str = "") -> int:
    """Copies the model directory at `source`, a path or s3:// uri, into the registry as a new version, whose number it
    returns. It is not live yet.

    ModelError where it is neither a whole network of our own nor an adapter, or not of the kind that `name` is;
    StorageError.
    """
    model = RegisteredModel(registry, name)
    given = _adapter(source) or _network(source)
    given.load()  # what cannot be opened is no version
    champion = model.champion()
    if champion is not None and champion.version is not None:
        folder = model.folder(champion.version)
        _check_like(f"{name}@{champion.version}", _adapter(folder) or _network(folder), source, given)
    number = model.claim()
    record = {"added": {"from": given.address, "by": actor(), "reason": reason, **given.record}}
    model.register(
        number, given.address, {**record, "code": __version__}, by_hand=True, reason=reason, **{"from": given.address}
    )
    return number


def promote(registry: str, name: str, number: int, reason: str = "", seen: int | None = None) -> Pointer:
    """Makes that version the champion. seen: the number of the last move that the caller knows of, 0 for none.

    ModelError where it is the champion already, is not there, or another process was faster.
    """
    model = RegisteredModel(registry, name)
    before = model.champion_since(seen)
    if before is not None and before.version == number:
        raise ModelError(f"{name}@{number} is the champion already")
    moved = model.promote(number, before, by_hand=True, reason=reason)
    if moved is None:
        raise model.moved_meanwhile()
    return moved


@dataclass(frozen=True)
class _Given:
    """A model directory. relied_on: what rows that ask for the model rely on; record: what version.json holds of it;
    load: reads the weights."""

    address: str
    relied_on: dict[str, Any]
    record: dict[str, Any]
    load: Callable[[], object]


def _network(source: str) -> _Given:
    network = open_model(source)
    if not isinstance(network, Network):
        raise ModelError(
            f"{source} is no network that was trained here: a registry holds model directories of config.json and "
            "model.safetensors, as `darkroom train` writes them, and adapters' as `darkroom train lora` does"
        )
    relied_on: dict[str, Any] = {"process": None}  # a denoiser makes no pictures
    if network.config.get("process") is not None:
        stage = network.stages[0]
        relied_on = {
            "process": stage.process.kind, "pixels": stage.size, "channels": stage.channels,
            "classes": network.num_classes,
        }  # fmt: skip
    return _Given(network.address, relied_on, {"revision": network.revision}, network.load)


def _adapter(source: str) -> _Given | None:
    """None for a folder that is no adapter's."""
    if not (source.startswith("s3://") or Path(source).is_dir()):
        return None
    about = read_about(source)
    if about is None or about.get("kind") != KIND:
        return None
    files, name = adapter_file(source)
    base = about["base"]
    return _Given(
        files.address,
        {"base": f"{base['name']} of the revision {base['revision']}"},
        {"base": base},
        lambda: read_weights(files.fetch([name]) / name, f"{files.address}/{name}"),
    )


def _check_like(live_name: str, live: _Given, source: str, given: _Given) -> None:
    """Manifests that ask for registry://NAME must go on working, and a gate hold like against like."""
    its, wanted = given.relied_on, live.relied_on
    if differ := [what for what in wanted if its.get(what) != wanted[what]]:
        said = ", ".join(f"{what} {its.get(what)} in place of {wanted[what]}" for what in differ)
        raise ModelError(
            f"{source} is another kind of model than the champion {live_name}: {said}; give it another name"
        )
