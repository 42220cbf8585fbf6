# Every target sets up what it needs: a virtual environment in .venv, made anew when the lock changes.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
export RAY_USAGE_STATS_ENABLED := 0
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: demo test test-slow image-test cluster-test lint bench chaos setup clean

demo: setup  ## the main job on the embedded model: manifests/demo.yaml -> runs/demo
	$(BIN)/darkroom generate manifests/demo.yaml --out runs/demo
	$(BIN)/darkroom audit runs/demo

# A process each for two files of tests at a time, with a Ray and an S3 server of its own: more processors, more of them.
TEST_PROCESSES ?= 2

test: export OMP_NUM_THREADS := 1
test: setup  ## all tests but the slow ones
	$(BIN)/python -m pytest -q -m "not slow and not image and not cluster" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test-slow: setup  ## the tests that take minutes
	$(BIN)/python -m pytest -q -m slow

image-test: setup  ## builds the image and runs it, without a container engine: fifteen minutes, and 27 GB in IMAGE_STORAGE
	$(BIN)/python -m pytest -q -m image tests/image

cluster-test: setup  ## a cluster of several nodes on this machine loses some of them: half an hour
	$(BIN)/python -m pytest -q -m cluster

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: setup  ## speed, as printed tables
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/job.py
	$(BIN)/python benchmarks/latent.py

chaos: setup  ## a job, its actors, its nodes killed at fifty moments: what is lost
	$(BIN)/python benchmarks/chaos.py

setup: $(VENV)/ready

$(VENV)/ready: requirements.lock pyproject.toml
	@echo "setting up $(VENV) with $(PYTHON): about 6 GB, a few minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf $(VENV) runs
