"""Which variables `darkroom submit --env` passes on."""

from __future__ import annotations

import base64
import random
import secrets

import pytest

from darkroom.submit.secret_values import why_secret
from darkroom.submit.submission import _variables

SECRET = {
    "DATABASE_URL": ("postgres://user:hunter2@db.example.com:5432/runs", "a URL with a password in it"),
    "CACHE": ("redis://:hunter2@cache:6379/0", "a URL with a password in it"),
    "PROXY": ("http://proxy.example.com,https://me:pw@proxy.example.com", "a URL with a password in it"),
    "INPUT": ("https://bucket.s3.amazonaws.com/a.png?X-Amz-Expires=60&X-Amz-Signature=9f", "a signed URL"),
    "DEPLOY": ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1r\n-----END", "a private key"),
    "WHO": ("AKIAIOSFODNN7EXAMPLE", "a key of AWS"),
    "WHOSE": ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "a long random token"),
    "HUB": ("hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", "a service's token"),
    "GITHUB": ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "a service's token"),
    "SESSION": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N", "a JSON web token"),
    "OPTIONS": ("user=me auth:9f86d081884c7d659a2feaa0c55ad015", "a long random token"),
    "API_TOKEN": ("x", "a secret by its name"),
    "WANDB_API_KEY": ("", "a secret by its name"),
}
ORDINARY = {
    "OMP_NUM_THREADS": "8",
    "BIG": "123456789012345678901234567890123456",
    "LEARNING_RATE": "1e-4",
    "DARKROOM_REGISTRY": "s3://bucket/runs/2026-11-21/9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
    "HF_HOME": "/mnt/Shared9/hf-Cache2/Models--DeepFloyd--IF-I-XL-v1.0/c03d510e9b75bce9f9db5bb85148c1402ad7e694",
    "PATH": "/usr/local/cuda-12.4/bin:/usr/bin:~/bin",
    "AWS_ENDPOINT_URL": "https://minio.storage.svc.cluster.local:9000",
    "RAY_ADDRESS": "ray-head-svc.team-7.svc.cluster.local:6379",
    "NCCL_SOCKET_IFNAME": "eth0,eth1,enp0s31f6",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True,max_split_size_mb:128,garbage_collection_threshold:0.8",
    "XLA_FLAGS": "--xla_gpu_cuda_data_dir=/usr/local/cuda-12.4 --xla_gpu_enable_triton_gemm=false",
    "MODEL_NAME": "StableDiffusionXLBaseModelVersion10",
    "IMAGE": "registry.example.com/darkroom@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "GIT_COMMIT": "1e88273f9e02573902578051182f1fb2bc444e70",
    "RUN_ID": "550e8400-e29b-41d4-a716-446655440000",
    "TAG": "cuda-12-4-cudnn9-py311-torch26-linux64",
    "TZ": "America/Argentina/Buenos_Aires",
    "EMAIL": "mailto:someone@example.com",
    "PROMPT": "an oil painting of a red seven, 1960s, in the style of nobody in particular",
    "CONTACT": "https://example.com/@someone",
    "EMPTY": "",
}


@pytest.mark.parametrize("name", SECRET)
def test_a_secret_is_known_by_its_value(name: str) -> None:
    value, kind = SECRET[name]
    assert why_secret(name, value) == kind


@pytest.mark.parametrize("name", ORDINARY)
def test_what_is_ordinary_raises_no_alarm(name: str) -> None:
    assert why_secret(name, ORDINARY[name]) == ""


def test_random_tokens_are_seen_whatever_they_are_spelt_in() -> None:
    """All but one in a thousand of 32 random bytes, in each of the usual spellings; one in 64 of base64 begins as a
    path does, and cannot be told from one."""
    drawn = random.Random(0)
    bytes_of = [drawn.randbytes(32) for _ in range(1000)]
    for spell in (base64.b64encode, base64.urlsafe_b64encode, bytes.hex):
        words = [spell(data) for data in bytes_of]
        texts = [word if isinstance(word, str) else word.decode() for word in words]
        unseen = [text for text in texts if not why_secret("SETTING", text) and not text.startswith("/")]
        assert len(unseen) <= 1, spell


def test_the_command_names_the_variable_and_the_way_that_secrets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    password = secrets.token_hex(8)
    monkeypatch.setenv("DATABASE_URL", f"postgres://user:{password}@host/runs")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert _variables(("OMP_NUM_THREADS",)) == {"OMP_NUM_THREADS": "8"}
    with pytest.raises(ValueError, match="--env DATABASE_URL: .* a URL with a password.*where its nodes") as caught:
        _variables(("OMP_NUM_THREADS", "DATABASE_URL"))
    assert password not in str(caught.value)
