# The commands of avjax. PYTHON=/path/to/python3 chooses the Python, VENV=folder the environment; `make figures` needs
# DIGITS=folder, the Free Spoken Digit recordings, for its part on real data.
VENV ?= .venv
PACKAGES ?= newest
export PYTHON
python = $(VENV)/bin/python
install = @.ci/environment $(VENV)
.PHONY: quickstart test check long figures bench bench-peers install clean

quickstart: ; $(install) demo $(PACKAGES) && $(python) experiments/quickstart.py
test: ; $(install) dev $(PACKAGES) && $(python) -m pytest -n 2 --dist loadfile -m "not slow and not long"
check: ; $(install) dev,tpu $(PACKAGES) && $(python) -m ruff check . && $(python) -m ruff format --check . && $(python) -m pytest -n 2 --dist loadfile -m "slow and not long and not alone" && $(python) -m pytest -m "slow and alone and not long"
long: ; $(install) dev,tpu $(PACKAGES) && $(python) -m pytest -n 2 --dist loadfile -m "long and not alone" && $(python) -m pytest -m "long and alone"
figures: long ; $(install) dev $(PACKAGES) && $(python) experiments/figures.py demo interaction systems attention informativeness $(if $(DIGITS),digits --digits-data $(DIGITS)) && .ci/peers .venv-peers metrics && $(python) experiments/figures.py peers --torch-python .venv-peers/bin/python
bench: ; $(install) dev $(PACKAGES) && $(python) experiments/benchmarks/prepare.py && $(python) experiments/benchmarks/logmel.py && $(VENV)/bin/avjax bench attention
bench-peers: ; $(install) dev $(PACKAGES) && .ci/peers .venv-peers && $(VENV)/bin/avjax bench attention --torch-python .venv-peers/bin/python && $(python) experiments/benchmarks/train_step.py --torch-python .venv-peers/bin/python
install: ; $(install) dev $(PACKAGES)
clean: ; rm -rf $(VENV) .venv-floor .venv-peers build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
