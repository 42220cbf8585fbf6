# One image for Ray's head, its workers and whoever submits. From the root of the repository:
#
#   docker build -t darkroom:0.1.0 --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" .
#
# Without CUDA, for machines that have no GPU:
#
#   docker build -t darkroom:0.1.0 --build-arg TORCH_REQUIREMENTS="torch==2.14.1+cpu torchvision==0.29.1+cpu" \
#     --build-arg TORCH_INDEX_URL=WHERE_PYTORCH_KEEPS_ITS_CPU_BUILDS .

# Any Debian with Python 3.11 and its venv module will do.
ARG BASE_IMAGE=python:3.11.15-slim-bookworm

FROM ${BASE_IMAGE} AS wanted
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# These stand for torch and torchvision and for all of CUDA's packages, in place of what the lock says.
ARG TORCH_REQUIREMENTS=""
# Packages beside the locked ones.
ARG EXTRA_REQUIREMENTS=""

WORKDIR /wanted
COPY pyproject.toml requirements.lock ./
# What pyproject.toml names, at the lock's versions: the lock as a whole would bring the tests' packages too. Setuptools
# builds the package below. No date, so that gigabytes are installed anew only when a requirement changes.
RUN python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > wanted.txt \
    && echo setuptools >> wanted.txt \
    && if [ -n "$TORCH_REQUIREMENTS" ]; then \
        sed -i -E '/^torch(vision)?==/d' wanted.txt requirements.lock \
        && echo "$TORCH_REQUIREMENTS" | tr ' ' '\n' >> wanted.txt; \
    fi \
    && echo "$EXTRA_REQUIREMENTS" | tr ' ' '\n' >> wanted.txt \
    && touch --date=@0 wanted.txt requirements.lock

FROM ${BASE_IMAGE} AS builder
ARG TORCH_INDEX_URL=""
RUN python3 -m venv /opt/darkroom
ENV PATH=/opt/darkroom/bin:$PATH
WORKDIR /build
COPY --from=wanted /wanted/wanted.txt /wanted/requirements.lock ./
RUN python -m pip install --no-cache-dir --disable-pip-version-check --only-binary :all: \
        ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} -c requirements.lock -r wanted.txt

# The package beside the environment, not in it: else a changed line of code would make all of CUDA a new layer.
FROM builder AS package
COPY pyproject.toml README.md LICENSE ./
COPY lib lib
COPY jobs jobs
RUN python -m pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation --prefix /package .

FROM ${BASE_IMAGE} AS runtime
# torch.compile, which training turns on by itself on GPUs, builds its kernels' launchers (Triton) and its kernels for
# processors (inductor) where they run. Not pinned: Debian's mirrors hold one version of a package, so that a pin ends
# every build at the next security fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
# Libraries ask for the user's name, so the number must have one. /cache is there for the volume to take its owner from.
RUN groupadd --gid 1000 darkroom \
    && useradd --uid 1000 --gid 1000 --home-dir /tmp --no-create-home --shell /bin/bash darkroom \
    && install --directory --owner 1000 --group 1000 --mode 0775 /cache
# Owned by root, so that a job cannot change the code it runs.
COPY --from=builder /opt/darkroom /opt/darkroom
COPY --from=package /package /opt/darkroom
WORKDIR /app
COPY jobs jobs
COPY manifests manifests

# TORCHINDUCTOR_CACHE_DIR, TRITON_CACHE_DIR: a node's next job finds what this one compiled. What lies there is loaded
# into processes, so a volume mounted noexec will not do.
# HOME: with a read-only root file system only /tmp and /cache can be written to.
# RAY_AUTH_MODE: a node that was given no token does not start, rather than starting open.
# RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE: else a pod's disk is empty to Ray, and to the board and the alert that ask for it.
# NVIDIA_*: what the container runtime hands in; CUDA's own libraries come with torch.
ENV PATH=/opt/darkroom/bin:$PATH \
    HOME=/tmp \
    HF_HOME=/cache/huggingface \
    DARKROOM_CACHE=/cache/darkroom \
    XDG_CACHE_HOME=/cache \
    MPLCONFIGDIR=/cache/matplotlib \
    TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor \
    TRITON_CACHE_DIR=/cache/triton \
    HF_HUB_OFFLINE=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONUNBUFFERED=1

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="darkroom" \
      org.opencontainers.image.description="Batch image generation and training with diffusion models, on Ray" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# /tmp: Ray's session, and what it spills there.
VOLUME ["/cache", "/tmp"]
USER 1000:1000
# For `docker run` and compose; Kubernetes asks Ray by probes that KubeRay writes.
HEALTHCHECK --interval=60s --timeout=30s --start-period=60s --retries=3 \
    CMD ["ray", "health-check", "--skip-version-check"]
# No ENTRYPOINT: KubeRay, compose and Slurm each bring their own command.
CMD ["darkroom", "--help"]
