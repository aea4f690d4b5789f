# `make demo` and `make test` are all that a fresh machine with Python 3.11, pip and venv needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DATA ?= ../shared/data
RUN ?=
OUT ?= out
IMAGE ?=
POINT ?=

# Training allocates and frees the same large blocks at every step: keep them instead of returning them to the system.
TRAIN_ENV := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456 OMP_NUM_THREADS=1
CORES ?= $(shell nproc)

.PHONY: help setup page demo test lint format bench docs train-tiny export-tiny clean

help:
	@echo "make demo [IMAGE=my.jpg POINT=x,y]   segment a photograph and write the picture"
	@echo "make test                            everything the project checks"
	@echo "make lint | format                   ruff, mypy and the floors of the house"
	@echo "make bench [PAIRS='encode click']    speed against the peers, which it installs beside"
	@echo "make docs                            draw the pictures of the documentation anew"
	@echo "make page                            build the annotator's page (needs Node 20)"
	@echo "make train-tiny [DATA=folder]        start or continue the shipped model's long run; MORE=masks TEACHER=embeddings"
	@echo "make export-tiny [DATA=folder]       calibrate its best weights, and package them if they are better"

setup: $(READY) page

$(READY): pyproject.toml
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'anymask needs Python 3.11 or newer'"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

# The annotator's page needs Node to be built; without it the server offers a plain page of its own.
PAGE := src/anymask/server/page/index.html
PAGE_SOURCES := $(wildcard web/*.json web/*.ts web/*.html web/src/* web/src/*/* web/public/*) web/.npmrc

page: $(PAGE)

$(PAGE): $(PAGE_SOURCES)
	@if command -v npm >/dev/null; then \
	  cd web && npm ci --silent && npm run --silent build; \
	else \
	  echo "no Node here: the annotator will serve its plain page"; \
	fi

# Without IMAGE: the cat that comes with scikit-image (CC0), clicked on the cheek.
demo: setup
	@image="$(IMAGE)"; point="$(POINT)"; \
	if [ -z "$$image" ]; then \
	  image=$$($(BIN)/python -c "import skimage, pathlib; print(pathlib.Path(skimage.__file__).parent / 'data' / 'chelsea.png')"); \
	  point=$${point:-150,200}; \
	fi; \
	$(BIN)/anymask segment "$$image" --point "$${point:-centre}" --out $(OUT)

test: setup lint
	@if [ -d web/node_modules ]; then cd web && npm test --silent; fi
# One thread a process: threads that wait busily for each other slow all processes down.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

lint: setup
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

# One process per core, each with one thread: no thread waits for another inside a step ("measured": with one process of
# two threads a step takes ten times as long whenever anything else needs a core).
train-tiny: setup
	$(TRAIN_ENV) nice -n 10 $(BIN)/python -m torch.distributed.run --standalone --nproc-per-node $(CORES) \
	  -m anymask train tiny --data $(DATA) --threads 1 \
	  $(if $(MORE),--more $(MORE)) $(if $(TEACHER),--teacher $(TEACHER)) $(if $(RUN),--out $(RUN))

# Each pair runs in turns, A B A B, with both sides' weights random and the same; see docs/performance.md.
bench: setup
	$(BIN)/python benchmarks/bench.py $(PAIRS) $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON))

docs: setup
	$(BIN)/python benchmarks/contact_sheet.py docs/images/everything.jpg
	$(MAKE) demo IMAGE= POINT= OUT=out/docs
	cp out/docs/chelsea.overlay.png docs/images/demo.png

export-tiny: setup
	@run="$(RUN)"; \
	run=$${run:-$$($(BIN)/python -c "from anymask.model.cache import cache_folder; print(cache_folder() / 'train' / 'tiny')")}; \
	$(BIN)/anymask calibrate tiny --data $(DATA) --out "$$run" && \
	$(BIN)/anymask export-weights "$$run" src/anymask/model/weights/tiny.safetensors

clean:
	rm -rf $(VENV) out build dist
