from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkroom.storage import open_store
from darkroom.training.data import load_images
from darkroom.training.ingest import ingest
from darkroom.training.ingest_folder import in_test, read_folder


def picture(value: int | tuple[int, int, int], height: int = 4, width: int = 5, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("L" if isinstance(value, int) else "RGB", (width, height), value).save(buffer, kind)
    return buffer.getvalue()


def write(uri: str, files: dict[str, bytes]) -> str:
    for key, data in files.items():
        open_store(uri).write(key, data)
    return uri


def own_splits(colour: int | tuple[int, int, int] = 7) -> dict[str, bytes]:
    return {
        "train/dog/b.png": picture(1), "train/dog/a.png": picture(2), "train/cat/x.JPG": picture(200, kind="JPEG"),
        "test/cat/y.png": picture(4), "test/dog/z.jpeg": picture(colour, kind="JPEG"), "README.md": b"cats and dogs",
        "train/.DS_Store": b"x",
    }  # fmt: skip


def test_train_and_test_of_its_own(store_uri: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    record = ingest("folder", write(f"{store_uri}/pets", own_splits()), out)
    assert (record["name"], record["classes"]) == ("pets", ["cat", "dog"])
    assert record["image"] == {"height": 4, "width": 5, "channels": 1}  # all of it grey
    train, test = load_images(out, "train"), load_images(out, "test")
    assert train.labels.tolist() == [0, 1, 1] and test.labels.tolist() == [0, 1]
    assert train.images[:, 0, 0, 0].tolist() == [200, 2, 1]  # by class, then by name
    assert test.images[:, 0, 0, 0].tolist() == [4, 7]


def test_one_picture_in_colour_makes_all_of_them_rgb(tmp_path: Path) -> None:
    files = own_splits() | {"test/dog/z.jpeg": picture((9, 8, 7))}
    record = ingest("folder", write(str(tmp_path / "pets"), files), str(tmp_path / "out"))
    assert record["image"]["channels"] == 3
    assert load_images(str(tmp_path / "out"), "train").images[1, 3, 4].tolist() == [2, 2, 2]
    assert load_images(str(tmp_path / "out"), "test").images[1, 0, 0].tolist() == [9, 8, 7]


def test_a_tenth_is_set_aside_by_name_alone(tmp_path: Path) -> None:
    names = [f"{kind}/{number:03d}.png" for kind in ("cat", "dog") for number in range(60)]
    files = {name: picture(number) for number, name in enumerate(names)}
    record = ingest("folder", write(str(tmp_path / "pets"), files), str(tmp_path / "out"))
    aside = [number for number, name in enumerate(names) if in_test(name)]
    assert 5 <= len(aside) <= 20
    assert load_images(str(tmp_path / "out"), "test").images[:, 0, 0, 0].tolist() == aside
    assert record["source"].endswith("pets; the test split is one file in 10, chosen by the digest of its name")
    write(str(tmp_path / "pets"), {f"dog/new-{number}.png": picture(250) for number in range(20)})
    ingest("folder", str(tmp_path / "pets"), str(tmp_path / "out"))
    again = load_images(str(tmp_path / "out"), "test").images[:, 0, 0, 0]
    assert again[again != 250].tolist() == aside


def test_the_splits_are_no_copies_of_the_pictures(tmp_path: Path) -> None:
    """Which may be nearly all that the memory holds."""
    files = {f"cat/{number}.png": picture((number, 0, 1)) for number in range(40)}
    found, _ = read_folder(write(str(tmp_path / "pets"), files), [])
    (train, labels), (test, _) = found["train"], found["test"]
    assert len(train) + len(test) == 40 and len(labels) == len(train) and len(test)
    assert train.base is test.base is not None


def test_which_names_are_set_aside_never_changes() -> None:
    assert [number for number in range(60) if in_test(f"cat/{number}.png")] == [2, 16, 18, 26, 44, 45]


def test_every_bad_file_in_one_message(tmp_path: Path) -> None:
    wrong = {
        "train/dog/c.png": picture(3, height=5),
        "train/dog/d.png": picture(3)[:40],
        "train/dog/e.bmp": b"x",
        "train/dog/more/f.png": picture(3),
        "test/cat/empty.png": b"",
        "train/cow/g.png": picture(3),
    }
    source = write(str(tmp_path / "pets"), own_splits() | wrong)
    (tmp_path / "pets" / "train" / "hen").mkdir()
    with pytest.raises(ValueError) as caught:
        ingest("folder", source, str(tmp_path / "out"))
    message = str(caught.value)
    assert message.startswith(f"{source} has 8 problems:\n")
    for sentence in (
        "train/dog/c.png: 5 x 5 pixels (height x width), test/cat/y.png has 4 x 5",
        "train/dog/d.png: ",
        "train/dog/e.bmp: wanted a name that ends in .png, .jpg, .jpeg, .webp",
        "train/dog/more/f.png: wanted directly in train/CLASS/ or test/CLASS/",
        "test/cat/empty.png: the file is empty",
        "test/cow: the class has no picture",
        "train/hen: the class has no picture",
        "test/hen: the class has no picture",
    ):
        assert sentence in message
    assert not (tmp_path / "out").exists()


def test_a_long_list_of_problems_is_cut(tmp_path: Path) -> None:
    files = own_splits() | {f"train/dog/bad-{number:02d}.png": b"x" for number in range(50)}
    with pytest.raises(ValueError, match="bad-19.png: not an image.*\n  and 30 more$"):
        ingest("folder", write(str(tmp_path / "pets"), files), str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "no picture"),
        ({"a.png": picture(1)}, "a.png: wanted directly in CLASS/"),
        ({"cat/1.png": picture(1)}, "of 1 picture none falls to the test split"),
        ({"cat/0.png": picture(1), "dog/1.png": picture(1)}, "dog: all its pictures fall to the test split"),
        ({"train/cat/a.png": picture(1)}, "test/cat: the class has no picture"),
    ],
)
def test_what_is_no_data_set_is_a_sentence(files: dict[str, bytes], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        ingest("folder", write(str(tmp_path / "source"), files), str(tmp_path / "out"))


def test_classes_that_are_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    files = {f"{split}/{number}/a.png": picture(number) for split in ("train", "test") for number in range(12)}
    out = str(tmp_path / "out")
    record = ingest("folder", write(str(tmp_path / "numbers"), files), out)
    assert record["classes"] == [str(number) for number in range(12)]
    train = load_images(out, "train")
    assert dict(zip(train.labels.tolist(), train.images[:, 0, 0, 0].tolist(), strict=True)) == {n: n for n in range(12)}
    mixed = {f"{split}/{name}/a.png": picture(1) for split in ("train", "test") for name in ("10", "9", "nine")}
    assert ingest("folder", write(str(tmp_path / "mixed"), mixed), out)["classes"] == ["10", "9", "nine"]


@pytest.mark.parametrize(
    "folders",
    [("train", "val"), ("train", "test", "val"), ("Train", "Test"), ("training", "testing"), ("train", "valid")],
)
def test_splits_by_other_names_are_one_sentence(folders: tuple[str, ...], tmp_path: Path) -> None:
    files = {f"{top}/{kind}/{number}.png": picture(1) for top in folders for kind in "ab" for number in range(9)}
    with pytest.raises(ValueError) as caught:
        ingest("folder", write(str(tmp_path / "pets"), files), str(tmp_path / "out"))
    named = " and ".join(f"{top}/" for top in sorted(folders))
    wanted = "wanted train/ and test/, by these names, and no other folder beside them"
    assert str(caught.value) == f"{tmp_path}/pets has {named}: {wanted}"


def test_classes_may_be_called_as_splits_are(tmp_path: Path) -> None:
    files = {f"{split}/{kind}/a.png": picture(1) for split in ("train", "test") for kind in ("train", "val")}
    assert ingest("folder", write(str(tmp_path / "pets"), files), str(tmp_path / "out"))["classes"] == ["train", "val"]


def test_what_programs_leave_beside_pictures_is_no_problem(tmp_path: Path) -> None:
    beside = {"train/dog/Thumbs.db": b"x", "train/metadata.jsonl": b"{}", "desktop.ini": b"x"}
    files = own_splits() | beside | {"train/cat/z.webp": picture(9, kind="WEBP")}
    record = ingest("folder", write(str(tmp_path / "pets"), files), str(tmp_path / "out"))
    assert record["splits"]["train"]["rows"] == 4


def test_a_pipe_or_a_device_among_pictures_is_named(tmp_path: Path) -> None:
    write(str(tmp_path / "pets"), own_splits())
    os.mkfifo(tmp_path / "pets/train/dog/pipe.png")
    (tmp_path / "pets/train/dog/zero.png").symlink_to("/dev/zero")
    (tmp_path / "pets/train/dog/gone.png").symlink_to("nowhere.png")
    with pytest.raises(ValueError, match="has 3 problems") as refused:
        ingest("folder", str(tmp_path / "pets"), str(tmp_path / "out"))
    assert str(refused.value).count("it is no file") == 2 and "gone.png: nothing is there" in str(refused.value)


def test_pictures_of_another_size_are_not_unpacked(tmp_path: Path) -> None:
    """These end in their pixels, which nobody comes to see."""
    large = picture(1, 900, 700)[:200]
    files = own_splits() | {f"train/dog/l{number}.png": large for number in range(20)}
    with pytest.raises(ValueError, match="l0.png: 900 x 700 pixels"):
        ingest("folder", write(str(tmp_path / "pets"), files), str(tmp_path / "out"))


def test_a_folder_is_wanted() -> None:
    with pytest.raises(ValueError, match="wanted the folder of the pictures"):
        ingest("folder", None, "nowhere")


def test_pixels_come_back_as_they_were(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(20, 6, 6, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        path = tmp_path / "source" / ("test" if number % 5 == 0 else "train") / "all" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    ingest("folder", str(tmp_path / "source"), str(tmp_path / "out"))
    np.testing.assert_array_equal(load_images(str(tmp_path / "out"), "test").images, pixels[::5])
