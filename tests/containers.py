"""Images built and run where there is no container engine: buildah without isolation but chroot's, podman over runc.

As root on a Debian; everything lies in one folder, see `STORAGE`, and is gone with it.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Some 20 GB with CUDA's packages. What was built stays, so that the next time only what changed is built.
STORAGE = Path(os.environ.get("IMAGE_STORAGE", Path(tempfile.gettempdir()) / "darkroom-image"))
TOOLS = ("buildah", "podman", "runc", "debootstrap")
BASE = "localhost/darkroom-base:bookworm-headers"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# What of this machine's settings says how packages are reached.
PIP_SETTINGS = ("index-url", "extra-index-url", "find-links", "trusted-host", "proxy", "timeout", "retries")
# As cluster/compose.yaml and cluster/kubernetes run it; noexec: Docker mounts a tmpfs so.
HARDENED = (
    *("--network", "none", "--read-only", "--tmpfs", "/tmp:rw,noexec,size=2g,mode=1777", "--cap-drop", "all"),
    *("--security-opt", "no-new-privileges", "--memory", "4g", "--pids-limit", "2000", "--shm-size", "1g"),
)


def why_not() -> str:
    """What is missing for building an image here; "" for nothing."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return (
            f"no {', '.join(absent)} here: "
            "apt-get install --no-install-recommends buildah podman runc debootstrap netavark uidmap"
        )
    return "" if os.geteuid() == 0 else "building without an engine wants root"


@dataclass(frozen=True)
class Layer:
    """size in bytes; by: the line of the Dockerfile that made it."""

    size: int
    by: str


class Containers:
    """Builds and runs in a storage of its own, so that nothing lands among the machine's images."""

    def __init__(self, folder: Path = STORAGE) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        storage, settings = folder / "storage.conf", folder / "containers.conf"
        places = f'graphroot = "{folder}/storage"\nrunroot = "{folder}/run"\n'
        storage.write_text(f'[storage]\ndriver = "overlay"\n{places}')
        # Podman asks for more than a sandbox may allow.
        settings.write_text('[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]\n')
        self.env = {**os.environ, "CONTAINERS_STORAGE_CONF": str(storage), "CONTAINERS_CONF": str(settings)}

    def build(self, context: Path, tag: str, **arguments: str) -> str:
        """Builds the Dockerfile in `context` on a base of Debian's packages; minutes."""
        self._make_base()
        told = {"BASE_IMAGE": BASE, **arguments}
        options = [word for name, value in told.items() for word in ("--build-arg", f"{name}={value}")]
        options += [word for mount in self._mounts() for word in ("--volume", mount)]
        # docker's format: the other one has no health check.
        how = ("--isolation", "chroot", "--pull-never", "--layers", "--format", "docker")
        self._do("buildah", "bud", *how, *options, "--tag", tag, str(context), log=self.folder / "build.log")
        return tag

    def run(self, image: str, script: str, timeout: int = 300) -> subprocess.CompletedProcess[str]:
        """A line of bash in a container as pods are: not root, no network, nothing to write to but /tmp and /cache."""
        command = ["podman", "--runtime", "runc", "run", "--rm", *HARDENED, image, "bash", "-c", script]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=timeout)

    def runs_hardened(self, image: str) -> bool:
        return self.run(image, "true").returncode == 0

    def run_loosely(self, image: str, script: str, timeout: int = 300) -> subprocess.CompletedProcess[str]:
        """Where no runtime works: as the image's user, but with the machine's network and a root one can write to."""
        container = self._do("buildah", "from", "--pull-never", image).strip().splitlines()[-1]
        try:
            command = ["buildah", "run", "--isolation", "chroot", container, "--", "bash", "-c", script]
            return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=timeout)
        finally:
            self._do("buildah", "rm", container)

    def inspect(self, image: str) -> dict[str, Any]:
        """The image's configuration, as Docker says it."""
        return json.loads(self._do("podman", "image", "inspect", image))[0]

    def layers(self, image: str) -> list[Layer]:
        """Those that hold something, the base first."""
        told = json.loads(self._do("podman", "history", "--format", "json", "--no-trunc", image))
        made = [Layer(layer["size"], _line(layer.get("CreatedBy", ""))) for layer in reversed(told)]
        return [layer for layer in made if layer.size > 0]

    def _make_base(self) -> None:
        """What stands for python:3.11-slim-bookworm: Debian 12's own Python is 3.11. Both have Python's headers."""
        if subprocess.run(["podman", "image", "exists", BASE], env=self.env).returncode == 0:
            return
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            root, packed = Path(scratch) / "root", Path(scratch) / "root.tar"
            wanted = "--include=ca-certificates,python3,python3-venv,libpython3-dev"
            log = self.folder / "base.log"
            self._do("debootstrap", "--variant=minbase", wanted, "bookworm", str(root), *_mirror(), log=log)
            for folder in ("var/lib/apt/lists", "var/cache/apt"):  # as the real one leaves them
                shutil.rmtree(root / folder)
                (root / folder).mkdir()
            with tarfile.open(packed, "w") as tar:
                tar.add(root, arcname=".")
            path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            self._do("podman", "import", "--quiet", "--change", path, str(packed), BASE)

    def _mounts(self) -> list[str]:
        """How this machine reaches packages, lent to the build: a mounted file leaves an empty one in the image."""
        told = _pip_settings()
        if CERTIFICATES.exists():
            told["cert"] = str(CERTIFICATES)
        settings = self.folder / "pip.conf"
        settings.touch(mode=0o600)  # an index's address may hold a password
        settings.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in told.items()))
        words = [word.removeprefix("file://") for value in told.values() for word in value.split()]
        folders = {Path(word) for word in words if word.startswith("/") and Path(word).is_dir()}
        # An index in a folder points at files beside it.
        shared = {path.parent if path.name == "simple" else path for path in folders}
        mounts = {f"{settings}:/etc/pip.conf:ro", *(f"{path}:{path}:ro" for path in shared)}
        if CERTIFICATES.exists():
            mounts.add(f"{CERTIFICATES}:{CERTIFICATES}:ro")
        return sorted(mounts)

    def _do(self, *command: str, log: Path | None = None) -> str:
        """Runs it to its end. AssertionError with the end of what it said where it failed."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True)
        if log is not None:
            log.write_text(done.stdout + done.stderr)
        assert done.returncode == 0, f"{' '.join(command[:3])} ...: {(done.stdout + done.stderr)[-3000:]}"
        return done.stdout


def _pip_settings() -> dict[str, str]:
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    # Those of the environment come last, as they count for more.
    lines = sorted(re.findall(r"^(\S+)\.([\w-]+)=(.*)$", listed, re.MULTILINE), key=lambda found: found[0] == ":env:")
    told = {name.removeprefix("default-"): " ".join(ast.literal_eval(value).split()) for _, name, value in lines}
    return {name: value for name, value in told.items() if name in PIP_SETTINGS}


def _mirror() -> list[str]:
    """Where this machine gets its packages, if it is a Debian."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"], capture_output=True, text=True
    )
    return [uri for uri in listed.stdout.split() if uri.rstrip("/").endswith("/debian")][:1]


def _line(created_by: str) -> str:
    return re.sub(r"^/bin/(ba)?sh .*?-c (#\(nop\) )?", "", created_by).strip() or "the base"
