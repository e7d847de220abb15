# make repro     runs the whole pipeline
# make test      lint, types, and the tests except the slow ones
# make test-all  as make test, with the slow tests (pipelines, kills, whole ladders)
# make check     lint and types alone
# make tour      runs the commands of docs/experiments.md in a fresh clone and writes their output
#                into it (about 20 minutes)
# make lock      updates requirements.lock to the newest versions that pyproject.toml allows
#
# Each creates .venv from requirements.lock if it is missing, older, or was moved.
PYTHON ?= python3
VENV := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)
SELECT := not slow
# The page is rebuilt without a new .venv
READY := .venv/ready .dvc/tmp/plots.html

.PHONY: repro test test-all check lint tour lock moved
repro: $(READY)
	$(VENV) -m antimatter.cli check
	$(VENV) -m dvc repro

test-all: SELECT := slow or not slow
test-all: test

# mypy needs one core for about a minute, so it runs beside the tests, which often wait. Its report
# comes last.
test: lint
	@mkdir -p .mypy_cache
	$(VENV) -m mypy > .mypy_cache/report 2>&1 & types=$$!; \
	$(VENV) -m pytest -m "$(SELECT)" --numprocesses=auto --maxprocesses=4 --dist=worksteal; \
	tests=$$?; wait $$types; types=$$?; echo mypy:; cat .mypy_cache/report; \
	[ $$tests = 0 ] && [ $$types = 0 ]

check: lint
	$(VENV) -m mypy

lint: $(READY)
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .

tour: $(READY)
	$(VENV) tools/tour.py docs/experiments.md

# The scripts in .venv/bin begin with the path of the folder at their installation, which is in
# .venv/ready. After a move they do not start.
MOVED := $(shell [ ! -s .venv/ready ] || [ "$$(cat .venv/ready)" = "$(CURDIR)" ] || echo moved)
moved:
	@echo "this folder was $$(cat .venv/ready): creating its .venv again"
	rm -rf .venv

.venv/ready: requirements.lock pyproject.toml $(MOVED)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: Python 3.11 or newer \
	is needed, this is %s: make PYTHON=python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(VENV) -m pip install --disable-pip-version-check --quiet --no-compile --requirement requirements.lock
	@# pip would compile on one core, and also modules that are hardly ever imported. Some files are
	@# not valid Python, hence `true`.
	$(VENV) -m compileall -qq -j 0 -x '/tests/|/transformers/models/' .venv/lib || true
	$(VENV) -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	$(VENV) -m dvc config --local plots.html_template "$(CURDIR)/.dvc/tmp/plots.html"
	@echo "$(CURDIR)" > $@

.dvc/tmp/plots.html: tools/plots_page.py antimatter/report/page.py antimatter/report/page.html .venv/ready
	$(VENV) tools/plots_page.py $@

lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet '.[dev]' setuptools
	.venv-lock/bin/pip freeze --all --exclude antimatter --exclude pip | sed 's/+cpu//' > requirements.lock
	rm -rf .venv-lock
