"""Embeddings made elsewhere: what is taken, and what is refused in which words."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pyarrow as pa
import pytest
import torch

from darkroom.batch.order import too_long
from darkroom.batch.progress import PROMPTS, JobCounter
from darkroom.batch.prompts import EmbedOptions, NoPrompts, embed, import_prompts
from darkroom.batch.stages import EncoderActor, Unencoded
from darkroom.models.cascade import Cascade
from darkroom.models.catalog import open_model
from darkroom.models.embeddings import EmbeddingStore
from darkroom.models.texts import TextEncoder
from darkroom.ray_cluster import ClusterError
from darkroom.storage import open_store
from toys import SHORTAGES

SHAPE = (77, 32)


@pytest.fixture
def model(toy_deepfloyd: str) -> Any:
    return open_model(toy_deepfloyd)


def saved(folder: Path, content: Any) -> str:
    torch.save(content, folder / "prompts.pth")
    return str(folder / "prompts.pth")


def test_they_are_found_by_a_run_in_any_dtype(tmp_path: Path, model: Any) -> None:
    given = {"a man": torch.randn(1, *SHAPE), "": torch.randn(*SHAPE).half()}
    assert import_prompts(saved(tmp_path, given), model, str(tmp_path / "out"), None) == 2
    for dtype in ("float32", "bfloat16", "float16"):
        store = EmbeddingStore(str(tmp_path / "out"), model.encoder_key("text_encoder", dtype))
        wanted = given["a man"][0].to(getattr(torch, dtype)).float()
        assert torch.equal(store.get("a man"), wanted) and store.missing(["", "a man", "other"]) == ["other"]


def test_a_file_on_s3_in_one_dtype_alone(tmp_path: Path, toy_deepfloyd: str, model: Any, s3_env: str) -> None:
    data = Path(saved(tmp_path, {"a man": torch.randn(*SHAPE)})).read_bytes()
    open_store(s3_env).write("in/prompts.pth", data)
    asked = EmbedOptions(f"{s3_env}/out", toy_deepfloyd, imported=f"{s3_env}/in/prompts.pth", dtype="bfloat16")
    assert embed(asked, pytest.fail) == 1, "and no Ray is started"
    keys = {key.split("/")[1] for key in open_store(f"{s3_env}/out").list("embeddings/")}
    assert keys == {model.encoder_key("text_encoder", "bfloat16")}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([1], "holds a list, wanted a dictionary"),
        ({}, "holds an empty dictionary"),
        ({7: torch.zeros(SHAPE)}, "the key 7 is a int, wanted the prompt's text"),
        ({"a man": [0.0]}, r"'a man': a list, wanted a tensor \[77, 32\] or \[1, 77, 32\]"),
        ({"ok": torch.zeros(SHAPE), "a man": torch.zeros(77, 16)}, r"'a man': a tensor \[77, 16\], wanted \[77, 32\]"),
        ({"a man": torch.zeros(2, *SHAPE)}, r"'a man': a tensor \[2, 77, 32\]"),
        ({"a man": torch.zeros(SHAPE, dtype=torch.int64)}, "'a man': a tensor of torch.int64"),
        ({"a man": torch.full(SHAPE, torch.nan)}, "'a man': holds values that are not finite"),
    ],
)  # fmt: skip
def test_what_is_no_embedding_is_named_and_nothing_is_stored(
    tmp_path: Path, model: Any, content: Any, complaint: str
) -> None:
    with pytest.raises(NoPrompts, match=complaint):
        import_prompts(saved(tmp_path, content), model, str(tmp_path / "out"), None)
    assert not (tmp_path / "out").exists()


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/never"),))


@pytest.mark.parametrize(
    "data", [pickle.dumps(Evil(), 2), pickle.dumps({"a": Evil()}, 2), b"", b"PK\3\4 torn", b"\x80\x02."]
)
def test_a_file_that_is_none_is_never_run(tmp_path: Path, model: Any, data: bytes) -> None:
    (tmp_path / "evil.pth").write_bytes(data)
    with pytest.raises(NoPrompts, match="is not a dictionary of tensors as torch.save writes it"):
        import_prompts(str(tmp_path / "evil.pth"), model, str(tmp_path / "out"), None)


def test_there_is_no_file_or_no_text(tmp_path: Path, model: Any, toy_network: str) -> None:
    with pytest.raises(NoPrompts, match="there is no file"):
        import_prompts(str(tmp_path / "none.pth"), model, str(tmp_path), None)
    with pytest.raises(NoPrompts, match="reads no text"):
        import_prompts(str(tmp_path / "none.pth"), open_model(toy_network), str(tmp_path), None)


def test_a_prompt_beyond_the_encoders_length_is_told(model: Any) -> None:
    cut = too_long(model)
    assert not cut("text_encoder", "a man") and cut("text_encoder", "a man " * 60)
    assert cut("stage3", "a man " * 20) and not cut("text_encoder", "a man " * 20), "a letter is a token of this CLIP"


@pytest.mark.parametrize("said", SHORTAGES, ids=str)
@pytest.mark.parametrize("when", ["loaded", "asked"])
def test_an_encoder_that_does_not_fit_its_device_is_a_sentence(
    tmp_path: Path, toy_deepfloyd: str, model: Any, monkeypatch: pytest.MonkeyPatch, when: str, said: Exception
) -> None:
    def short(*_: Any) -> Any:
        raise said

    monkeypatch.setattr(*((Cascade, "text_encoder") if when == "loaded" else (TextEncoder, "encode")), short)
    one = Unencoded("text_encoder", "float32", EmbeddingStore(str(tmp_path), "key"), [])
    actor = EncoderActor(toy_deepfloyd, model.revision, [one], 1, MagicMock())
    with pytest.raises(ClusterError) as raised:
        actor(pa.table({"encoder": [0], "prompts": [["a man"]]}))
    assert str(raised.value) == f"text_encoder does not fit its device: {said}"


def test_an_encoder_is_loading_until_its_weights_are_there(
    tmp_path: Path, toy_deepfloyd: str, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as a worker is loading a job waits six times as long for a sign of life: T5 may have to be fetched."""
    counter, load, seen = JobCounter([PROMPTS]), Cascade.text_encoder, []
    told = MagicMock()
    for name in ("load", "begin", "ready", "evaluated"):
        getattr(told, name).remote = getattr(counter, name)
    monkeypatch.setattr(Cascade, "text_encoder", lambda *given: seen.append(counter.news(0).loading) or load(*given))
    one = Unencoded("text_encoder", "float32", EmbeddingStore(str(tmp_path), "key"), [])
    EncoderActor(toy_deepfloyd, model.revision, [one], 1, told)(pa.table({"encoder": [0], "prompts": [["a man"]]}))
    assert seen == [True] and not counter.news(0).loading


@pytest.mark.parametrize(("run", "label"), [("s3://b/run", "s3://b/run"), ("", "STORE")])
def test_prompts_count_for_the_run_that_asks_wherever_their_embeddings_lie(
    run: str, label: str, tmp_path: Path, toy_deepfloyd: str, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --embeddings they lie elsewhere; the alert on a run that stands still looks at the run's own."""
    said: list[tuple[Any, ...]] = []
    monkeypatch.setattr("darkroom.batch.stages.embedded", lambda *given: said.append(given))
    store = EmbeddingStore(str(tmp_path), "key")
    actor = EncoderActor(
        toy_deepfloyd, model.revision, [Unencoded("text_encoder", "float32", store, [], run)], 1, MagicMock()
    )
    actor(pa.table({"encoder": [0], "prompts": [["a man"]]}))
    assert said == [(label.replace("STORE", store.root), "text_encoder", 1)]
