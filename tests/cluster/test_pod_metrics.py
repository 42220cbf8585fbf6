"""What Ray's agent measures in a pod of the image."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

DOCKERFILE = Path(__file__).parents[2] / "Dockerfile"
PROGRAM = """\
from ray.dashboard.modules.reporter.reporter_agent import ReporterAgent
print(max(disk.total for disk in ReporterAgent._get_disk_usage("/tmp").values()))
"""


def test_a_pods_disk_is_measured() -> None:
    """The board draws it, and an alert asks for it. Ray makes it up in Kubernetes, one byte of which none is in use,
    unless it is told not to."""
    image = dict(re.findall(r"^    (RAY_\w+)=(\S+)", DOCKERFILE.read_text(), re.MULTILINE))
    environment = {**os.environ, **image, "RAY_AUTH_MODE": "disabled", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 2**20
