"""The registry of promoted models: versions that never change, a pointer to the champion, and what happened when.

REGISTRY/NAME/versions/3/config.json, model.safetensors   a model directory, whole before anything points to it
REGISTRY/NAME/versions/3/version.json                     where it comes from and how it was judged; written last
REGISTRY/NAME/champion.json                               the live version; replaced by conditional writes alone
REGISTRY/NAME/events/*.json                               one file for each thing that happened, never changed

`champion.json` is itself the event of the last move: the history holds it whether or not its copy in events/ is there
yet, so that no process that dies can leave a move without a record, or a record without a move.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from darkroom.models.errors import ModelError
from darkroom.models.network import CONFIG, WEIGHTS, read_config
from darkroom.storage import NotFound, open_store
from darkroom.storage.lease import actor

SCHEME, VARIABLE = "registry://", "DARKROOM_REGISTRY"
CHAMPION, RECORD, WEIGHTS_END = "champion.json", "version.json", ".safetensors"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_READ_AT_ONCE = 16


@dataclass(frozen=True)
class Pointer:
    """Where champion.json points. version: None where the first champion was withdrawn; move: 1 for the first
    promotion, then 2, ...; data: the file's bytes."""

    version: int | None
    move: int
    event: dict[str, Any]
    data: bytes

    @property
    def at(self) -> datetime:
        return datetime.fromisoformat(self.event["at"])


class RegisteredModel:
    """One name in a registry: its versions, its champion, its history. Nothing is contacted until it is asked."""

    def __init__(self, root: str, name: str) -> None:
        if not NAME.fullmatch(name):
            raise ModelError(f"{name!r} cannot name a model of a registry: letters, digits and . _ - may, no slashes")
        self.root, self.name = root, name
        self.store = open_store(open_store(root).uri(name))

    def champion(self) -> Pointer | None:
        """What is live now; None before the first promotion."""
        try:
            return _pointer(self.store.read(CHAMPION), self.store.uri(CHAMPION))
        except NotFound:
            return None

    def champion_at(self, time: datetime) -> int | None:
        """The version that was live at a moment, None if none was."""
        moves = [event for event in self.moves() if datetime.fromisoformat(event["at"]) <= time]
        return moves[-1]["version"] if moves else None

    def moves(self) -> list[dict[str, Any]]:
        """Every promotion and rollback, in the order in which they took effect."""
        events = {event["move"]: event for event in self._events("events/move-")}
        if (champion := self.champion()) is not None:
            events[champion.move] = champion.event
        return [events[move] for move in sorted(events)]

    def history(self) -> list[dict[str, Any]]:
        """Every event, by time: registered, evaluated, gated, promoted, rolled_back, retired."""
        others = [event for event in self._events("events/") if "move" not in event]
        return sorted([*others, *self.moves()], key=lambda event: (event["at"], event.get("move", 0)))

    def versions(self) -> list[int]:
        """The whole versions, retired ones too, ascending."""
        found = (re.fullmatch(rf"versions/(\d+)/{RECORD}", key) for key in self.store.list("versions/"))
        return sorted(int(match[1]) for match in found if match)

    def kept(self) -> list[int]:
        """The whole versions that have not been retired, or not quite, ascending."""
        there = {int(match[1]) for match in map(_MODEL_OF.fullmatch, self.store.list("versions/")) if match}
        return sorted(there & set(self.versions()))

    def version(self, number: int) -> dict[str, Any]:
        """What version.json holds. ModelError if there is no such version."""
        try:
            return json.loads(self.store.read(f"versions/{number}/{RECORD}"))
        except NotFound:
            there = ", ".join(map(str, self.versions())) or "none"
            raise ModelError(f"{self.name} has no version {number} in {self.root}; there are: {there}") from None

    def folder(self, number: int) -> str:
        """The model directory of a version, which `open_model` opens. ModelError if it is not there, or retired."""
        self.version(number)
        if not self.store.exists(f"versions/{number}/{CONFIG}"):
            raise ModelError(f"{self.name}@{number} in {self.root} was retired: its weights are deleted")
        return self.store.uri(f"versions/{number}")

    def claim(self) -> int:
        """A new version's number, which nobody else gets. A number that is claimed and never used is no harm."""
        taken = (re.match(r"versions/(\d+)/", key) for key in self.store.list("versions/"))
        number = max((int(match[1]) for match in taken if match), default=0) + 1
        while not self.store.create(f"versions/{number}/claim.json", _json({"nonce": secrets.token_hex(8)})):
            number += 1
        return number

    def champion_since(self, seen: int | None) -> Pointer | None:
        """The champion; ModelError where the pointer moved after move number `seen`, 0 for none (None: whatever is)."""
        now = self.champion()
        if seen is not None and (now.move if now else 0) != seen:
            raise self.moved_meanwhile()
        return now

    def register(self, number: int, source: str, record: Mapping[str, Any], **more: Any) -> None:
        """Copies a model directory as version `number`, which was claimed; done again, it finishes what it began.

        The version's config.json names it NAME@NUMBER, so that every result row does. record: what version.json holds
        besides its name, number and the digest of the weights; more: what the event says besides.
        """
        if not self.store.exists(f"versions/{number}/{RECORD}"):
            model, folder = open_store(source), f"versions/{number}"
            config = read_config(model)
            file = config.get("weights", WEIGHTS)  # adapters' have names that other programs look for
            weights = model.read(file)
            self.store.write(f"{folder}/{file}", weights)
            self.store.write(f"{folder}/{CONFIG}", _json({**config, "name": f"{self.name}@{number}"}))
            artifact = {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}
            whole = {"name": self.name, "version": number, "created_at": _now().isoformat(), "artifact": artifact}
            self.store.write(f"{folder}/{RECORD}", _json({**whole, **record}))
        self.note("registered", f"version-{number:06d}", version=number, **more)

    def promote(self, number: int, before: Pointer | None, **more: Any) -> Pointer | None:
        """Points to version `number`, if the pointer still is `before`; None if another was faster.

        more: what the event says besides, JSON values.
        """
        return self._move("promoted", number, before, more)

    def withdraw(self, moved: Pointer, **more: Any) -> Pointer | None:
        """Undoes a promotion: back to what was live before it, which may be nothing. None if it moved on meanwhile."""
        return self._move("rolled_back", moved.event["previous"], moved, {"from": moved.version, **more})

    def rollback(self, to: int | None = None, seen: int | None = None, **more: Any) -> Pointer:
        """Points back: to version `to`, or the champion that the present one took over from. seen: the number of the
        last move that the caller knows of.

        ModelError where there is nothing to go back to, or another process moved the pointer meanwhile.
        """
        before = self.champion_since(seen)
        if before is None or before.version is None:
            raise ModelError(f"{self.name} in {self.root} has no champion: there is nothing to roll back")
        target = self.champion_before() if to is None else to
        if target is None:
            raise ModelError(f"{self.name}@{before.version} is the first champion: there is none to roll back to")
        if target == before.version:
            raise ModelError(f"{self.name}@{target} is the champion already")
        moved = self._move("rolled_back", target, before, {"from": before.version, **more})
        if moved is None:
            raise self.moved_meanwhile()
        return moved

    def moved_meanwhile(self) -> ModelError:
        """What to raise where the pointer is no longer what somebody decided by."""
        return ModelError(f"the champion of {self.name} was moved by another process meanwhile; look and try again")

    def retire(self, keep: int) -> list[int]:
        """Discards all versions but the `keep` newest, the champion, and those it was moved from or can be rolled back
        to; their version.json stay. Returns the numbers of those discarded."""
        champion = self.champion()
        if champion is None:
            return []
        versions = self.versions()
        spared = {champion.version, champion.event["previous"], *versions[-keep:]}
        spared.add(self.champion_before())
        gone = [number for number in self.kept() if number not in spared]
        for number in gone:
            self.discard(number, f"not among the {keep} newest")
        return gone

    def discard(self, number: int, reason: str) -> None:
        """Deletes a version's weights and notes it as retired."""
        self.note("retired", f"version-{number:06d}", version=number, reason=reason)
        # The configuration first: from then on nobody begins to read the weights.
        self.store.delete(f"versions/{number}/{CONFIG}")
        self.store.delete(*(key for key in self.store.list(f"versions/{number}/") if key.endswith(WEIGHTS_END)))

    def note(self, kind: str, about: str, **more: Any) -> None:
        """Adds an event. about: with the kind its name, so that noted twice it is there once."""
        event = {"kind": kind, "at": _now().isoformat(), "actor": actor(), **more}
        self.store.create(f"events/{about}-{kind}.json", _json(event))

    def champion_before(self) -> int | None:
        """Whom the champion took over from, None if it was the first. By the moves, as a version that was added or
        promoted by hand took over from whoever was live at that moment: a rollback undoes the last promotion that is
        not undone yet."""
        live: list[int] = []
        for event in self.moves():
            number, undone = event["version"], event["kind"] == "rolled_back"
            while undone and live and live[-1] != number and (number is None or number in live):
                live.pop()
            if number is not None and live[-1:] != [number]:
                live.append(number)
        return live[-2] if len(live) > 1 else None

    def _move(self, kind: str, number: int | None, before: Pointer | None, more: Mapping[str, Any]) -> Pointer | None:
        if number is not None:
            self.folder(number)  # never to what is not whole
        at = _now() if before is None else max(_now(), before.at + timedelta(microseconds=1))
        event = {"kind": kind, "version": number, "previous": before and before.version,
                 "move": before.move + 1 if before else 1, "at": at.isoformat(), "actor": actor(), **more,
                 "nonce": secrets.token_hex(8)}  # fmt: skip
        data = _json(event)
        if before is not None:
            self._log(before)  # it must be in the history before the pointer forgets it
            moved = self.store.replace(CHAMPION, before.data, data)
        else:
            moved = self.store.create(CHAMPION, data)
        if not moved:
            return None
        pointer = Pointer(number, event["move"], event, data)
        self._log(pointer)
        return pointer

    def _log(self, pointer: Pointer) -> None:
        self.store.create(f"events/move-{pointer.move:06d}.json", pointer.data)

    def _events(self, prefix: str) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="registry") as pool:
            return [json.loads(data) for data in pool.map(self.store.read, list(self.store.list(prefix)))]


_MODEL_OF = re.compile(rf"versions/(\d+)/({re.escape(CONFIG)}|[^/]+{re.escape(WEIGHTS_END)})")


def names(root: str) -> list[str]:
    """The models of a registry that have a champion."""
    keys = (key.split("/") for key in open_store(root).list())
    return [parts[0] for parts in keys if len(parts) == 2 and parts[1] == CHAMPION]


def names_of_all(root: str) -> list[str]:
    """The models of a registry, those too of which no version was promoted yet."""
    keys = (key.split("/") for key in open_store(root).list())
    return sorted({parts[0] for parts in keys if parts[-1] in (CHAMPION, RECORD)})


def resolve(uri: str) -> str:
    """The model directory that a registry:// address means at this moment; a version never changes afterwards.

    registry://NAME is the champion of the registry that DARKROOM_REGISTRY names, registry://s3://bucket/registry/NAME
    (or registry:///folder/NAME) that of any; @3 behind it a version. ModelError where there is no such thing.
    """
    root, _, name = uri.removeprefix(SCHEME).rpartition("/")
    name, at, number = name.partition("@")
    if at and not number.isdigit():
        raise ModelError(f"{uri}: wanted a version's number after the @, such as {name}@3")
    root = root or os.environ.get(VARIABLE, "")
    if not root:
        whole = f"{SCHEME}s3://bucket/registry/{name}"
        raise ModelError(f"{uri}: in which registry? Set {VARIABLE} to its folder or s3:// uri, or write {whole}")
    model = RegisteredModel(root, name)
    if number:
        return model.folder(int(number))
    champion = model.champion()
    if champion is None or champion.version is None:
        there = ", ".join(names(root)) or "none"
        raise ModelError(f"{uri}: {model.name!r} has no champion in {root}; models that have one: {there}")
    return model.folder(champion.version)


def _pointer(data: bytes, where: str) -> Pointer:
    try:
        event = json.loads(data)
        return Pointer(event["version"], event["move"], event, data)
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{where} is no pointer to a version; the events beside it say what it was") from None


def _now() -> datetime:
    return datetime.now(UTC)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
