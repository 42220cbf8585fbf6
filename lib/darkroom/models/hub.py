"""Repositories of the Hugging Face hub as sources: hf://owner/name[@revision].

The token, where a repository is gated, is the hub client's own business: it reads HF_TOKEN (or the file that
HF_TOKEN_PATH names, a mounted secret). It is never taken, kept or printed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from darkroom.models.errors import ModelError
from darkroom.models.node_cache import usable
from darkroom.storage import StorageError

_ADDRESS = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(/(?P<folder>[^@]+))?(@(?P<revision>.+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OFFLINE = (LocalEntryNotFoundError, OfflineModeIsEnabled, HTTPError, ConnectionError, TimeoutError)


def open_repository(address: str) -> Repository:
    """The repository at a commit: the one named, else what its revision (default: main) stands for now.

    Raises ModelError where it cannot be had, StorageError where the hub cannot be reached.
    """
    found = _ADDRESS.fullmatch(address)
    if not found:
        raise ModelError(f"{address!r} names no repository: wanted hf://owner/name or hf://owner/name@revision")
    name, revision = found["name"], found["revision"] or "main"
    commit = revision if _COMMIT.fullmatch(revision) else _resolve(name, revision)
    return Repository(name, commit, (found["folder"] or "").strip("/"))


class Repository:
    """A repository, or a folder of it, at one commit."""

    def __init__(self, name: str, commit: str, folder: str = "") -> None:
        self.name, self.commit, self.folder = name, commit, folder
        self.address = f"hf://{name}/{folder}@{commit}".replace("/@", "@")
        self.pinned = self.address

    def names(self) -> frozenset[str]:
        return usable(self._names)

    @cached_property
    def _names(self) -> list[str]:
        try:
            with _reporting(self.name, self.commit):
                found = [item.rfilename for item in HfApi().model_info(self.name, revision=self.commit).siblings or ()]
        except StorageError:
            # A machine without a way to the hub may have been given the files beforehand.
            if (folder := self._cached()) is None:
                raise
            found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        start = f"{self.folder}/" if self.folder else ""
        return [name.removeprefix(start) for name in found if name.startswith(start)]

    def read(self, name: str) -> bytes:
        return (self.fetch([name]) / name).read_bytes()

    def fetch(self, names: Iterable[str]) -> Path:
        wanted = list(names)
        folder = self._snapshot([self._path(name) for name in wanted]) / self.folder
        for name in wanted:
            if not (folder / name).is_file():
                raise ModelError(f"the model has no file {self.address}/{name}")
        return folder

    def digest(self, folders: Sequence[str]) -> str:
        """The commit, whatever the folders."""
        return self.commit

    def within(self, folder: str) -> Repository:
        return Repository(self.name, self.commit, self._path(folder))

    def _cached(self) -> Path | None:
        """The repository's folder in this machine's cache, whole or not."""
        for known in map(self._path, ("unet/config.json", "transformer/config.json")):
            found = try_to_load_from_cache(self.name, known, revision=self.commit)
            if isinstance(found, str):
                return Path(found).parents[len(Path(known).parts) - 1]
        return None

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}" if self.folder else name

    def _snapshot(self, patterns: list[str]) -> Path:
        """The hub client's own cache: it locks, resumes and checks sizes file by file."""
        with _reporting(self.name, self.commit):
            return Path(snapshot_download(self.name, revision=self.commit, allow_patterns=patterns))


def _resolve(name: str, revision: str) -> str:
    with _reporting(name, revision):
        try:
            commit = HfApi().model_info(name, revision=revision).sha
        except HfHubHTTPError:
            raise  # the hub did answer
        except _OFFLINE:
            # The commit this machine's cache remembers for that name, where it has one.
            commit = Path(snapshot_download(name, revision=revision, local_files_only=True)).name
    assert commit, f"the hub told no commit of {name}"
    return commit


@contextmanager
def _reporting(name: str, revision: str) -> Iterator[None]:
    page = f"https://huggingface.co/{name}"
    try:
        yield
    except GatedRepoError:
        raise ModelError(
            f"{name} is given only to those who accept its licence: do so at {page}, then set HF_TOKEN to a token of "
            "that account"
        ) from None
    except RevisionNotFoundError:
        raise ModelError(f"{name} has no revision {revision}; see {page}/commits/main") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ModelError(
            f"there is no repository {name} at the hub, or it is closed to you: check the name at {page}, and HF_TOKEN"
        ) from None
    except RemoteEntryNotFoundError as error:
        raise ModelError(f"{name} at {revision} lacks a file: {str(error).splitlines()[0]}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        if status in (401, 403):
            raise ModelError(
                f"the hub refuses {name} ({status}): accept its licence at {page} and set HF_TOKEN"
            ) from None
        raise StorageError(f"the hub failed for {name} ({status}); the same command resumes") from None
    except _OFFLINE:
        raise StorageError(
            f"the hub cannot be reached for {name}, and this machine's cache lacks its files: check the network, or "
            "give --model the folder or s3:// uri of a copy"
        ) from None
