"""As much of kustomize as cluster/kubernetes uses: resources, JSON 6902 patches by kind and name, images. Whatever else
a kustomization asks for is an error, so that a test never passes on what it did not do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
KNOWN = {"apiVersion", "kind", "resources", "patches", "images"}


def read_yaml(path: Path) -> list[Object]:
    """The documents of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def render(folder: Path) -> list[Object]:
    """What `kubectl kustomize FOLDER` prints, as objects."""
    (told,) = read_yaml(folder / "kustomization.yaml")
    assert set(told) <= KNOWN, f"{folder}: this renderer does not know {sorted(set(told) - KNOWN)}"
    objects: list[Object] = []
    for name in told["resources"]:
        path = folder / name
        # Copied: YAML's anchors make one object of two places, and a patch is for one of them.
        objects += [_separate(found) for found in (render(path) if path.is_dir() else read_yaml(path))]
    for patch in told.get("patches", ()):
        assert set(patch) == {"path", "target"} and set(patch["target"]) <= {"kind", "name"}, f"{folder}: {patch}"
        chosen = [found for found in objects if _is(found, **patch["target"])]
        assert chosen, f"{folder}: nothing is {patch['target']}"
        (operations,) = read_yaml(folder / patch["path"])
        for found in chosen:
            for operation in operations:
                apply(found, operation)
    for image in told.get("images", ()):
        assert set(image) in ({"name", "newName"}, {"name", "newName", "digest"}), f"{folder}: {image}"
        for found in objects:
            _rename(found, image["name"], image["newName"], image.get("digest"))
    return objects


def _is(found: Object, kind: str, name: str | None = None) -> bool:
    return found["kind"] == kind and name in (None, found["metadata"]["name"])


def apply(document: Object, operation: Object) -> None:
    """One operation of RFC 6902, `add`, `replace` or `copy`, in place. KeyError or IndexError where its path leads
    nowhere."""
    if operation["op"] == "copy":
        place, last = _find(document, operation["from"])
        value = place[int(last) if isinstance(place, list) else last]
        return apply(document, {"op": "add", "path": operation["path"], "value": value})
    place, last = _find(document, operation["path"])
    value = copy.deepcopy(operation["value"])
    match operation["op"], place:
        case "add", list():
            place.insert(len(place) if last == "-" else int(last), value)
        case "replace", list():
            place[int(last)] = value
        case "add", dict():
            place[last] = value
        case "replace", dict():
            if last not in place:
                raise KeyError(operation["path"])
            place[last] = value
        case _:
            raise ValueError(f"{operation['op']} at {operation['path']}")


def _find(document: Object, path: str) -> tuple[Any, str]:
    """What holds the place a path leads to, and the place in it."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]
    place: Any = document
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    return place, last


def _separate(node: Any) -> Any:
    """A copy in which no two places share an object, as `copy.deepcopy` would keep them."""
    if isinstance(node, dict):
        return {key: _separate(value) for key, value in node.items()}
    return [_separate(value) for value in node] if isinstance(node, list) else node


def _rename(node: Any, old: str, new: str, digest: str | None) -> None:
    """Another name for an image, and its digest in place of its tag."""
    if isinstance(node, list):
        for value in node:
            _rename(value, old, new, digest)
    elif isinstance(node, dict):
        name, colon, tag = str(node.get("image", "")).rpartition(":")
        if name == old:
            node["image"] = f"{new}@{digest}" if digest else f"{new}{colon}{tag}"
        for value in node.values():
            _rename(value, old, new, digest)
