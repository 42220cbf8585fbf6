"""Every command on the pages does what it says: followed in its order, in a folder with what its page presumes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

import pytest
import requests
import yaml

from clusters import exported
from darkroom.storage import open_store
from darkroom.training.data import load_images, sample_uri, write_dataset
from documented import PAGES, ROOT, commands, section
from e2e.test_adapters import save_adapter
from exports import make_run
from models.test_checkpoint_files import single_file
from runs import RED, png, write_manifest
from small_world import QUICK, World
from toy_control import save_net
from toy_deepfloyd import save_toy_deepfloyd
from toy_mmdit import save_toy_mmdit
from toy_sd import save_toy_sd
from toy_video import save_toy_video

pytestmark = pytest.mark.slow

# Of a page this section only: the others want images, Kubernetes or other machines, and tests/cluster has their parts.
ONLY = {"cluster/README.md": "This machine"}
THERE = {page: commands(section((ROOT / page).read_text(), ONLY.get(page))) for page in PAGES}
NOT_RUN = {
    "ingest mnist --out data/mnist": "fetches MNIST from the network; a few of its digits stand there instead",
}
# What is appended, by the command's beginning: of two values of an option the later counts.
CHEAPER = {
    "train mnist-flow-class": "--set hidden=4 --set epochs=1 --set batch=32 --set validation_images=8 --no-report",
    "train lora": "--set rank=2 --set epochs=1 --set repeats=1 --set batch=2 --no-report",
    "evaluate": "--count 8 --steps 2",
    "generate manifests/course.yaml": "--limit 2 --stage1-workers 1 --stage2-workers 1",  # a processor each
    "generate manifests/": "--limit 2",
    "submit generate manifests/": "--limit 2",
}
# In place of what a hub has: the same classes with random weights, which a fixture or the page's world puts there.
TOYS = ("sd15", "sd35", "flux-dev", "flux-schnell", "cogvideox-5b", "wan22-14b", "deepfloyd-xl")
STAND_INS = {
    "path/to/stable-diffusion-v1-5": "./sd15",
    **{name: f"./{name}" for name in TOYS},
    "canny=hf://lllyasviel/sd-controlnet-canny": "canny=net",
    "2026-11-01T00:00:00Z": "2099-11-01T00:00:00Z",  # after the world's promotions
}
SERVERS = ("studio ",)
TOKEN = "token-of-this-test"
DARKROOM = [sys.executable, "-c", "from darkroom.cli import main; main()"]


class Reader:
    """Who follows a page: a folder, a shell's variables, and a prefix in a bucket."""

    def __init__(self, folder: Path, bucket: str):
        self.folder, self.bucket = folder, f"{bucket}/"
        self.environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
            "PYTHONPATH": f"{ROOT / 'lib'}{os.pathsep}{ROOT}", "HOME": str(folder / "home"), "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1", "DARKROOM_REGISTRY": str(folder / "runs/registry"),
        }  # fmt: skip

    def words(self, line: str) -> list[str]:
        """The command with cheap settings, and with what stands here in place of a hub's models and a bucket."""
        more = next((more for begin, more in CHEAPER.items() if line.startswith(begin)), "")
        words = [STAND_INS.get(word, word) for word in shlex.split(f"{line} {more}")]
        return [word.replace("s3://bucket/", self.bucket) for word in words]

    def follow(self, line: str) -> None:
        if line.startswith(SERVERS):
            return self.serve(line)
        done = subprocess.run(
            [*DARKROOM, *self.words(line)], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"darkroom {line}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        self.environment |= exported(done.stdout)
        for names in re.findall(r"^unset (.*)$", done.stdout, re.MULTILINE):
            self.environment = {name: self.environment[name] for name in self.environment.keys() - set(names.split())}
        return None

    def serve(self, line: str) -> None:
        """Until its page is there; Ctrl-C ends it."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        environment = self.environment | ({"DARKROOM_STUDIO_TOKEN": TOKEN} if "--host" in line else {})
        command = [*DARKROOM, *self.words(line), "--port", port]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, cwd=self.folder, env=environment, text=True, **pipes) as process:
            assert process.stdout is not None
            said, status = process.stdout.readline(), None
            ends = time.monotonic() + 120
            while status is None and process.poll() is None and time.monotonic() < ends:
                with suppress(requests.ConnectionError):
                    status = requests.get(f"http://127.0.0.1:{port}/?token={TOKEN}", timeout=30).status_code
                time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            said += process.communicate(timeout=60)[0]
        assert (status, process.returncode) == (200, 130), f"darkroom {line}: {said}"


def few_digits(reader: Reader) -> None:
    """What `darkroom ingest mnist` leaves, of fewer digits."""
    splits = {}
    for split, count in (("train", 320), ("test", 100)):
        images = load_images(sample_uri(), split)
        every = len(images.labels) // count
        splits[split] = (images.images[::every], images.labels[::every])
    record = {"name": "mnist", "source": "sample", "classes": [str(digit) for digit in range(10)]}
    write_dataset(str(reader.folder / "data/mnist"), splits, record)


def prompts(reader: Reader) -> None:
    (reader.folder / "prompts.txt").write_text("a red seven\na blue three on white\n")


def photos(reader: Reader) -> None:
    for number in range(2):
        open_store(str(reader.folder / "photos")).write(f"{number}.png", png(32, number))


def captions(reader: Reader) -> None:
    lines = [json.dumps({"file_name": f"{number}.png", "text": "a red one"}) for number in range(2)]
    (reader.folder / "photos/metadata.jsonl").write_text("\n".join(lines))


def small_pipeline(reader: Reader) -> None:
    """The shipped pipeline's file, over a slice of digits and with thresholds that any network passes."""
    World(str(reader.folder), reader.folder).arrive("first", 0, 128)
    path = reader.folder / "manifests/pipelines/mnist-nightly.yaml"
    quick = {
        "data": {"kind": "idx", "source": "../../source"},
        "train": {"recipe": "mnist-flow-class", "settings": dict(QUICK)},
        "evaluate": {"count": 8, "steps": 2},
        "gate": {"validation_loss": {"at_most": 100}},
    }
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | quick))


def stable_diffusion(reader: Reader) -> None:
    save_toy_sd(reader.folder / "sd15")


def other_models(reader: Reader) -> None:
    """What docs/models.md has besides: an adapter, a control network, a single file, transformers, a cascade."""
    folder = reader.folder
    save_adapter(folder / "style.safetensors", 2, 1)
    save_net(folder / "net")
    single_file(folder / "sd15", folder / "dreamy.safetensors")
    save_toy_mmdit(folder / "sd35", "sd3")
    save_toy_mmdit(folder / "flux-dev", "flux-dev")
    save_toy_mmdit(folder / "flux-schnell", "flux-schnell")
    save_toy_video(folder / "cogvideox-5b", "cogvideox-5b")
    save_toy_video(folder / "wan22-14b", "wan22")
    save_toy_deepfloyd(folder / "deepfloyd-xl")
    write_manifest(folder, [RED])
    write_manifest(folder, [{"task": "text_to_video", "prompt": "a red seven", "frames": 9, "steps": 2}], "clips.jsonl")


def style(reader: Reader) -> None:
    """A manifest that asks for the adapter, and the pictures on yellowed paper, as the page has them painted."""
    write_manifest(reader.folder, [RED | {"adapters": [{"adapter": "style"}]}], "manifest.jsonl")
    painter = [sys.executable, "-m", "darkroom.training.painted_styles", "style", "--count", "4"]
    subprocess.run(painter, cwd=reader.folder, env=reader.environment, check=True)


def champions(reader: Reader) -> None:
    """Two versions of mnist-nightly, of which the second is live."""
    for number in (1, 2):
        reader.follow(f"train mnist-flow-class --data data/mnist --out models/night-{number}")
        reader.follow(f"registry add mnist-nightly models/night-{number}")
        reader.follow(f"registry promote mnist-nightly {number}")


def demo(reader: Reader) -> None:
    """A small runs/demo, with an anagram of a six."""
    views = [{"view": "identity", "prompt": "a blue six"}, {"view": "rotate_180", "prompt": "a blue nine"}]
    rows = [RED | {"id": f"{seed}", "seed": seed} for seed in range(8)]
    write_manifest(reader.folder, [*rows, {"task": "anagram", "views": views, "steps": 2}])
    reader.follow("generate jobs.jsonl --out runs/demo")


def runs_in_the_bucket(reader: Reader) -> None:
    for place in (str(reader.folder / "runs"), f"{reader.bucket}runs"):
        make_run(f"{place}/demo")


def prompt_list(reader: Reader) -> None:
    (reader.folder / "DrawBench.csv").write_text("Prompts,Category\na red seven,Colors\n")


PRESUMED: dict[str, tuple[Callable[[Reader], None], ...]] = {
    "README.md": (prompts, few_digits, photos, small_pipeline, stable_diffusion),
    "docs/export.md": (demo,),
    "docs/models.md": (stable_diffusion, other_models),
    "docs/studio.md": (runs_in_the_bucket,),
    "docs/training.md": (few_digits, photos, captions, stable_diffusion, style, champions),
    "manifests/README.md": (prompt_list,),
}


@pytest.fixture
def reader(tmp_path: Path, s3_env: str) -> Iterator[Reader]:
    (tmp_path / "home").mkdir()
    for folder in ("manifests", "cluster"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    reader = Reader(tmp_path, s3_env)
    yield reader
    if "RAY_ADDRESS" in reader.environment:
        reader.follow("cluster down")


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("page", [page for page, lines in THERE.items() if lines])
def test_the_commands_of_a_page_are_followed(page: str, reader: Reader) -> None:
    for prepare in PRESUMED.get(page, ()):
        prepare(reader)
    for line in THERE[page]:
        if line not in NOT_RUN:
            reader.follow(line)


def test_what_is_not_run_is_on_a_page() -> None:
    assert not NOT_RUN.keys() - set(chain.from_iterable(THERE.values()))
    assert all(THERE[page] for page in ONLY)
