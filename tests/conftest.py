"""Shapes in signatures are checked while the tests run; where processes share the cores, each keeps to one thread."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before the first import of what reads it
    os.environ["OMP_NUM_THREADS"] = "1"

from jaxtyping import install_import_hook

for package in ("attacks", "benchmark", "model_zoo", "results"):
    install_import_hook(package, "beartype.beartype")
