# Each target sets up .venv itself when it is missing or pyproject.toml has changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
NAPARI_VENV := .venv-napari
NAPARI_BIN := $(NAPARI_VENV)/bin
DEMO := demo

# pyiqa may be used for non-commercial purposes only, so no other target installs it; and without most of what it asks
# for, because its PaQ-2-PiQ imports no more than this.
IQA_NEEDS := torchvision huggingface-hub opencv-python-headless pyyaml requests tqdm

# Libraries whose models `make zoo` exports.
ZOO_NEEDS := torchvision timm transformers monai einops segmentation-models-pytorch

.PHONY: demo test soak lowest docs zoo napari-test gpu-test gpu-bench iqa-install iqa-test lint bench dist clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py $(DEMO)

test: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -n auto --dist worksteal

# Kills every command at 200 steps and 50 random times, tries thousands of mutated models and images, and denoises 300
# images in one process; SEED=1 tries others. The figures go to docs/reliability.md.
SEED ?= 0
soak: $(STAMP)
	$(BIN)/python -m benchmarks.reliability --seed $(SEED) -o benchmarks/results/reliability.json
	$(BIN)/python -m benchmarks.pages docs/reliability.md

# Runs all tests but the slow ones with the lowest versions that pyproject.toml claims. What those need themselves is new,
# and may warn.
LOWEST := build/lowest
lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv packaging
	$(LOWEST)/bin/python scripts/dependencies.py lowest > $(LOWEST)/asked.txt
	$(LOWEST)/bin/uv pip compile --quiet --resolution lowest-direct --python $(LOWEST)/bin/python $(LOWEST)/asked.txt -o $(LOWEST)/pinned.txt
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python -r $(LOWEST)/pinned.txt
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps -e .
	$(LOWEST)/bin/python -m pytest -n auto --dist worksteal -o filterwarnings=default -m "not slow"

# A warning, such as a link that leads nowhere, is an error. The site goes to build/site.
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# napari brings Qt, about 500 MB. Its environment sees the packages of .venv, which stays without it. napari and Qt warn
# of each other while pytest loads their plugins, so a warning is no error here. Without xvfb-run, tests that need OpenGL skip.
napari-test: $(STAMP)
	test -x $(NAPARI_BIN)/python || $(PYTHON) -m venv $(NAPARI_VENV)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(NAPARI_VENV)/packages.pth
	mv $(NAPARI_VENV)/packages.pth "$$($(NAPARI_BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	$(NAPARI_BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt 'napari[pyqt6]' pytest-qt
	$(NAPARI_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	$$(command -v xvfb-run >/dev/null && echo xvfb-run -a || echo env QT_QPA_PLATFORM=offscreen) \
	  $(NAPARI_BIN)/python -m pytest -o filterwarnings=default --disable-warnings tests/napari_plugin

gpu-test: $(STAMP)
	$(BIN)/python cli.py engines
	$(BIN)/python -m pytest tests/gpu tests/runtime/engines/test_conformance.py

gpu-bench: $(STAMP)
	$(BIN)/python -m benchmarks.gpu -o benchmarks/results/gpu.json
	$(BIN)/python -m benchmarks.gpu_fit -o benchmarks/results/gpu-fit.json

# The files for PyPI, in dist/; twine reads the metadata and the description as PyPI does.
dist: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dist]'
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*

iqa-install: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(IQA_NEEDS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps pyiqa

iqa-test: iqa-install
	$(BIN)/python -m pytest tests/train/test_iqa.py tests/train/test_iqa_weights.py tests/benchmarks/test_iqa_cost.py tests/test_docs_plain.py

zoo: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(ZOO_NEEDS)
	$(BIN)/python -m benchmarks.zoo -o benchmarks/results/zoo.json

lint: $(STAMP)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .
	$(BIN)/python -m mypy

# The demo's fit, which is used again if it is there, is what shows PSNR against passes.
bench: demo
	$(BIN)/python cli.py bench --size 128 --size 256 --size 512 --rounds 5 --force --curve-of $(DEMO)/run --reference examples/clean.png \
	  -o benchmarks/results/throughput.json --html benchmarks/results/throughput.html

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "self2self needs Python 3.11 or newer; type: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(NAPARI_VENV) $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
