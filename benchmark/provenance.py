"""Where a number comes from: commit, versions, machine."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

PACKAGES = (
    "clustrbench",
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "clarabel",
    "scikit-learn",
    "deel-torchlip",
    "pyautoattack",
    "robustbench",
)


@functools.cache
def versions() -> dict[str, str]:
    """Python's version and those of the packages a number may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine(device: torch.device) -> str:
    """Processor and core count, or the accelerator's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


@functools.cache
def commit() -> str:
    """The commit when the process first asks, + if it has uncommitted changes; empty outside a checkout."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return ""
    try:
        head = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    return head + ("+" if dirty else "")
