from __future__ import annotations

import pickle

import pytest
import torch

from darkroom.batch.embeddings import EmbeddingStore
from darkroom.storage import NotFound, open_store


def test_what_is_put_comes_back(store_uri: str) -> None:
    store = EmbeddingStore(store_uri, "rev")
    embeddings = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    store.put(["a red one", "größer – 東京"], embeddings)
    fresh = EmbeddingStore(store_uri, "rev")
    assert torch.equal(fresh.get("größer – 東京"), embeddings[1])
    assert torch.equal(fresh.get("a red one"), embeddings[0])


def test_missing_names_what_has_no_embedding_shortest_first(tmp_path) -> None:
    store = EmbeddingStore(str(tmp_path), "rev")
    assert store.missing(["three", "", "one", "two"]) == ["", "one", "two", "three"]
    store.put(["one"], torch.zeros(1, 3, 4))
    assert EmbeddingStore(str(tmp_path), "rev").missing(["three", "one"]) == ["three"]
    assert EmbeddingStore(str(tmp_path), "another model").missing(["one"]) == ["one"]


def test_it_pickles_as_its_address(tmp_path) -> None:
    store = EmbeddingStore(str(tmp_path), "rev")
    store.put(["one"], torch.ones(1, 1000, 100))
    store.get("one")
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    assert torch.equal(pickle.loads(pickled).get("one"), torch.ones(1000, 100))


def test_a_shard_whose_index_was_not_written_does_not_count(tmp_path) -> None:
    store = EmbeddingStore(str(tmp_path), "rev")
    store.put(["one"], torch.zeros(1, 3, 4))
    files = open_store(str(tmp_path))
    files.delete(*(key for key in files.list() if key.endswith(".json")))
    assert EmbeddingStore(str(tmp_path), "rev").missing(["one"]) == ["one"]


def test_one_embedding_for_one_prompt(tmp_path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        EmbeddingStore(str(tmp_path), "rev").put(["one", "two"], torch.zeros(1, 3, 4))


def test_one_put_later_is_found_and_one_never_put_is_named(tmp_path) -> None:
    reader, writer = EmbeddingStore(str(tmp_path), "rev"), EmbeddingStore(str(tmp_path), "rev")
    with pytest.raises(NotFound, match="no embedding of 'one'"):
        reader.get("one")
    writer.put(["one"], torch.ones(1, 3, 4))
    assert torch.equal(reader.get("one"), torch.ones(3, 4))
