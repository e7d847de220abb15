# make repro: the whole pipeline. make test: lint, types and tests. Both create .venv from requirements.lock if it is missing or older, or was moved.
# make tour: runs the commands of docs/experiments.md in a fresh clone and writes what they print into it (about 20 minutes).
PYTHON ?= python3
VENV := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: repro test check lint tour lock moved
repro: .venv/ready
	$(VENV) -m antimatter.cli check
	$(VENV) -m dvc repro

# mypy takes one core for about a minute, so it runs beside the tests, which often wait. Its words come last.
test: lint
	@mkdir -p .mypy_cache
	$(VENV) -m mypy > .mypy_cache/report 2>&1 & types=$$!; \
	$(VENV) -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal; tests=$$?; \
	wait $$types; types=$$?; echo mypy:; cat .mypy_cache/report; \
	[ $$tests = 0 ] && [ $$types = 0 ]

check: lint
	$(VENV) -m mypy

lint: .venv/ready
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .

tour: .venv/ready
	$(VENV) tools/tour.py docs/experiments.md

# Scripts in .venv/bin begin with the path that the folder had when they were installed; .venv/ready says which
MOVED := $(shell [ ! -s .venv/ready ] || [ "$$(cat .venv/ready)" = "$(CURDIR)" ] || echo moved)
moved:
	@echo "this folder was $$(cat .venv/ready): its .venv is made anew"
	rm -rf .venv

.venv/ready: requirements.lock pyproject.toml tools/plots_page.py $(MOVED)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed, this is %s: make PYTHON=python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(VENV) -m pip install --disable-pip-version-check --quiet --no-compile --requirement requirements.lock
	@# pip would compile on one core, and also what is hardly ever imported. Some files are no Python: true
	$(VENV) -m compileall -qq -j 0 -x '/tests/|/transformers/models/' .venv/lib || true
	$(VENV) -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	$(VENV) tools/plots_page.py .dvc/tmp/plots.html
	$(VENV) -m dvc config --local plots.html_template "$(CURDIR)/.dvc/tmp/plots.html"
	@echo "$(CURDIR)" > $@

# The newest versions that pyproject.toml allows; CONTRIBUTING.md says when
lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet '.[dev]' setuptools
	.venv-lock/bin/pip freeze --all --exclude antimatter --exclude pip | sed 's/+cpu//' > requirements.lock
	rm -rf .venv-lock
