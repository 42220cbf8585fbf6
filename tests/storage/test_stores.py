from __future__ import annotations

import os
import pickle
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from darkroom.storage import NotAFile, NotFound, StorageError, TooLarge, join, open_store, read_uri, write_uri
from fake_s3 import FakeS3


def test_write_read_replace(store_uri: str) -> None:
    store = open_store(store_uri)
    store.write("a/b.bin", b"one")
    store.write("a/b.bin", b"two")
    assert store.read("a/b.bin") == b"two"
    store.write("empty", b"")
    assert store.read("empty") == b""


def test_absence_is_told_apart_from_failure(store_uri: str) -> None:
    store = open_store(store_uri)
    assert not store.exists("nothing/here")
    with pytest.raises(NotFound, match=r"could not read .*nothing/here: nothing is there"):
        store.read("nothing/here")
    assert list(store.list()) == []
    store.delete("nothing/here", "nor/there")
    store.delete()


def test_create_only_once(store_uri: str) -> None:
    store = open_store(store_uri)
    assert store.create("commits/x.json", b"first")
    assert not store.create("commits/x.json", b"second")
    assert store.read("commits/x.json") == b"first"
    assert list(store.list()) == ["commits/x.json"]


def test_create_has_exactly_one_winner(store_uri: str) -> None:
    store = open_store(store_uri)
    with ThreadPoolExecutor(8) as pool:
        for race in range(4):  # each lost put may cost a second with this server
            start = threading.Barrier(8)

            def attempt(writer: int, key: str = f"race-{race}", start: threading.Barrier = start) -> bool:
                start.wait()
                return store.create(key, b"writer %d" % writer)

            won = list(pool.map(attempt, range(8)))
            assert won.count(True) == 1
            assert store.read(f"race-{race}") == b"writer %d" % won.index(True)


def test_replace_wants_the_bytes_that_are_there(store_uri: str) -> None:
    store = open_store(store_uri)
    assert not store.replace("pointer", b"one", b"two") and not store.exists("pointer")
    store.write("pointer", b"one")
    assert not store.replace("pointer", b"other", b"two") and store.read("pointer") == b"one"
    assert store.replace("pointer", b"one", b"two") and store.read("pointer") == b"two"
    assert list(store.list()) == ["pointer"]


def test_replace_has_exactly_one_winner(store_uri: str) -> None:
    store = open_store(store_uri)
    store.write("pointer", b"start 0")
    with ThreadPoolExecutor(8) as pool:
        for race in range(4):
            start, old = threading.Barrier(8), store.read("pointer")

            def attempt(writer: int, start: threading.Barrier = start, old: bytes = old, race: int = race) -> bool:
                start.wait()
                return store.replace("pointer", old, b"race %d, writer %d" % (race, writer))

            won = list(pool.map(attempt, range(8)))
            assert won.count(True) == 1
            assert store.read("pointer") == b"race %d, writer %d" % (race, won.index(True))


def test_list_is_sorted_recursive_and_by_string_prefix(store_uri: str) -> None:
    keys = ["a.json", "a/1", "a/b/2", "ab", "b/c d+e%.txt", "b/é.png", "c/z/z/z"]
    store = open_store(store_uri)
    for key in keys:
        store.write(key, b"x")
    assert list(store.list()) == keys
    assert list(store.list("a")) == ["a.json", "a/1", "a/b/2", "ab"]
    assert list(store.list("a/")) == ["a/1", "a/b/2"]
    assert list(store.list("c/z/")) == ["c/z/z/z"]
    assert list(store.list("nowhere/")) == []
    assert store.has() and store.has("c/z/") and not store.has("nowhere/")
    assert store.has(but="a") and not store.has("c/z/", but="c/") and not store.has(but="")
    store.delete("a/1", "b/é.png", "never/was")
    assert list(store.list()) == ["a.json", "a/b/2", "ab", "b/c d+e%.txt", "c/z/z/z"]


def test_list_pages_through_more_than_a_thousand(s3_env: str) -> None:
    store = open_store(s3_env)
    keys = [f"many/{number:04d}" for number in range(1005)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.write(key, b""), keys))
    assert list(store.list("many/")) == keys
    store.delete(*keys)
    assert list(store.list()) == []


def test_move_replaces_and_can_be_repeated(store_uri: str) -> None:
    store = open_store(store_uri)
    store.write("staging/x", b"new")
    store.write("metadata/x", b"old")
    store.move("staging/x", "metadata/x")
    store.move("staging/x", "metadata/x")
    assert list(store.list()) == ["metadata/x"]
    assert store.read("metadata/x") == b"new"
    with pytest.raises(NotFound, match="staging/y"):
        store.move("staging/y", "metadata/y")


def test_a_store_pickles_as_its_uri(store_uri: str) -> None:
    store = open_store(store_uri)
    store.write("k", b"v")
    payload = pickle.dumps(store)
    assert len(payload) < 200
    assert pickle.loads(payload).read("k") == b"v"


def test_uri_is_what_read_uri_takes(store_uri: str) -> None:
    store = open_store(store_uri + "/")
    store.write("images/a b.png", b"v")
    assert store.uri("images/a b.png") == f"{store_uri}/images/a b.png"
    assert read_uri(store.uri("images/a b.png")) == b"v"


def test_a_bucket_without_prefix_is_a_store(s3_env: str) -> None:
    bucket = s3_env.rsplit("/", 1)[0]
    store = open_store(bucket)
    store.write("at-the-root", b"v")
    assert store.uri("at-the-root") == f"{bucket}/at-the-root"
    assert read_uri(f"{bucket}/at-the-root") == b"v"


def test_a_key_with_an_empty_part_is_not_another(s3_env: str) -> None:
    open_store(s3_env).write("pictures/cat.png", b"cat")
    for act in (read_uri, lambda uri: write_uri(uri, b"dog")):
        with pytest.raises(ValueError, match="pictures//cat.png: its key has an empty part"):
            act(f"{s3_env}/pictures//cat.png")
    assert read_uri(f"{s3_env}/pictures/cat.png") == b"cat"


def test_a_file_uri_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a b").write_bytes(b"v")
    assert read_uri(f"file://{tmp_path}/a%20b") == b"v"
    assert open_store(f"file://localhost{tmp_path}").read("a b") == b"v"


def test_a_relative_path_is_fixed_when_the_store_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("runs/demo")
    monkeypatch.chdir("/")
    store.write("k", b"v")
    assert (tmp_path / "runs/demo/k").read_bytes() == b"v"


@pytest.mark.parametrize("uri", ["gs://bucket/x", "s3://", "s3:///key", "s3://no spaces/x", "", "file://host/x"])
def test_an_unusable_uri_is_the_users_error(uri: str) -> None:
    with pytest.raises(ValueError, match=r"wanted .*(s3://bucket|file:///path)"):
        open_store(uri)


@pytest.mark.parametrize(
    "uri", ["s3:/bucket/x", "s3:bucket/x", "s3//bucket/x", "S3://bucket/x", "s3a://bucket/x", " s3://bucket/x",
            "s3:///bucket/x", "/home/user/s3:/bucket/x"],
)  # fmt: skip
def test_what_is_nearly_a_bucket_is_no_folder(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for use in (lambda: open_store(uri).write("k", b"v"), lambda: read_uri(join("/data", uri) + "/k")):
        with pytest.raises(ValueError, match=r"did you mean s3://bucket/x(/k)?\?|names no possible bucket"):
            use()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("uri", ["gs://bucket/x", "https://host/bucket/x", "az://bucket/x"])
def test_other_buckets_have_a_hint(uri: str) -> None:
    with pytest.raises(ValueError, match=r"unknown scheme.*wanted .*AWS_ENDPOINT_URL_S3 is its address"):
        open_store(uri)


@pytest.mark.parametrize("path", ["s3", "s3/bucket", "runs/s3.d/x", "a3:/x", "nots3:/x", "runs/s3a/x", "runs/s3//x"])
def test_paths_with_s3_in_them_stay_paths(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = str(tmp_path / path)
    assert open_store(path).root == whole and join(str(tmp_path), path) == whole


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "s3://bucket/x/..", "/"])
def test_a_uri_that_names_no_object_is_the_users_error(uri: str) -> None:
    with pytest.raises(ValueError, match="names no file"):
        read_uri(uri)


@pytest.mark.parametrize(
    ("base", "relative", "meant"),
    [
        ("/data/m", "inputs/x.png", "/data/m/inputs/x.png"),
        ("/data/m", "../x.png", "/data/x.png"),
        ("file:///data/m%20n", "x.png", "/data/m n/x.png"),
        ("/data/m", "/abs/x.png", "/abs/x.png"),
        ("/data/m", "s3://b/x.png", "s3://b/x.png"),
        ("s3://b/m/n", "x.png", "s3://b/m/n/x.png"),
        ("s3://b/m/n/", "../x.png", "s3://b/m/x.png"),
        ("s3://b", "x.png", "s3://b/x.png"),
        ("s3://b/m", "/abs/x.png", "/abs/x.png"),
    ],
)
def test_join(base: str, relative: str, meant: str) -> None:
    assert join(base, relative) == meant


def test_join_does_not_leave_the_bucket() -> None:
    with pytest.raises(ValueError, match="climbs out of the bucket"):
        join("s3://b/m", "../../other/x.png")


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/./b"])
def test_a_malformed_key_is_our_own_bug(store_uri: str, key: str) -> None:
    with pytest.raises(AssertionError, match="not a storage key"):
        open_store(store_uri).write(key, b"")


# ---- local trouble


def test_unfinished_local_writes_are_not_listed(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.write("metadata/a.parquet", b"v")
    (tmp_path / "metadata" / ".tmp-0123456789abcdef").write_bytes(b"half")
    assert list(store.list()) == ["metadata/a.parquet"]
    assert sorted(os.listdir(tmp_path / "metadata"))[1:] == ["a.parquet"]


def test_a_path_that_cannot_be_a_file_is_an_absence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"v")
    for path, reason in [(tmp_path, "directory"), (tmp_path / "file/x", "directory"), (tmp_path / ("n" * 300), "long")]:
        with pytest.raises(NotFound, match=f"could not read .*{reason}"):
            read_uri(str(path))


def test_a_pipe_or_a_device_is_not_even_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/zero")):
        with pytest.raises(NotAFile, match="it is no file"):
            read_uri(str(path))


def test_a_part_is_read_as_far_as_there_is_one(store_uri: str) -> None:
    store = open_store(store_uri)
    store.write("k", b"world")
    store.write("empty", b"")
    parts = [(0, 5), (1, 2), (3, 9), (5, 1), (99, 1), (2, 0)]
    assert [store.read_part("k", *part) for part in parts] == [b"world", b"or", b"ld", b"", b"", b""]
    assert store.read_part("empty", 0, 4) == b""
    with pytest.raises(NotFound):
        store.read_part("gone", 0, 1)


def test_a_part_of_an_object_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings and files of a data set are read by parts, some for each row."""
    with FakeS3() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        store = open_store("s3://bucket/run")
        store.write("k", b"world")
        server.requests.clear()
        assert store.read_part("k", 1, 2) == b"or"
        assert [asked.partition(" ")[0] for asked in server.requests] == ["GET"]


def test_no_more_is_read_than_is_wanted(store_uri: str) -> None:
    store = open_store(store_uri)
    store.write("k", b"12345")
    assert store.read("k", 5) == b"12345"
    with pytest.raises(TooLarge, match="has 5 bytes"):
        store.read("k", 4)


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"a file where the run should lie")
    with pytest.raises(StorageError, match=f"could not write {tmp_path}/out/k"):
        open_store(str(tmp_path / "out")).write("k", b"v")


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    from darkroom.storage.errors import from_os

    with pytest.raises(OSError) as caught, full.open("wb", buffering=0) as device:
        device.write(b"x")
    error = from_os(caught.value, "write", "/runs/demo/metadata/x")
    assert type(error) is StorageError
    assert str(error).startswith("could not write /runs/demo/metadata/x: the disk is full; free some space")


# ---- S3 trouble

VERBS = [
    lambda store: store.read("k"),
    lambda store: store.write("k", b"v"),
    lambda store: store.create("k", b"v"),
    lambda store: store.exists("k"),
    lambda store: list(store.list()),
    lambda store: store.delete("k"),
    lambda store: store.move("k", "l"),
]
each_verb = pytest.mark.parametrize("verb", VERBS, ids=["read", "write", "create", "exists", "list", "delete", "move"])


def check_sentence(error: StorageError, uri: str, *hints: str) -> None:
    assert not isinstance(error, NotFound)
    assert str(error).startswith("could not ") and uri in str(error)
    assert any(hint in str(error) for hint in hints), str(error)


@each_verb
def test_a_wrong_secret(s3_env: str, monkeypatch: pytest.MonkeyPatch, verb) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    monkeypatch.setenv("DARKROOM_S3_PATIENCE", "0")
    with pytest.raises(StorageError) as caught:
        verb(open_store(s3_env))
    check_sentence(caught.value, s3_env, "check AWS_SECRET_ACCESS_KEY", "check the keys")


@each_verb
def test_an_unknown_key(s3_env: str, monkeypatch: pytest.MonkeyPatch, verb) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("DARKROOM_S3_PATIENCE", "0")
    with pytest.raises(StorageError) as caught:
        verb(open_store(s3_env))
    check_sentence(caught.value, s3_env, "check AWS_ACCESS_KEY_ID", "check the keys")


@each_verb
def test_a_missing_bucket(s3_env: str, monkeypatch: pytest.MonkeyPatch, verb) -> None:
    monkeypatch.setenv("DARKROOM_S3_PATIENCE", "0")
    with pytest.raises(StorageError) as caught:
        verb(open_store("s3://no-such-bucket/run"))
    check_sentence(caught.value, "s3://no-such-bucket", "the bucket does not exist")


@each_verb
def test_an_endpoint_that_does_not_answer(s3_env: str, monkeypatch: pytest.MonkeyPatch, verb) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: a connection is refused
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.setenv("DARKROOM_S3_PATIENCE", "0")
        with pytest.raises(StorageError) as caught:
            verb(open_store(s3_env))
    check_sentence(caught.value, s3_env, "the endpoint cannot be reached; check AWS_ENDPOINT_URL_S3")


def test_no_keys_at_all(s3_env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match="no keys were found; set AWS_ACCESS_KEY_ID"):
        open_store(s3_env).read("k")


@each_verb
def test_a_profile_that_is_not_there(s3_env: str, monkeypatch: pytest.MonkeyPatch, verb) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(StorageError, match=r"check the AWS_\* variables.*no-such-profile"):
        verb(open_store(s3_env))


def test_an_endpoint_that_is_no_url(s3_env: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "not a url")
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL_S3"):
        open_store(s3_env).read("k")


@pytest.mark.parametrize("value", ["many", "-1", "nan", "inf"])
def test_a_bad_patience_is_the_users_error(s3_env: str, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DARKROOM_S3_PATIENCE", value)
    with pytest.raises(ValueError, match=f"DARKROOM_S3_PATIENCE is '{value}': wanted seconds"):
        open_store(s3_env).read("k")
