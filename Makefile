# make train | test | lint | bench | clean: each sets up all it needs in .venv first (Python 3.10 to 3.13).
#
#   make train TASK=walker_walk PRESET=cpu ARGS="--seed 1 --simulators 2"
#
# With a ROS 2 installation sourced, that one is used; otherwise rclpy comes from wheels.
#
# PyTorch: the plain wheel runs on CPU and NVIDIA GPUs, and brings a few GB of CUDA libraries along. Where pip is
# configured with PyTorch's CPU index (see pytorch.org, "Get Started"), it takes the small +cpu build of the same
# version. Which device computes is decided when the trainer starts: ARGS="--device cpu" or cuda forces it.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SILENT:

PYTHON ?= python3
ARGS ?=
export MUJOCO_GL ?= egl

VENV := .venv
BIN := $(VENV)/bin
ifdef ROS_DISTRO
ROS := $(ROS_DISTRO)
VENV_OPTIONS := --system-site-packages
EXTRAS := train,test
CONSTRAINTS := requirements/constraints-sourced-ros.txt
else
ROS := wheels
VENV_OPTIONS :=
EXTRAS := ros,train,test
CONSTRAINTS := requirements/constraints.txt
endif
# One environment per source of ROS: another one sourced makes a new environment.
INSTALLED := $(VENV)/installed-with-ros-$(ROS)
RENDERS := $(VENV)/renders-with-$(MUJOCO_GL)

.PHONY: train test lint bench clean

train: $(RENDERS)
	exec $(BIN)/dreamer train $(TASK) $(if $(PRESET),--preset $(PRESET)) $(ARGS)

test: $(RENDERS)
	$(BIN)/python -m pytest --numprocesses 2 $(ARGS)

lint: $(VENV)/linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(RENDERS)
	for file in benchmarks/bench_*.py; do $(BIN)/python -m benchmarks.$$(basename $$file .py) $(ARGS); done

clean:
	rm -rf $(VENV) build install log *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call system_packages,names): installs Debian packages where we may, else says which are missing.
define system_packages
	if [ "$$(id -u)" = 0 ]; then admin=; \
	elif sudo -n true 2>/dev/null; then admin=sudo; \
	else echo 'error: packages are missing; please run: sudo apt-get install $(1)' >&2; exit 1; fi; \
	$$admin apt-get update -qq || true; \
	DEBIAN_FRONTEND=noninteractive $$admin apt-get install -y -qq $(1)
endef

$(INSTALLED): pyproject.toml setup.py setup.cfg $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v <= (3, 13) or sys.exit("error: Python 3.10 to 3.13 is needed, $(PYTHON) is %d.%d; another one: make PYTHON=python3.12" % v)'
	echo "setting up $(VENV) (once, a few minutes)"
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(call system_packages,python3-venv); }
	[ ! -e $(VENV) ] || [ -e $@ ] || rm -rf $(VENV)
	[ -e $(BIN)/python ] || $(PYTHON) -m venv $(VENV_OPTIONS) $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 -c $(CONSTRAINTS) -e '.[$(EXTRAS)]'
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c $(CONSTRAINTS) dm_control; fi
	touch $@

# The type checker reads the types of the installed libraries.
$(VENV)/linters: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 -c $(CONSTRAINTS) -e '.[lint]'
	touch $@

# Rendering without a display needs OpenGL from the system.
$(RENDERS): $(INSTALLED)
	draw='import mujoco; mujoco.GLContext(64, 64).make_current()'; \
	$(BIN)/python -c "$$draw" 2>/dev/null || { \
	echo 'OpenGL for software rendering is missing: installing it'; \
	$(call system_packages,libegl1 libgl1 libopengl0 libgl1-mesa-dri libosmesa6); \
	$(BIN)/python -c "$$draw"; }
	touch $@
