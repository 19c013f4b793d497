# Everything runs in .venv inside the checkout. Needs Python 3.11 or newer with venv and pip, and make.
PYTHON ?= python3
BIN := .venv/bin
STUDY := results/quickstart
TRIALS := 18

.PHONY: help quickstart test check audit docs benchmark clean

help:
	@echo "make quickstart   search on a shipped model and data, a few minutes; ends with a report to open"
	@echo "make test         all tests"
	@echo "make check        formatting, lint, types, layers, known weaknesses of dependencies"
	@echo "make docs         the documentation as a site, in site/"
	@echo "make benchmark    the CIFAR-10 study of the README, about an hour and a half"
	@echo "make clean        remove .venv, caches and the quickstart's study"

quickstart: .venv/installed
	$(BIN)/autocompress search examples/fashion_mnist.py:task --space search_spaces/quickstart.yaml \
		--device host --max-accuracy-drop 0.02 --trials $(TRIALS) --out $(STUDY)
	$(BIN)/autocompress show $(STUDY) --html $(STUDY)/report.html
	@echo
	@echo "open the report:      $(STUDY)/report.html"
	@echo "export one point:     $(BIN)/autocompress export $(STUDY) --pick knee"
	@echo "your own model:       $(BIN)/autocompress check my_task.py:task"

test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_layers.py
	$(MAKE) --no-print-directory audit

# What a registry does not answer for is named and does not count as sound: a mirror may know no weaknesses.
audit: .venv/installed-dev
	$(BIN)/pip-audit --skip-editable --progress-spinner off

docs: .venv/installed-dev
	$(BIN)/mkdocs build --strict

benchmark: .venv/installed
	$(BIN)/python benchmarks/cifar10.py

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache dist site $(STUDY)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and pinned: an open version would bring gigabytes of libraries for graphics cards.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q "pip>=25.1"
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt --group dev --group docs
	@touch $@
