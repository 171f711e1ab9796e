# `make demo` and `make test` do all the set-up on a fresh machine: Python >= 3.11 is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY ?= passive
export PYTHONDONTWRITEBYTECODE =  # the tests start hundreds of programs: each would compile the package again
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q
FILES := --dist loadfile --no-loadscope-reorder --max-worker-restart 0
SHARED := -n $$(($$(nproc) + 1)) --maxprocesses 5 $(FILES)  # one more than cores: programs that tests deploy wait more than they compute

.PHONY: demo unit test coverage ci slow gpu join attack faults fuzz soak audit evidence bench page desk pacs lint docs lock sbom release .clean-tree images clean

demo: $(VENV)/.installed  ## train the synthetic demo federation and print its table
	$(BIN)/cdtl simulate configs/demo.toml

unit: $(VENV)/.installed  ## the tests that start no process and play no federation
	$(PYTEST) $(SHARED) -m "not slow and not integration"

test: $(VENV)/.installed  ## the fast tests: unit and integration
	$(PYTEST) $(SHARED) -m "not slow"

coverage: $(VENV)/.installed  ## which branches of cdtl_core the fast tests reach; fails below 90 %
	$(PYTEST) $(SHARED) -m "not slow" --cov --cov-report=
	$(BIN)/coverage report --skip-covered --sort=miss

ci: $(VENV)/.installed  ## the fast tests, and of the slow ones those that CI runs, with more examples of each property
	HYPOTHESIS_PROFILE=ci $(PYTEST) $(SHARED) --durations=15 -m "not slow or ci"

slow: $(VENV)/.installed  ## the slow tests
	$(PYTEST) -m slow

gpu: $(VENV)/.installed  ## on a CUDA device: results equal the CPU's, then what training reaches; figures in runs/gpu.json
	@$(PYTEST) -m gpu -W default --junitxml=runs/gpu.xml tests/gpu; tests=$$?; \
		$(BIN)/python -m simulations.bench.gpu --json runs/gpu.json --commit "$$(git describe --always --dirty)"; \
		case $$? in 0 | 3) exit $$tests;; *) exit 1;; esac

join: $(VENV)/.installed  ## a coordinator and three sites as real processes: kills, doors, approvals; prints the figures
	$(PYTEST) -m slow tests/deploy tests/test_story.py

faults: $(VENV)/.installed  ## kills, cut lines, full disks, hostile replies: prints the table; fails if anything is lost
	$(PYTEST) -m slow tests/faults

attack: $(VENV)/.installed  ## try to refute every stated property; prints the table; fails if one breaks
	$(PYTEST) $(SHARED) -m attack

EXECUTIONS ?= 1000000
fuzz: $(VENV)/.installed  ## damaged input to every reader; --atheris for guidance by coverage (docs/faults.md)
	$(BIN)/python -m tests.faults.fuzz --executions $(EXECUTIONS)

soak: $(VENV)/.installed  ## 500 rounds, 64 sites, 8 deployed sites
	for what in rounds sites deployed; do OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.soak $$what || exit 1; done

audit: $(VENV)/.installed  ## attack the privacy mechanism, whole and broken in four ways; fails if one ends otherwise
	$(BIN)/cdtl privacy audit --all

DATA ?= ../shared/data
evidence: $(VENV)/.installed  ## what four sites gain over alone from others: docs/protocol.md. Real images in DATA
	@test -f $(DATA)/bus_bra/manifest.csv || { echo "no images at $(DATA): make evidence DATA=FOLDER (docs/results.md)" >&2; exit 3; }
	rm -rf runs/evidence
	OMP_NUM_THREADS=1 $(BIN)/cdtl compare scarce --set data.root=$(DATA) --target rio_logiq7,rio_logiq5,cairo,mias --donors other,all \
		--methods alone,fedavg,fedbn,cdtl,cdtl:shuffled --patients 20,50,200 --folds 3 --seeds 10 --out runs/evidence

NVFLARE ?=
RUNS ?= 3
bench: $(VENV)/.installed  ## what cdtl costs over a plain loop, Flower and NVFlare; NVFLARE=PYTHON for the last; three runs, two of the long ones; under 30 minutes
	$(BIN)/python -m simulations.bench $(if $(NVFLARE),--nvflare $(NVFLARE)) --runs $(RUNS) --json runs/bench.json --table docs/benchmarks.md

page: $(VENV)/.installed  ## the demo's report in headless Chromium, with axe-core; screenshots in runs/page, to be looked at
	@command -v chromium >/dev/null || (apt-get update -q && apt-get install -y -q --no-install-recommends chromium)
	npm install --prefix tests/report/browser --no-package-lock --no-audit --no-fund --ignore-scripts
	CDTL_SHOTS=runs/page CDTL_PICTURE=docs/report.png $(BIN)/python -m pytest -q -m slow tests/report/browser

pacs: $(VENV)/.installed  ## pull 500 studies from a real Orthanc through kills and cut lines; the first afternoon, counted; prints both tables
	@test -x /usr/sbin/Orthanc || (apt-get update -q && apt-get install -y -q --no-install-recommends orthanc orthanc-dicomweb)
	$(PYTEST) -m slow tests/pacs tests/deploy/test_first_afternoon.py

desk: $(VENV)/.installed  ## both desks: attacks, and walks of Chromium with axe-core before a deployed federation; figures
	@command -v chromium >/dev/null || (apt-get update -q && apt-get install -y -q --no-install-recommends chromium)
	npm install --prefix tests/report/browser --no-package-lock --no-audit --no-fund --ignore-scripts
	CDTL_SHOTS=runs/desk CDTL_PICTURES=docs/desk $(PYTEST) -m "slow or not slow" tests/desk

lint: $(VENV)/.installed  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -n auto
	$(BIN)/lint-imports

COMPILE := $(BIN)/uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
	--no-header --no-annotate
lock: $(VENV)/.installed  ## write requirements.lock, tools.lock and docs.lock: versions, with the hashes of their wheels
	$(BIN)/python -m pip freeze --disable-pip-version-check --exclude-editable > $(VENV)/installed.txt
	$(COMPILE) pyproject.toml --extra nifti --extra onnx --extra pacs --extra slides --extra tensorboard --constraint $(VENV)/installed.txt -o requirements.lock >/dev/null
	$(COMPILE) --group tools -o tools.lock >/dev/null
	$(COMPILE) --group docs -o docs.lock >/dev/null

# Environments of their own, each with what its lock file names.
TOOLS := .tools
DOCS := .docs
$(TOOLS)/.installed: tools.lock
$(DOCS)/.installed: docs.lock
$(TOOLS)/.installed $(DOCS)/.installed:
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

docs: $(DOCS)/.installed  ## build the docs site in runs/site; without warnings, and without network once it is installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

DIST ?= dist
sbom: export PYTHONWARNINGS = ignore  # it warns that a lock file is a list, not a graph
sbom: $(TOOLS)/.installed  ## list all that an installation holds, with hashes, as CycloneDX: for GPUs and for a CPU
	mkdir -p $(DIST)
	$(TOOLS)/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible -o $(DIST)/sbom.cdx.json requirements.lock
	$(PYTHON) docker/cpu_torch.py lock requirements.lock | $(TOOLS)/bin/cyclonedx-py requirements --pyproject pyproject.toml \
		--output-reproducible -o $(DIST)/sbom-cpu.cdx.json -

# The same commit gives the same bytes: no time but the commit's goes into an archive.
release: export SOURCE_DATE_EPOCH = $(shell git log -1 --format=%ct)
release: .clean-tree $(TOOLS)/.installed  ## wheel, sdist, lock file, CPU script, SBOM and SHA256SUMS in DIST, of a commit
	rm -rf $(DIST)
	$(TOOLS)/bin/python -m build --no-isolation --outdir $(DIST) .
	$(MAKE) --no-print-directory sbom
	cp requirements.lock docker/cpu_torch.py $(DIST)
	cd $(DIST) && sha256sum * > SHA256SUMS

.clean-tree:
	@test -z "$$(git status --porcelain)" || { echo "commit or remove first: git status" >&2; exit 3; }

images: $(VENV)/.installed  ## build the containers on a fresh Debian, list what is in them, play a study in them; root, 10 GB
	$(BIN)/python -m tests.images

# Made again only when the dependencies changed. Plain pip: it takes a torch wheel that lies on disk where there is one.
# The locked versions come first, each checked by its hash; what `dev` adds for developers is not locked.
LOCKED := import platform, sys; sys.exit((sys.version_info[:2], sys.platform, platform.machine()) != ((3, 11), "linux", "x86_64"))
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check
$(VENV)/.installed: pyproject.toml requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing cdtl and its dependencies into $(VENV) (a few minutes the first time) ..."
	@if $(BIN)/python -c '$(LOCKED)'; then $(PIP) --require-hashes -r requirements.lock; \
		else echo "requirements.lock is for Python 3.11 on Linux x86-64: here pip chooses the versions"; fi
	$(PIP) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(TOOLS) $(DOCS) runs
