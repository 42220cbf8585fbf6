"""The registry on a folder and on a real S3 server: races, crashes at every write, history, retirement."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.models import registration, registry
from darkroom.models.adapter_files import LowRank, StoredAdapter
from darkroom.models.adapter_folder import save_adapter
from darkroom.models.catalog import open_model
from darkroom.models.errors import ModelError
from darkroom.models.registry import RegisteredModel, names
from darkroom.storage import LocalStore, open_store
from toys import network_config, save_toy_network


def add(model: RegisteredModel, source: str, **record: Any) -> int:
    """A new whole version."""
    champion = model.champion()
    number = model.claim()
    model.register(number, source, {"parent": champion and champion.version, **record})
    return number


def promoted(model: RegisteredModel, source: str) -> int:
    before = model.champion()
    number = add(model, source)
    assert model.promote(number, before) is not None
    return number


def test_from_the_first_version_to_a_rollback(store_uri: str, toy_network: str, monkeypatch: Any) -> None:
    model = RegisteredModel(store_uri, "digits")
    began = datetime.now(UTC)
    with pytest.raises(ModelError, match="'digits' has no champion in .*; models that have one: none"):
        open_model(f"registry://{store_uri}/digits")
    times = []
    for _ in range(2):
        promoted(model, toy_network)
        times.append(datetime.now(UTC))
    model.rollback(reason="colder digits")
    assert [(event["kind"], event["version"]) for event in model.history()] == [
        ("registered", 1), ("promoted", 1), ("registered", 2), ("promoted", 2), ("rolled_back", 1),
    ]  # fmt: skip
    assert [model.champion_at(time) for time in (began, *times, datetime.now(UTC))] == [None, 1, 2, 1]
    assert names(store_uri) == ["digits"] and model.history()[-1]["reason"] == "colder digits"
    monkeypatch.setenv("DARKROOM_REGISTRY", store_uri)
    opened, second = open_model("registry://digits"), open_model("registry://digits@2")
    assert (opened.name, second.name) == ("digits@1", "digits@2")
    assert opened.revision == open_model(toy_network).revision, "a row's key does not depend on the version's number"
    assert open_model("registry://digits").address == f"{store_uri}/digits/versions/1"
    with pytest.raises(ModelError, match="digits@1 is the first champion"):
        model.rollback()
    model.rollback(to=2)
    assert open_model("registry://digits").address == f"{store_uri}/digits/versions/2"


def test_rolling_back_twice_goes_two_champions_back(tmp_path: Path, toy_network: str) -> None:
    model = RegisteredModel(str(tmp_path), "digits")
    for _ in range(3):
        promoted(model, toy_network)
    assert [model.rollback().version, model.rollback().version] == [2, 1]


def test_of_promoters_who_race_one_wins(store_uri: str, toy_network: str) -> None:
    model = RegisteredModel(store_uri, "digits")
    for before in (None, "champion"):
        seen = before and model.champion()
        numbers, start = [add(model, toy_network) for _ in range(4)], threading.Barrier(4)

        def attempt(number: int, start: threading.Barrier = start, seen: Any = seen) -> bool:
            start.wait()
            return RegisteredModel(store_uri, "digits").promote(number, seen) is not None

        with ThreadPoolExecutor(4) as pool:
            won = list(pool.map(attempt, numbers))
        assert won.count(True) == 1
        assert model.champion().version == numbers[won.index(True)]
    assert [event["move"] for event in model.moves()] == [1, 2]


def test_numbers_are_given_once(store_uri: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: RegisteredModel(store_uri, "digits").claim(), range(8)))
    assert sorted(found) == list(range(1, 9))


class Died(BaseException):
    """A process that is killed: nothing catches it."""


def test_killed_at_any_write_a_promotion_is_finished_by_doing_it_again(
    tmp_path: Path, toy_network: str, monkeypatch: Any
) -> None:
    verbs = {name: getattr(LocalStore, name) for name in ("write", "create", "replace", "delete")}
    left = 0

    def counted(verb: str, after: bool) -> Any:
        def act(store: LocalStore, *given: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0 and not after:
                raise Died
            answer = verbs[verb](store, *given)
            if left == 0:
                raise Died
            return answer

        return act

    def do(model: RegisteredModel, number: int, before: Any) -> None:
        model.register(number, toy_network, {"parent": before.version})
        now = model.champion()
        if now.version != number:
            assert now.data == before.data and model.promote(number, before)
        model.retire(keep=1)

    for after in (False, True):
        for dies_at in range(1, 11):
            model = RegisteredModel(str(tmp_path / f"{after}-{dies_at}"), "digits")
            promoted(model, toy_network), promoted(model, toy_network)
            before, number = model.champion(), model.claim()
            with monkeypatch.context() as patch:
                for verb in verbs:
                    patch.setattr(LocalStore, verb, counted(verb, after))
                left = dies_at
                with pytest.raises(Died):
                    do(model, number, before)
            kinds = [event["kind"] for event in model.moves()]
            assert open_model(f"registry://{tmp_path}/{after}-{dies_at}/digits").load(), "a whole model at every moment"
            assert kinds.count("promoted") == (2 if model.champion().version == 2 else 3)
            do(model, number, before)
            assert [event["version"] for event in model.moves()] == [1, 2, 3]
            assert [event["kind"] for event in model.history()].count("registered") == 3
            assert (model.champion().version, model.versions()) == (3, [1, 2, 3])
            with pytest.raises(ModelError, match="digits@1 in .* was retired"):
                model.folder(1)
            assert not model.store.exists("versions/1/model.safetensors")


def test_the_newest_the_champion_and_its_parent_stay(tmp_path: Path, toy_network: str) -> None:
    model = RegisteredModel(str(tmp_path), "digits")
    for _ in range(4):
        promoted(model, toy_network)
    assert model.retire(keep=1) == [1, 2] and model.retire(keep=1) == []
    model.rollback()  # to 3
    add(model, toy_network), add(model, toy_network)
    assert model.retire(keep=1) == [5], "3 is the champion, 4 was it before, 6 is the newest"
    with pytest.raises(ModelError, match="digits@2 in .* was retired: its weights are deleted"):
        model.rollback()
    assert model.version(1)["version"] == 1
    assert [event["version"] for event in model.history() if event["kind"] == "retired"] == [1, 2, 5]


def test_a_clock_that_goes_back_does_not_turn_history_round(tmp_path: Path, toy_network: str, monkeypatch: Any) -> None:
    model = RegisteredModel(str(tmp_path), "digits")
    promoted(model, toy_network)
    earlier = datetime.now(UTC) - timedelta(hours=1)
    monkeypatch.setattr(registry, "_now", lambda: earlier)
    promoted(model, toy_network)
    first, second = (datetime.fromisoformat(event["at"]) for event in model.moves())
    assert first < second and model.champion_at(second) == 2 and model.champion_at(first) == 1


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("registry://digits", "in which registry. Set DARKROOM_REGISTRY"),
        ("registry://{root}/digits@two", "wanted a version's number after the @"),
        ("registry://{root}/digits@7", "digits has no version 7 in .*; there are: 1"),
        ("registry://{root}/", "'' cannot name a model"),
        ("registry://{root}/letters", "'letters' has no champion in .*; models that have one: digits"),
    ],
)
def test_what_an_address_cannot_mean(tmp_path: Path, toy_network: str, uri: str, said: str, monkeypatch: Any) -> None:
    monkeypatch.delenv("DARKROOM_REGISTRY", raising=False)
    promoted(RegisteredModel(str(tmp_path), "digits"), toy_network)
    with pytest.raises(ModelError, match=said):
        open_model(uri.format(root=tmp_path))


def test_a_pointer_that_is_damaged_or_points_nowhere(tmp_path: Path, toy_network: str) -> None:
    model = RegisteredModel(str(tmp_path), "digits")
    promoted(model, toy_network)
    pointer = json.loads(model.store.read("champion.json"))
    model.store.write("champion.json", json.dumps({**pointer, "version": 9}).encode())
    with pytest.raises(ModelError, match="digits has no version 9"):
        open_model(f"registry://{tmp_path}/digits")
    model.store.write("champion.json", b"{")
    with pytest.raises(ModelError, match=r"champion\.json is no pointer to a version"):
        open_model(f"registry://{tmp_path}/digits")


def test_the_first_champion_may_be_withdrawn(tmp_path: Path, toy_network: str) -> None:
    model = RegisteredModel(str(tmp_path), "digits")
    promoted(model, toy_network)
    first = model.champion()
    assert model.withdraw(first, reason="smoke") is not None and model.withdraw(first) is None
    with pytest.raises(ModelError, match="'digits' has no champion"):
        open_model(f"registry://{tmp_path}/digits")
    with pytest.raises(ModelError, match="there is nothing to roll back"):
        model.rollback()
    assert model.champion_at(datetime.now(UTC)) is None and model.retire(keep=1) == []
    assert promoted(model, toy_network) == 2 and model.champion().version == 2
    assert [event["version"] for event in model.moves()] == [1, None, 2]


def test_a_rollback_undoes_the_last_promotion_that_is_not_undone(tmp_path: Path, toy_network: str) -> None:
    """Whoever was promoted by hand took over from whoever was live then, whatever was live when it was added."""
    early = registration.add(str(tmp_path), "digits", toy_network)
    model = RegisteredModel(str(tmp_path), "digits")
    second, third = promoted(model, toy_network), promoted(model, toy_network)
    registration.promote(str(tmp_path), "digits", early)
    registration.promote(str(tmp_path), "digits", second)
    assert [model.rollback().version for _ in range(3)] == [early, third, second]
    assert model.champion_at(datetime.now(UTC)) == second
    with pytest.raises(ModelError, match="digits@2 is the first champion"):
        model.rollback()
    model.rollback(to=third)
    assert model.rollback().version == second, "it was pointed to from there"
    assert model.retire(keep=1) == [early], "3 was live just now"


def test_an_adapter_is_added_by_hand_and_stays_one_of_its_base(tmp_path: Path, toy_network: str) -> None:
    root = str(tmp_path / "registry")

    def adapter(folder: str, revision: str) -> str:
        layers = {"mid.to_q": LowRank(torch.zeros(2, 4), torch.zeros(3, 2))}
        about = {"base": {"model": "sd-xs", "name": "sd-xs", "revision": revision}}
        save_adapter(open_store(str(tmp_path / folder)), layers, "kohya", about, ())
        return str(tmp_path / folder)

    first = adapter("first", "a1")
    assert registration.add(root, "style", first, "by hand") == 1
    registration.promote(root, "style", 1)
    place = registry.resolve(f"registry://{root}/style")
    assert StoredAdapter.at("style", place).digest == StoredAdapter.at("style", first).digest
    assert registration.add(root, "style", adapter("second", "a1")) == 2
    with pytest.raises(ModelError, match="than the champion style@1: base sd-xs of the revision b2 in place of sd-xs"):
        registration.add(root, "style", adapter("third", "b2"))
    with pytest.raises(ModelError, match="than the champion style@1: base None in place of sd-xs of the revision a1"):
        registration.add(root, "style", toy_network)
    torn = Path(adapter("torn", "a1"), "lora.safetensors")
    torn.write_bytes(torn.read_bytes()[:-10])
    with pytest.raises(ModelError, match="lora.safetensors is damaged"):
        registration.add(root, "style", str(torn.parent))
    assert RegisteredModel(root, "style").versions() == [1, 2]


def test_what_may_not_be_added_by_hand(tmp_path: Path, toy_network: str) -> None:
    root = str(tmp_path / "registry")
    registration.promote(root, "digits", registration.add(root, "digits", toy_network))
    with pytest.raises(ModelError, match="if-xs is no network that was trained here"):
        registration.add(root, "digits", "if-xs")
    fewer = save_toy_network(str(tmp_path / "fewer"), network_config(num_classes=3))
    with pytest.raises(ModelError, match="than the champion digits@1: classes 3 in place of 10; give it another name"):
        registration.add(root, "digits", fewer)
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "config.json").write_bytes(Path(toy_network, "config.json").read_bytes())
    (torn / "model.safetensors").write_bytes(Path(toy_network, "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ModelError, match="model.safetensors is damaged"):
        registration.add(root, "digits", str(torn))
    with pytest.raises(ModelError, match="digits has no version 2"):
        registration.promote(root, "digits", 2)
    assert RegisteredModel(root, "digits").versions() == [1]
