# Run `make` to list the targets.
# KERAS_BACKEND is the backend of `make demo`: jax, tensorflow, or torch after `make torch`.
KERAS_BACKEND ?= jax
PYTHON ?= python3
ENV := .venv
RUN := $(ENV)/bin/python

.PHONY: help demo test test-slow lint docs notebooks torch clean
.DEFAULT_GOAL := help

help:  ## print this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The environment is rebuilt when the dependencies change.
$(ENV)/.installed: pyproject.toml
	@echo "Creating $(ENV) with TensorFlow, JAX and everything that the commands and tests need; this takes minutes ..."
	@$(PYTHON) -m venv $(ENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(ENV)/.installed  ## pretrain, fine-tune and export a ViT on handwritten digits
	KERAS_BACKEND=$(KERAS_BACKEND) TF_CPP_MIN_LOG_LEVEL=3 $(RUN) -m recipes.demo

test: $(ENV)/.installed lint  ## lint, then run the tests on every installed backend (tensorflow, jax, torch)
	@$(call on_every_backend,not slow)

test-slow: $(ENV)/.installed  ## run the tests that take minutes, on every installed backend
	@$(call on_every_backend,slow)

# Tests that do not depend on the backend, such as doctests, run only under the first one.
define on_every_backend
others=; paths=; \
for backend in tensorflow jax torch; do \
	if $(RUN) -c "import importlib.util, sys; sys.exit(not importlib.util.find_spec('$$backend'))"; then \
		echo "== Backend: $$backend"; \
		KERAS_BACKEND=$$backend TF_CPP_MIN_LOG_LEVEL=3 $(RUN) -m pytest -n 2 --dist worksteal -m "$(1)$$others" $$paths || exit 1; \
		others=" and not any_backend"; paths=tests; \
	else \
		echo "== Backend: $$backend is not installed, NOT TESTED (make torch installs torch)"; \
	fi; \
done
endef

lint: $(ENV)/.installed  ## run ruff and mypy
	$(ENV)/bin/ruff check .
	$(ENV)/bin/ruff format --check .
	$(ENV)/bin/mypy

# mkdocs-material announces its successor at every build.
docs: $(ENV)/.docs  ## build the documentation site in site/
	NO_MKDOCS_2_WARNING=1 $(ENV)/bin/mkdocs build --strict --quiet

$(ENV)/.docs: $(ENV)/.installed
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

# NOTEBOOKS are arguments, such as a name or --set checkpoint=DIRECTORY; the default builds all.
notebooks: $(ENV)/.notebooks  ## run the notebooks in examples/ and store their outputs
	KERAS_BACKEND=$(KERAS_BACKEND) TF_CPP_MIN_LOG_LEVEL=3 $(RUN) -m recipes.notebooks $(NOTEBOOKS)

$(ENV)/.notebooks: $(ENV)/.installed
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[notebooks]'
	@touch $@

torch: $(ENV)/.installed  ## add torch to the environment; `make test` then tests it too
	$(RUN) -m pip install --quiet --disable-pip-version-check torch==2.13.0

clean:  ## remove the environment, the site and the tests' cache (runs/ stays)
	rm -rf $(ENV) .jax_cache site
