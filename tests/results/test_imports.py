"""Reading results needs no torch."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "modules",
    [
        "results.leaderboard, results.render, results.store",
        "results.render_linearized, results.plots_clustering, results.groups",
        "benchmark.cli, results.render",
    ],
)
def test_results_and_the_command_line_are_imported_without_torch(modules: str) -> None:
    code = f"import {modules}, sys; print(sorted(m for m in ('torch', 'torchvision', 'sklearn') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
