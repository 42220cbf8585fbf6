"""Prompt embeddings: each distinct prompt is encoded once and kept, looked up by what its embedding depends on.

ROOT/embeddings/KEY/NAME.safetensors    tensors by the digest of their prompt
ROOT/embeddings/KEY/NAME.json           {digest: prompt} of that shard, written last

KEY is the encoder's (its revision, dtype, cleaning and length), ROOT a run or a place that several runs share.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import attrgetter
from threading import Lock
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache, cachedmethod
from safetensors import SafetensorError
from safetensors.torch import save

from darkroom.models.weights import read_header, read_tensor
from darkroom.storage import NotFound, StorageError, Store, open_store

CACHE_BYTES = 256 * 2**20  # of tensors kept in a process; T5-XXL's take 1.3 MB a prompt
_HEADERS = 64  # shards whose directory is kept
_READERS = 16


class EmbeddingStore:
    """The embeddings of one text encoder; pickles as its address.

    In memory are 36 bytes a prompt for the index and at most CACHE_BYTES of tensors; a tensor is read alone, not with
    its shard.
    """

    def __init__(self, root: str, key: str) -> None:
        self.root, self.key = root, key
        self._index: _Index | None = None
        self._lock = Lock()  # caches are changed by looking into them
        self._headers = LRUCache(_HEADERS)
        self._tensors = LRUCache(CACHE_BYTES, getsizeof=lambda tensor: tensor.nbytes)

    def __getstate__(self) -> dict[str, str]:
        return {"root": self.root, "key": self.key}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(state["root"], state["key"])

    @property
    def uri(self) -> str:
        """Where they lie."""
        return self._store().uri(self._folder)

    def missing(self, prompts: Iterable[str]) -> list[str]:
        """Those that have no embedding yet, shortest first: prompts of one length fill a batch without padding."""
        distinct = sorted(set(prompts), key=lambda text: (len(text), text))
        known = self._read_index().holds([_digest(prompt) for prompt in distinct])
        return [prompt for prompt, there in zip(distinct, known, strict=True) if not there]

    def put(self, prompts: list[str], embeddings: torch.Tensor) -> None:
        """Stores [N, length, width] for N prompts, in the dtype they come in."""
        name = secrets.token_hex(8)
        tensors = {_digest(prompt): embedding.clone() for prompt, embedding in zip(prompts, embeddings, strict=True)}
        store = self._store()
        store.write(f"{self._folder}/{name}.safetensors", save(tensors))
        index = {_digest(prompt): prompt for prompt in prompts}
        store.write(f"{self._folder}/{name}.json", json.dumps(index, ensure_ascii=False).encode())

    @cachedmethod(attrgetter("_tensors"), lock=attrgetter("_lock"))
    def get(self, prompt: str) -> torch.Tensor:
        """One prompt's embedding, float32 [length, width], whatever dtype it was stored in; the same tensor as long as
        it is kept. NotFound if it was never put, which no row is to blame for."""
        digest = _digest(prompt)
        key = f"{self._folder}/{self._shard(digest, prompt)}.safetensors"
        try:
            return read_tensor(partial(self._store().read_part, key), self._header(key), digest).float()
        except (KeyError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
            raise StorageError(
                f"{self._store().uri(key)} is damaged ({error}): delete it and the .json beside it to encode it anew"
            ) from error

    @cachedmethod(attrgetter("_headers"), lock=attrgetter("_lock"))
    def _header(self, key: str) -> tuple[int, dict[str, Any]]:
        return read_header(partial(self._store().read_part, key))

    def _shard(self, digest: str, prompt: str) -> str:
        found = self._read_index().find(digest)
        if found is None:
            self._index = None  # put since the index was read
            found = self._read_index().find(digest)
        if found is None:
            raise NotFound(f"no embedding of {prompt!r} in {self.uri}")
        return found

    @property
    def _folder(self) -> str:
        return f"embeddings/{self.key}"

    def _store(self) -> Store:
        return open_store(self.root)

    def _read_index(self) -> _Index:
        index = self._index  # another thread may have it read anew
        if index is None:
            index = self._index = _Index(self._store(), f"{self._folder}/")
        return index


class _Index:
    """Which shard holds a digest: two arrays, because a dictionary of a million prompts takes 200 MB in each actor."""

    def __init__(self, store: Store, folder: str) -> None:
        keys = [key for key in store.list(folder) if key.endswith(".json")]
        self.shards = [key.rpartition("/")[2].removesuffix(".json") for key in keys]
        with ThreadPoolExecutor(_READERS, thread_name_prefix="embeddings") as pool:
            parts = list(pool.map(lambda key: _to_digests(json.loads(store.read(key))), keys))
        digests = np.concatenate([_to_digests([]), *parts])
        places = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
        order = np.argsort(digests, kind="stable")
        self.digests, self.places = digests[order], places[order]

    def holds(self, digests: list[str]) -> Iterator[bool]:
        return iter(np.isin(_to_digests(digests), self.digests))

    def find(self, digest: str) -> str | None:
        wanted = digest.encode()
        place = int(np.searchsorted(self.digests, wanted))
        if place == len(self.digests) or self.digests[place] != wanted:
            return None
        return self.shards[self.places[place]]


def _to_digests(digests: Iterable[str]) -> np.ndarray:
    return np.array(list(digests), dtype="S32")


def _digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:32]
