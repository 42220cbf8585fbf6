"""A server that is away is waited for, by every verb and for a time that can be set; refused keys are not."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import S3Server
from darkroom.storage import NotFound, StorageError, Store, open_store, patience
from darkroom.storage.patience import Away, Patience, announce_by, stop_waiting
from darkroom.storage.s3 import S3Store
from fake_s3 import FakeS3
from fault_proxy import FAULTS, FaultProxy

OLD, NEW = b"old", b"new"


PAUSES = 0.01, 0.1


@pytest.fixture(scope="module")
def in_memory() -> Iterator[FaultProxy]:
    """Between stores and a server in memory."""
    with FakeS3() as server, FaultProxy(server.port) as proxy, pytest.MonkeyPatch.context() as patch:
        go_through(proxy, server.env, patch)
        yield proxy


@pytest.fixture
def proxy(in_memory: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> FaultProxy:
    in_memory.begin()
    monkeypatch.setattr(patience, "_PAUSES", PAUSES)
    return in_memory


@pytest.fixture
def uri() -> str:
    return f"s3://bucket/{secrets.token_hex(8)}"


def go_through(proxy: FaultProxy, env: dict[str, str], patch: pytest.MonkeyPatch) -> None:
    short = {"DARKROOM_S3_TIMEOUT": "1", "DARKROOM_S3_PATIENCE": "60"}
    for name, value in {**env, **short, "AWS_ENDPOINT_URL_S3": proxy.url}.items():
        patch.setenv(name, value)


def _delete(store: Store) -> bool:
    store.delete("k")
    return not store.exists("k")


def _move(store: Store) -> bytes:
    store.move("k", "moved")
    return store.read("moved")


def _write(store: Store) -> bytes:
    store.write("k", NEW)
    return store.read("k")


# What each verb gives on a store that has OLD at "k".
VERBS: dict[str, tuple[Callable[[S3Store], object], object]] = {
    "read": (lambda store: store.read("k"), OLD),
    "size": (lambda store: store.size("k"), 3),
    "part": (lambda store: store.read_part("k", 1, 2), b"ld"),
    "range": (lambda store: store.read_range("k", 0, 2, store.etag("k").value), b"ol"),
    "exists": (lambda store: store.exists("k"), True),
    "absent": (lambda store: store.exists("nothing"), False),
    "list": (lambda store: list(store.list()), ["k"]),
    "write": (_write, NEW),
    "create": (lambda store: (store.create("c", NEW), store.read("c")), (True, NEW)),
    "create again": (lambda store: (store.create("k", NEW), store.read("k")), (False, OLD)),
    "replace": (lambda store: (store.replace("k", OLD, NEW), store.read("k")), (True, NEW)),
    "replace another": (lambda store: (store.replace("k", b"other", NEW), store.read("k")), (False, OLD)),
    "delete": (_delete, True),
    "move": (_move, OLD),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("fault", ["503", "reset", "lost", "short"])
def test_every_verb_survives_a_fault_of_each_kind_at_every_request(
    proxy: FaultProxy, uri: str, verb: str, fault: str
) -> None:
    act, wanted = VERBS[verb]
    for place in range(4):
        store = open_store(f"{uri}/{place}")
        store.write("k", OLD)
        before = proxy.done[fault]
        proxy.script = [*[""] * place, fault]
        assert act(store) == wanted
        proxy.script = []
        if proxy.done[fault] == before:
            break  # the verb needs fewer requests
    assert proxy.done[fault] > 0


def test_a_stalled_answer_is_not_waited_for_without_end(proxy: FaultProxy, uri: str) -> None:
    store = open_store(uri)
    proxy.script = ["stall"]
    assert store.create("k", OLD)  # the put was done, its answer never came
    proxy.script = ["stall"]
    assert store.read("k") == OLD
    assert proxy.done["stall"] == 2


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_waits_for_a_server_that_is_away(proxy: FaultProxy, uri: str, verb: str) -> None:
    store, (act, wanted) = open_store(uri), VERBS[verb]
    store.write("k", OLD)
    proxy.away = True
    back = threading.Timer(0.3, lambda: setattr(proxy, "away", False))
    back.start()
    assert act(store) == wanted
    assert proxy.done["away"] > 1
    back.join()


def test_the_budget_is_of_time_and_the_same_for_every_verb(
    proxy: FaultProxy, uri: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DARKROOM_S3_PATIENCE", "2")
    store = open_store(uri)
    assert store.create("k", OLD)
    proxy.away = True
    with pytest.raises(StorageError, match=r"could not read .*cannot be reached.*tried for [23] s"):
        store.read("k")
    tries = proxy.done["away"]
    assert tries >= 4
    for act, _ in VERBS.values():  # the time is up: no later one waits as long again
        with pytest.raises(StorageError, match="cannot be reached"):
            act(store)
    assert proxy.done["away"] == tries + len(VERBS)
    said = [line for line in capfd.readouterr().err.splitlines() if "does not answer" in line]
    assert len(said) == 1 and proxy.url in said[0] and "DARKROOM_S3_PATIENCE" in said[0]


class Clock:
    """Time that passes only where somebody waits for it, in place of `time`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(patience, "time", self)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def asked(clock: Clock, away_for: float) -> tuple[list[str], float]:
    """What is said of a server that is away for so many seconds, and how long a request took."""
    said: list[str] = []
    server, began = Patience("the server", 300, "SETTING", said.append), clock.now

    def request() -> None:
        if clock.now - began < away_for:
            raise OSError

    try:
        server.ask(request, lambda error: Away("gone"))
    except OSError:
        said.append("0.0 s  gave up")
    return [line.partition("s  ")[2] for line in said], clock.now - began


def test_an_outage_is_said_once_and_counted_down(monkeypatch: pytest.MonkeyPatch) -> None:
    words, gone = asked(Clock(monkeypatch), 1000)
    assert 299 < gone < 301
    assert words[0].startswith("the server does not answer (gone): waiting for it, at most 4 min 5")
    assert words[0].endswith("s more (SETTING sets the whole)") and words[-1] == "gave up"
    assert 3 <= len(words[1:-1]) <= 5
    assert all(line.startswith("the server still does not answer: ") for line in words[1:-1])


def test_the_end_of_an_outage_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    words, _ = asked(Clock(monkeypatch), 30)
    assert len(words) == 2 and re.fullmatch("the server answers again, after 3[0-5] s", words[1])


def test_hiccups_are_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(Clock(monkeypatch), 1)[0] == []


def test_a_worker_says_it_where_somebody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(patience, "_hearers", [])
    Clock(monkeypatch)
    server = Patience("the server", 10, "SETTING")
    announce_by(said.append)
    with pytest.raises(OSError, match="away"):
        server.ask(_fail, lambda error: Away("gone"))
    assert "the server does not answer" in said[0]


def test_whoever_must_end_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_stopping", False)
    stop_waiting()
    with pytest.raises(OSError, match="away"):
        Patience("the server", 300, "SETTING").ask(_fail, lambda error: Away("gone"))


def _fail() -> None:
    raise OSError("away")


def test_one_request_that_always_fails_ends_beside_others_that_succeed() -> None:
    server = Patience("the server", 0.6, "SETTING", lambda line: None)
    stop = threading.Event()

    def succeed() -> None:
        while not stop.wait(0.05):
            server.ask(lambda: None, lambda error: None)

    others = threading.Thread(target=succeed)
    others.start()
    try:
        with pytest.raises(OSError, match="away"):
            server.ask(_fail, lambda error: Away("gone"))
    finally:
        stop.set()
        others.join()


def test_what_looks_like_a_wrong_address_is_not_waited_for_as_long(
    proxy: FaultProxy, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darkroom.storage.patience._DOUBTFUL", 0.5)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://no-such-host.invalid:9000")
    with pytest.raises(StorageError, match="cannot be reached; check AWS_ENDPOINT_URL_S3"):
        open_store(uri).read("k")


@pytest.mark.parametrize("verb", VERBS)
def test_expired_keys_end_every_verb_at_once(proxy: FaultProxy, uri: str, verb: str) -> None:
    store = open_store(uri)
    store.write("k", OLD)
    proxy.expired, proxy.requests = True, []
    with pytest.raises(StorageError, match="the keys have expired; renew AWS_SESSION_TOKEN") as caught:
        VERBS[verb][0](store)
    assert not isinstance(caught.value, NotFound)
    assert len(proxy.requests) <= 3, "a HEAD, whose answer has no reason, the SDK's look for its region, and a GET"


def test_keys_that_expire_are_read_anew_from_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "credentials"

    def write(key: str) -> None:
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\naws_session_token = t\n")

    with FakeS3() as server:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        write("first")
        store = open_store("s3://bucket/run")
        assert store.create("k", OLD)
        server.expired.add("first")
        with pytest.raises(StorageError, match="the keys have expired"):
            store.read("k")
        write("second")
        assert store.read("k") == OLD and store.exists("k")


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_keys_in_an_endpoints_url_are_never_printed(
    proxy: FaultProxy, uri: str, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv(name, proxy.url.replace("://", "://AKIAKEY:hunter2@"))
    monkeypatch.setenv("DARKROOM_S3_PATIENCE", "2")
    store = open_store(uri)
    store.write("k", OLD)
    proxy.away = True
    with pytest.raises(StorageError) as caught:
        store.read("k")
    told: list[BaseException | None] = [caught.value]
    while told[-1] is not None:
        told.append(told[-1].__cause__ or (None if told[-1].__suppress_context__ else told[-1].__context__))
    said = capfd.readouterr().err + "".join(f"{error} {error!r}" for error in told)
    assert "does not answer" in said and "hunter2" not in said and "AKIAKEY" not in said
    for address in ("http://AKIAKEY:hunter2@[", "AKIAKEY:hunter2@host"):
        monkeypatch.setenv(name, address)
        with pytest.raises(StorageError, match="could not set up S3") as caught:
            open_store(uri).read("k")
        assert "hunter2" not in str(caught.value) and caught.value.__cause__ is None


@pytest.fixture
def real(s3: S3Server, s3_env: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Before SeaweedFS, where one of ten requests goes wrong."""
    with FaultProxy(s3.port, rate=0.1) as proxy:
        go_through(proxy, s3.env, monkeypatch)
        monkeypatch.setattr(patience, "_PAUSES", PAUSES)
        yield proxy


def test_changes_over_a_bad_network_lose_nothing(real: FaultProxy, s3_env: str) -> None:
    """In all ways but a listing's lag. Who creates wins once; what was written is there, what was deleted is gone."""
    proxy = real
    proxy.faults, proxy.stall = tuple(name for name in FAULTS if name != "lag"), 1.2
    store = open_store(s3_env)
    for number in range(15):
        name = f"{number:02d}"
        assert store.create(f"created/{name}", name.encode())
        assert not store.create(f"created/{name}", b"another's")
        store.write(f"staging/{name}", name.encode())
        store.move(f"staging/{name}", f"moved/{name}")
        assert store.replace(f"created/{name}", name.encode(), b"new " + name.encode())
        if number % 2:
            store.delete(f"moved/{name}", f"never/{name}")
    proxy.rate = 0.0
    assert sum(proxy.done.values()) > 5, proxy.done
    assert list(store.list("staging/")) == []
    assert list(store.list("moved/")) == [f"moved/{number:02d}" for number in range(0, 15, 2)]
    for number in range(15):
        assert store.read(f"created/{number:02d}") == b"new %02d" % number
