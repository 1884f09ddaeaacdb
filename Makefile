# make help lists the targets. Everything but setup, lock and check-lerobot-policies works offline.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
HANDS := .venv-hands
ROBOSUITE := .venv-robosuite
LIBERO := .venv-libero
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON_VERSION := 3.12
WORKERS ?= 2
# Threads of torch and BLAS in each test worker: more only make the workers fight over the cores.
ALONE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest
TEST := $(ALONE) -n $(WORKERS) --dist worksteal
# A machine that pauses for a quarter of a second stops an arm, as it should: what then fails is tried once more.
IN_REAL_TIME = $(ALONE) -m "$(1)" || { echo "== once more, what failed in real time"; $(ALONE) -m "$(1)" --last-failed; }
# The uv on PATH when it runs (a pyenv shim may stand there and not), else the one that $(OWN_UV) makes.
OWN_UV := .venv-uv/bin/uv
UV = $(shell uv --version >/dev/null 2>&1 && echo uv || echo $(CURDIR)/$(OWN_UV))
COMPILE = $(UV) pip compile --quiet --python-version $(PYTHON_VERSION) --no-emit-index-url --no-emit-find-links --no-header

# All that MediaPipe's hands import; it declares JAX and a second OpenCV too.
HANDS_NEED := mediapipe==0.10.14 absl-py attrs contourpy cycler 'flatbuffers<26' fonttools kiwisolver 'matplotlib<4' \
  'numpy<2.3' opencv-python-headless==4.13.0.92 packaging pillow 'protobuf<5' pyparsing python-dateutil six

# What both generations of robosuite import; they declare teleoperation, a window, inverse kinematics and PyTorch too.
ROBOSUITE_NEEDS := mujoco==3.3.0 'numpy<2.3' glfw jaxtyping llvmlite==0.50.0 numba==0.68.1 \
  opencv-python-headless==4.13.0.92 pillow pyopengl scipy termcolor typing-extensions wadler-lindig
LIBERO_NEEDS := hf-libero==0.1.4 robosuite==1.4.0 bddl==1.0.1 cloudpickle contourpy cycler easydict \
  farama-notifications future gymnasium kiwisolver matplotlib packaging pyparsing python-dateutil pyyaml six
# Numba compiles for half a minute; here once, not in the first episode. (1.4 has another default controller than 1.5.)
WARM_UP := import robosuite; \
  pose = getattr(robosuite, 'load_controller_config', lambda **_: None)(default_controller='OSC_POSE'); \
  env = robosuite.make('Lift', robots='Panda', controller_configs=pose, has_renderer=False, \
    has_offscreen_renderer=False, use_camera_obs=False); \
  env.reset(); env.step(env.action_spec[0])

.PHONY: help setup hands robosuite libero demo check test test-all bench lock check-lerobot-policies

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 26

setup: $(STAMP) ## make .venv (Python 3.12) from requirements.lock, with the project in it, editable

# Compiled once here, not again by every process where Python may not write next to its modules (torch: 2 s, not 4).
$(STAMP): requirements.lock pyproject.toml
	@[ "$(UV)" = uv ] || $(MAKE) --no-print-directory $(OWN_UV)
	@$(BIN)/python --version >/dev/null 2>&1 || $(UV) venv --quiet --clear --python $(PYTHON_VERSION) $(VENV) || \
	  { echo "there is no Python $(PYTHON_VERSION) and none can be downloaded: install it, then run make setup again" >&2; exit 1; }
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q -j 0 -x '/tests?/' $(VENV)/lib >/dev/null || true
	@touch $@

# MediaPipe wants a protobuf that the rest cannot work with, and declares more than finding hands needs.
hands: $(HANDS)/.installed ## make .venv-hands, in which hands are found in videos (MediaPipe)

$(HANDS)/.installed: requirements-hands.lock | $(STAMP)
	@$(HANDS)/bin/python --version >/dev/null 2>&1 || $(UV) venv --quiet --clear --python $(PYTHON_VERSION) $(HANDS)
	$(UV) pip install --quiet --python $(HANDS)/bin/python --no-deps --require-hashes -r requirements-hands.lock
	@touch $@

robosuite: $(ROBOSUITE)/.installed ## make .venv-robosuite, in which the suite robosuite plays

libero: $(LIBERO)/.installed ## make .venv-libero, in which the suite LIBERO plays; its assets: vla data fetch-assets

$(ROBOSUITE)/.installed $(LIBERO)/.installed: .venv-%/.installed: requirements-%.lock | $(STAMP)
	@.venv-$*/bin/python --version >/dev/null 2>&1 || $(UV) venv --quiet --clear --python $(PYTHON_VERSION) .venv-$*
	$(UV) pip install --quiet --python .venv-$*/bin/python --no-deps --require-hashes -r requirements-$*.lock
	@MUJOCO_GL=glx .venv-$*/bin/python -W ignore -c "$(WARM_UP)" >/dev/null 2>&1
	@touch $@

# --target also works where the system's Python is externally managed; venv where there is no pip at all.
# .python-version makes pyenv's python3 fail when it has no such version: hence the second interpreter.
$(OWN_UV):
	@for python in python3 /usr/bin/python3; do \
	  $$python -m pip install --quiet --upgrade --target .venv-uv uv 2>/dev/null && break; \
	  $$python -m venv --clear .venv-uv 2>/dev/null && .venv-uv/bin/python -m pip install --quiet uv && break; \
	done; \
	$@ --version >/dev/null 2>&1 || { echo "uv is missing and pip cannot install it: install uv, then run make setup again" >&2; exit 1; }

demo: setup ## collect, train, evaluate and report on the simulated arm, on this machine's CPU
	$(BIN)/vla demo

check: setup ## format, lint, types, import order
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check hands robosuite libero ## what CI runs: check, then every test that is not slow, those in real time one after the other
	$(TEST) -m "not slow and not realtime"
	$(call IN_REAL_TIME,not slow and realtime)

test-all: check hands robosuite libero ## check, then every test
	$(TEST) -m "not realtime"
	$(call IN_REAL_TIME,realtime)

bench: setup ## time every part against its peers (studies are run by name); results lie in outputs/bench/
	@mkdir -p outputs/bench
	@for file in $$(grep -l 'write_bench(' tests/benchmarks/*.py | xargs grep -L 'benchmarks.study import'); do \
	  name=$$(basename $$file .py); [ $$name != gpu ] || command -v nvidia-smi >/dev/null || continue; \
	  $(BIN)/vla bench $$name --json outputs/bench/$$name.json; \
	done

lock: $(STAMP) ## write requirements.lock again: pins, hashes, no index address (LOCK_FLAGS=--upgrade moves the pins)
	$(COMPILE) --generate-hashes --group dev $(LOCK_FLAGS) pyproject.toml -o requirements.lock
	printf '%s\n' $(HANDS_NEED) | $(COMPILE) --generate-hashes --no-deps $(LOCK_FLAGS) - -o requirements-hands.lock
	printf '%s\n' robosuite==1.5.2 $(ROBOSUITE_NEEDS) | \
	  $(COMPILE) --generate-hashes --no-deps $(LOCK_FLAGS) - -o requirements-robosuite.lock
	printf '%s\n' $(LIBERO_NEEDS) $(ROBOSUITE_NEEDS) | \
	  $(COMPILE) --generate-hashes --no-deps $(LOCK_FLAGS) - -o requirements-libero.lock

check-lerobot-policies: $(STAMP) ## LeRobot's own policies resolve beside ours, at the locked versions
	echo 'lerobot[pi,smolvla,diffusion]' | $(COMPILE) --constraints requirements.lock - | grep -E '^(lerobot|torch|transformers|diffusers|numpy)=='
