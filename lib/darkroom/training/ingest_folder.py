"""Any folder of pictures: SOURCE/{train,test}/CLASS/*.png|jpg, or SOURCE/CLASS/*, of which a tenth is the test split.

Which tenth is told by the digest of a file's name: the same on every machine, and a file that is added later moves no
other to the other side.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import posixpath
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from darkroom.phases import plural
from darkroom.storage import LocalStore, NotFound, Refused, Store, decode, in_a_decoder, open_store, stored_size
from darkroom.storage.paths import BAD_KEY, is_key

Splits = dict[str, tuple[np.ndarray, np.ndarray]]

ENDS = (".png", ".jpg", ".jpeg", ".webp")
BESIDE = {"thumbs.db", "desktop.ini", "metadata.jsonl", "metadata.csv"}  # what programs leave beside pictures
SPLITS = ("train", "test")
OTHER_SPLITS = {"training", "val", "valid", "validation", "dev", "eval", "testing"}
TEST_SHARE = 10  # one file in so many, where the folder has no train and test of its own
LISTED_PROBLEMS = 20
READ_AT_ONCE = 16


@dataclass(frozen=True)
class Picture:
    """A file: its key in the store, its class, and the split it is for."""

    key: str
    name: str
    split: str


def read_folder(source: str | None, quarantine: list[str] | None = None) -> tuple[Splits, dict[str, Any]]:
    """Pictures of one size, grey if every one of them is grey, else RGB; classes are folders, in order of their names,
    which is that of their numbers where all are numbers.

    Raises ValueError with every file that is wrong, at most 20 of them listed. With a list `quarantine`, files that
    cannot be used are left out, and what is wrong with each is added to it.
    """
    if source is None:
        raise ValueError("ingest folder: wanted the folder of the pictures after the word folder")
    store = open_store(source)
    pictures, problems, own_splits = _find(store)
    pictures.sort(key=lambda picture: picture.split)  # each split is then a part of the whole, and no copy of it
    classes = _in_order({picture.name for picture in pictures})
    if quarantine is not None:
        quarantine += problems
        problems = []
    problems += _empty(pictures, classes, store, own_splits)
    images, unusable = _decoded(store, pictures)
    if quarantine is not None and unusable and len(unusable) < len(pictures):
        quarantine += unusable.values()
        usable = [number for number in range(len(pictures)) if number not in unusable]
        images, pictures, unusable = images[usable], [pictures[number] for number in usable], {}
        problems += _empty(pictures, classes, store, own_splits)
    if problems or unusable:
        raise ValueError(listed(source, list(dict.fromkeys([*problems, *unusable.values()]))))
    images = _grey_if_all_are(images)
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[picture.name] for picture in pictures], np.int64)
    splits = {}
    tests = sum(picture.split == "test" for picture in pictures)
    for split, part in (("train", slice(tests, None)), ("test", slice(tests))):
        splits[split] = images[part], labels[part]
    return splits, {
        "name": posixpath.basename(source.rstrip("/")) or "folder",
        "source": _said(source, own_splits),
        "classes": classes,
    }


def _in_order(names: set[str]) -> list[str]:
    """So that the label of 10 is 10: as texts it would be 2."""
    return sorted(names, key=lambda name: (int(name), name)) if all(map(str.isdecimal, names)) else sorted(names)


def in_test(name: str) -> bool:
    """Whether the file CLASS/NAME belongs to the test split, for folders that do not say so themselves."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % TEST_SHARE == 0


def _said(source: str, own_splits: bool) -> str:
    chosen = f"; the test split is one file in {TEST_SHARE}, chosen by the digest of its name"
    return source if own_splits else source + chosen


def _find(store: Store) -> tuple[list[Picture], list[str], bool]:
    """Every picture, what lies where it should not, and whether the folder has train/ and test/ of its own."""
    keys = [key for key in store.list() if not _is_beside(key.split("/"))]
    _refuse_other_splits(keys, store)
    own_splits = any(key.startswith("train/") for key in keys) and all(_is_in(key, SPLITS) for key in keys)
    depth = 3 if own_splits else 2
    pictures, problems = [], []
    for key in keys:
        *folders, _ = key.split("/")
        if not folders and not key.lower().endswith(ENDS):
            continue  # a readme or a list of labels beside the folders
        if not is_key(key):
            problems.append(f"{store.uri(key)}: {BAD_KEY}")
        elif len(folders) != depth - 1:
            wanted = "train/CLASS/ or test/CLASS/" if own_splits else "CLASS/"
            problems.append(f"{store.uri(key)}: wanted directly in {wanted}")
        elif not key.lower().endswith(ENDS):
            problems.append(f"{store.uri(key)}: wanted a name that ends in {', '.join(ENDS)}")
        else:
            split = folders[0] if own_splits else SPLITS[in_test(key)]
            pictures.append(Picture(key, folders[-1], split))
    return pictures, problems, own_splits


def _is_beside(parts: list[str]) -> bool:
    return any(part.startswith(".") for part in parts) or parts[-1].lower() in BESIDE


def _refuse_other_splits(keys: list[str], store: Store) -> None:
    """ValueError where the folders are splits by other names than ours: as classes each of their files were wrong."""
    tops = {parts[0] for parts in (key.split("/") for key in keys) if len(parts) == 3}
    named = {top.lower() for top in tops}
    if tops <= {*SPLITS} or not named & {"train", "training"} or not named <= {*SPLITS, *OTHER_SPLITS}:
        return
    folders = " and ".join(f"{top}/" for top in sorted(tops))
    raise ValueError(
        f"{store.root} has {folders}: wanted train/ and test/, by these names, and no other folder beside them"
    )


def _is_in(key: str, folders: Iterable[str]) -> bool:
    """A file at the top counts as being in any: it is no class."""
    return "/" not in key or key.split("/")[0] in folders


def _empty(pictures: list[Picture], classes: list[str], store: Store, own_splits: bool) -> list[str]:
    """Classes without a picture, by split."""
    if not pictures:
        return [f"no picture ({', '.join(ENDS)}) in train/CLASS/ and test/CLASS/, nor in CLASS/"]
    there = {(picture.split, picture.name) for picture in pictures}
    if own_splits:
        wanted = set(itertools.product(SPLITS, {*classes, *_folders(store, SPLITS[0]), *_folders(store, SPLITS[1])}))
        return [f"{store.uri(posixpath.join(*place))}: the class has no picture" for place in sorted(wanted - there)]
    problems = [f"{store.uri(name)}: the class has no picture" for name in sorted({*_folders(store, "")} - {*classes})]
    for name in classes:
        if ("train", name) not in there:
            problems.append(f"{store.uri(name)}: all its pictures fall to the test split; add some")
    if not any(picture.split == "test" for picture in pictures):
        there = plural(len(pictures), "picture")
        problems.append(f"of {there} none falls to the test split; add some, or make train/ and test/")
    return problems


def _folders(store: Store, place: str) -> list[str]:
    """Folders, also those without a file, which a store's list does not show; S3 has no such folders."""
    top = posixpath.join(store.root, place)
    if not isinstance(store, LocalStore) or not os.path.isdir(top):
        return []
    return [entry.name for entry in os.scandir(top) if entry.is_dir() and not entry.name.startswith(".")]


def _decoded(store: Store, pictures: list[Picture]) -> tuple[np.ndarray, dict[int, str]]:
    """uint8 [N, H, W, 3]; and by number the files that cannot be read or have another size than the first that can.
    ValueError where together they are more than this machine's memory."""
    images, first, problems, start = np.empty(0, np.uint8), "", {}, 0
    with ThreadPoolExecutor(READ_AT_ONCE, thread_name_prefix="ingest") as pool:
        while start < len(pictures):  # no more at once: none of them need be small
            some = pictures[start : start + (READ_AT_ONCE if first else 1)]
            read = pool.map(partial(_read, store, images.shape[1:3]), some)
            for number, (picture, found) in enumerate(zip(some, read, strict=True), start):
                if isinstance(found, str):
                    problems[number] = found
                    continue
                if not first:
                    images, first = _room(len(pictures), found), picture.key
                if found.shape == images.shape[1:]:
                    images[number] = found
                else:
                    given, wanted = ("{} x {}".format(*shape[:2]) for shape in (found.shape, images.shape[1:]))
                    where = store.uri(picture.key)
                    problems[number] = f"{where}: {given} pixels (height x width), {first} has {wanted}"
            start += len(some)
    return images, problems


def _room(count: int, image: np.ndarray) -> np.ndarray:
    total, there = count * image.nbytes, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if total > there:
        size = "{} x {}".format(*image.shape[:2])
        raise ValueError(
            f"{count:,} pictures of {size} pixels take {total >> 30:,} GiB, this machine has {there >> 30:,}"
        )
    return np.empty((count, *image.shape), np.uint8)


def _read(store: Store, shape: tuple[int, ...], picture: Picture) -> np.ndarray | str:
    """The picture, uint8 [H, W, 3], or what is wrong with it. shape: (height, width) that are wanted, () for any: of
    another picture no pixels are unpacked."""
    where = store.uri(picture.key)
    try:
        data = store.read(picture.key)
        width, height = stored_size(data, where)
        if shape and sorted(shape) != sorted((width, height)):
            return np.empty((height, width, 0), np.uint8)
        return in_a_decoder(decode, data, where)
    except (ValueError, NotFound, Refused) as error:
        return str(error)


def _grey_if_all_are(images: np.ndarray) -> np.ndarray:
    """[N, H, W, 1] where the three colours of every pixel are the same; a part at a time, to take no copy of all."""
    for start in range(0, len(images), 1000):
        part = images[start : start + 1000]
        if not (part == part[..., :1]).all():
            return images
    return np.ascontiguousarray(images[..., :1])


def listed(source: str, problems: list[str]) -> str:
    count = len(problems)
    lines = [f"{source} has {plural(count, 'problem')}:", *problems[:LISTED_PROBLEMS]]
    if count > LISTED_PROBLEMS:
        lines.append(f"and {count - LISTED_PROBLEMS:,} more")
    return "\n  ".join(lines)
