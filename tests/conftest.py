"""Shapes in signatures are checked while the tests run."""

from jaxtyping import install_import_hook

for package in ("attacks", "benchmark", "model_zoo", "results"):
    install_import_hook(package, "beartype.beartype")
