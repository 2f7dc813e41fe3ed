# make demo    build everything and run the demo in simulation; leaves pictures in demo/
# make test    build everything and run linters, type checks and tests (what CI runs)
# make setup   only build everything into .venv
# make clean   remove what was built
VENV ?= .venv
PYTHON_BIN := $(VENV)/bin/python

# The ROS wheels put everything under the environment's prefix but set no variable for it.
export AMENT_PREFIX_PATH ?= $(abspath $(VENV))
export ROS_DISTRO ?= kilted
# Machines nearby are not part of a demo or a test.
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
DEMO_ARGUMENTS ?= --task pick_place --episodes 1

.PHONY: setup demo test lint types unit clean

setup:
	@env -u AMENT_PREFIX_PATH VENV=$(VENV) $(if $(filter-out $(abspath $(VENV)),$(AMENT_PREFIX_PATH)),AMENT_PREFIX_PATH=$(AMENT_PREFIX_PATH)) tools/setup_environment.sh

demo: setup
	$(VENV)/bin/cosmos3 demo $(DEMO_ARGUMENTS)

test: lint types unit

lint: setup
	$(PYTHON_BIN) -m ruff check .

types: setup
	$(PYTHON_BIN) -m mypy
	@# Benchmarks are scripts: what they call must be there, more is not asked of them.
	$(PYTHON_BIN) -m mypy benchmarks --disable-error-code arg-type --disable-error-code assignment \
	  --disable-error-code import-not-found --disable-error-code index --disable-error-code misc \
	  --disable-error-code no-any-return --disable-error-code operator --disable-error-code var-annotated

unit: setup
	@# In two processes: after the tests of all nodes, Mesa once could not make an OpenGL context any more.
	$(PYTHON_BIN) -m pytest test --ignore=test/sim --ignore=test/training
	$(PYTHON_BIN) -m pytest test/sim test/training

clean:
	rm -rf build install log demo $(VENV)
