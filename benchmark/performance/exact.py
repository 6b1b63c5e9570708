"""What exact verification of k-means costs, beside AutoAttack and as the problem grows.

    python -m benchmark.performance.exact [--data-root DIR]

With a data root that holds MNIST, a k-means model of it is trained first (minutes) and kept in the data root's folder
`kmeans-mnist`. Writes exact.md beside this file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import torch

from attacks.centroid_bounds import Balls, Centroids, possible_rivals
from attacks.threat import TOLERANCE
from benchmark import datasets, provenance
from model_zoo.kmeans import KMeansClassifier
from model_zoo.registry import load

OUT = Path(__file__).with_suffix(".md")
EPS, MNIST_EPS = 0.1, 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="Folder with MNIST; without one, that part is left out.")
    root = parser.parse_args().data_root
    option = " --data-root DIR" if root else ""
    lines = [
        "# Exact verification of k-means",
        "",
        f"`python -m benchmark.performance.exact{option}` on {time.strftime('%Y-%m-%d')}, "
        f"commit {provenance.commit()[:10]}, {provenance.machine(torch.device('cpu'))}; torch {torch.__version__}.",
        "",
        *_fashion_mnist(),
        "",
        *(_mnist(root) if root else []),
        *_growth(),
    ]
    OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(OUT.read_text(encoding="utf-8"))


def _fashion_mnist() -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        seconds, rows = _bench(Path(folder), "--model", "kmeans", "--attack", "exact", "--eps", str(EPS),
                               "--samples", "10000")  # fmt: skip
    row = rows[0]
    return [
        f"All 10,000 Fashion-MNIST test images, K = 856, linf {EPS}: `bench run --model kmeans --attack exact "
        f"--eps {EPS} --samples 10000` takes **{seconds:.1f} s**, start and clean accuracy included: "
        f"{100 * row['robust_lower']:.2f} % proven robust, {100 * row['robust_upper']:.2f} % not broken, "
        f"{round(10000 * (row['robust_upper'] - row['robust_lower']))} samples undecided.",
    ]


def _mnist(root: Path) -> list[str]:
    """Seconds of the units alone: both attacks pay the same for the start."""
    weights = root / "kmeans-mnist" / "kmeans-mnist.safetensors"
    if not weights.exists():
        _call("train", "kmeans", "--dataset", "mnist", "--data-root", str(root), "--out", str(weights))
    seconds: dict[str, float] = {}
    left: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for attack in ("exact", "autoattack-reference", "autoattack"):
            out = Path(folder) / attack
            _, rows = _bench(out, "--model", str(weights), "--dataset", "mnist", "--data-root", str(root), "--attack",
                             attack, "--eps", str(MNIST_EPS), "--samples", "500")  # fmt: skip
            records = [json.loads(path.read_text(encoding="utf-8")) for path in (out / "units").glob("*.json")]
            seconds[attack] = sum(r["seconds"] for r in records if r["unit"]["attack"] == attack)
            left[attack] = rows[0]["robust_upper"]
    table = ["| attack | left standing % | seconds of its units, summed | times exact |", "|---|---|---|---|"]
    table += [
        f"| {attack} | {100 * left[attack]:.2f} | {seconds[attack]:.1f} | {seconds[attack] / seconds['exact']:.1f} |"
        for attack in seconds
    ]
    return [f"MNIST, 500 images, K = 856, linf {MNIST_EPS}, in one run:", "", *table, ""]


def _growth() -> list[str]:
    """Seconds of the bounds in closed form, which decide most samples, as n, K and d grow; one thread."""
    torch.set_num_threads(1)
    data, model = datasets.load("fashion-mnist", None), cast(KMeansClassifier, load("kmeans", "cpu").model)
    points, labels = model.centroids.double(), model.cluster_labels
    x, y = data.x[:2000], data.y[:2000]
    table = [
        "| n | K | d | seconds | microseconds a sample | nanoseconds a sample and K d |",
        "|---|---|---|---|---|---|",
    ]
    for n, k, stride in ((500, 856, 1), (1000, 856, 1), (2000, 856, 1), (1000, 428, 1), (1000, 214, 1), (1000, 856, 2)):
        images = x[:n, :, ::stride, ::stride].flatten(1).double()
        few = points.reshape(-1, 1, 28, 28)[:k, :, ::stride, ::stride].flatten(1)
        centroids = Centroids(few, labels[:k])
        centroids.dual_distances("linf", torch.arange(1))
        balls = Balls.around(images, "linf", EPS + TOLERANCE)
        error = torch.zeros(n, k, dtype=torch.float64)
        started = time.perf_counter()
        possible_rivals(centroids, balls, y[:n], error)
        seconds = time.perf_counter() - started
        size = k * few.shape[1]
        table.append(
            f"| {n} | {k} | {few.shape[1]} | {seconds:.2f} | {1e6 * seconds / n:.0f} | {1e9 * seconds / n / size:.1f} |"
        )
    return [
        f"Bounds in closed form (`possible_rivals`), linf {EPS}, one thread; the K x K distances between centroids, "
        "made once for a model, not counted:",
        "",
        *table,
    ]


def _bench(out: Path, *arguments: str) -> tuple[float, list[dict[str, float]]]:
    started = time.perf_counter()
    _call("run", *arguments, "--out", str(out))
    seconds = time.perf_counter() - started
    report = _call("report", str(out), "--format", "json")
    rows: list[dict[str, float]] = json.loads(report)
    return seconds, rows


def _call(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmark.cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


if __name__ == "__main__":
    main()
