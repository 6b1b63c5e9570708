"""Our attacks beside other libraries': the same models, samples, eps, restarts and number of threads.

    make compare-peers            (in an environment of its own)

Peers get all samples in one batch and all threads; we get one single-threaded process a core, as in `bench run`.
Everybody is handed correctly classified samples only, and every image is judged by `benchmark.judge`. Measurements
are kept as they are made, and a second call goes on where the first one stopped; the table is written at the end.
"""

import dataclasses
import json
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from attacks.threat import Threat
from benchmark import datasets, provenance
from benchmark.executors.memory import keep_freed_memory
from benchmark.instrument import instrument
from benchmark.judge import judge, predict
from benchmark.performance.peers.libraries import AUTOATTACK, PGD
from benchmark.run import Certified, Worker
from model_zoo.adapter import judged_by
from model_zoo.registry import load
from results.records import Verdict, WorkUnit, certified_samples

EPS = 8 / 255
MODELS = ("pgd-at", "kmeans", "nominal", "clustr", "clustr-qtrades", "clustr-qtrades@scores")
REFERENCE = "pyautoattack"
OURS = ("autoattack", "autoattack-fast", "screen")
EXACT_FIRST = ("kmeans", "exact, autoattack")
"""What `bench run --attack exact --attack autoattack` does: AutoAttack leaves alone what the verifier proves."""
ENSEMBLES = ("torchattacks-100-steps",)
"""Other libraries' AutoAttack, one round: ART's takes minutes a model and is left out. Upstream's settings are
pyautoattack's up to 250 samples."""
PEERS = ("torchattacks", "foolbox", "art", "adv_lib")
STEPS = {"pgd20": 20, "pgd100": 100}
RESTARTS = 10
VERSIONS = ("torch", "pyautoattack", "torchattacks", "foolbox", "adversarial-robustness-toolbox", "adv-lib")

Measurement = dict[str, Any]
CPU = torch.device("cpu")


def main(
    samples: Annotated[int, typer.Option(help="Samples for the speed of every library, and for seeds.")] = 100,
    verdict_samples: Annotated[int, typer.Option(help="Samples for the verdict against the reference.")] = 500,
    rounds: Annotated[int, typer.Option(help="Rounds (and seeds) of the speed measurements.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder of the measurements and the table.")] = Path("runs/compare-peers"),
) -> None:
    """Measure what is missing, then write compare-peers.md."""
    out.mkdir(parents=True, exist_ok=True)
    journal = out / "measurements.jsonl"
    known = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    done = {_key(m) for m in known}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"), initializer=_start) as pool:
        list(pool.map(_warm, range(4 * (os.cpu_count() or 1))))
        for task in _tasks(samples, verdict_samples, rounds):
            if _key(task) in done:
                continue
            measured = (
                task | {"commit": provenance.commit()} | (_ours(pool, task) if task["who"] == "ours" else _peer(task))
            )
            known.append(measured)
            with journal.open("a") as file:
                file.write(json.dumps(measured) + "\n")
            print(f"{task['attack']} by {task['who']} on {task['model']}: {measured['seconds']:.1f} s", flush=True)  # noqa: T201
    (out / "compare-peers.md").write_text(table(known, samples, verdict_samples, rounds))


def _tasks(samples: int, verdict_samples: int, rounds: int) -> Iterator[Measurement]:
    """The verdict first; then ours and the peers take turns within a round, model by model."""
    for model in MODELS:
        common = {"model": model, "seed": 0, "samples": verdict_samples}
        yield common | {"attack": "autoattack", "who": REFERENCE}
        for attack in OURS:
            yield common | {"attack": attack, "who": "ours"}
        if model == EXACT_FIRST[0]:
            yield common | {"attack": EXACT_FIRST[1], "who": "ours"}
    for seed in range(rounds):
        for model in MODELS:
            common = {"model": model, "seed": seed, "samples": samples}
            yield common | {"attack": "autoattack", "who": REFERENCE}
            for attack in (*OURS, *STEPS):
                yield common | {"attack": attack, "who": "ours"}
            for attack in STEPS:
                for peer in PEERS:
                    if attack == "pgd20" or seed == 0:  # pgd100 takes the peers minutes; one round of it
                        yield common | {"attack": attack, "who": peer}
    for ensemble in ENSEMBLES:
        for model in MODELS:
            yield {"model": model, "seed": 0, "samples": samples, "attack": "autoattack", "who": ensemble}


def _key(task: Measurement) -> tuple[Any, ...]:
    return tuple(task[k] for k in ("attack", "who", "model", "seed", "samples"))


def _start() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()


def _warm(_: int) -> None:
    datasets.load("fashion-mnist")


def _unit(task: Measurement, start: int, stop: int) -> tuple[list[int], float]:
    data, model = datasets.load("fashion-mnist"), load(task["model"], "cpu")
    worker = Worker("fashion-mnist", None, "cpu", 250)
    keys: tuple[str, ...] = ()
    for attack in task["attack"].split(", "):
        unit = WorkUnit(
            model=model.name, group=model.group, weights_sha256=model.sha256, dataset=data.name,
            data_sha256=data.sha256, norm="linf", eps=EPS, attack=attack, params={}, start=start, stop=stop,
            seed=task["seed"], proves=attack == "exact", certificates=keys,
        )  # fmt: skip
        record = worker(unit).record
        if unit.proves:
            keys = (record.key,)
            worker = dataclasses.replace(worker, certified=Certified({record.key: certified_samples(record)}))
    left = (Verdict.SURVIVED, Verdict.CERTIFIED)
    standing = [s for s, v in zip(record.sample_ids, record.verdicts, strict=True) if v in left]
    return standing, record.model_time_ratio


def _ours(pool: ProcessPoolExecutor, task: Measurement) -> Measurement:
    cores = os.cpu_count() or 1
    edges = [round(i * task["samples"] / cores) for i in range(cores + 1)]
    started = time.perf_counter()
    parts = list(pool.map(_unit, [task] * cores, edges[:-1], edges[1:]))
    seconds = time.perf_counter() - started
    ratio = statistics.mean(ratio for _, ratio in parts)
    return {
        "seconds": seconds,
        "standing": [sample for samples, _ in parts for sample in samples],
        "model_time_ratio": ratio,
    }


def _peer(task: Measurement) -> Measurement:
    torch.set_num_threads(os.cpu_count() or 1)
    data, loaded = datasets.load("fashion-mnist"), load(task["model"], "cpu").model
    x, y = data.x[: task["samples"]], data.y[: task["samples"]]
    judged, threat = instrument(judged_by(loaded), CPU), Threat("linf", EPS)
    right = predict(judged, x, y)[0]
    x, y, ids = x[right], y[right], torch.nonzero(right).flatten()
    _call(task, loaded, x[:2], y[:2], steps=2)  # imports, and first passes
    started = time.perf_counter()
    x_adv = _call(task, loaded, x, y, steps=STEPS.get(task["attack"], 0))
    seconds = time.perf_counter() - started
    broken = judge(judged, x, y, x_adv, threat).broken
    return {"seconds": seconds, "standing": ids[~broken].tolist()}


def _call(task: Measurement, model: torch.nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    if task["attack"] == "autoattack":
        return AUTOATTACK[task["who"]](model, x, y, EPS, seed=task["seed"]) if steps == 0 else x
    return PGD[task["who"]](model, x, y, EPS, seed=task["seed"], steps=steps, restarts=RESTARTS)


def table(known: list[Measurement], samples: int, verdict_samples: int, rounds: int) -> str:
    """The measurements as markdown."""
    found = {_key(m): m for m in known}

    def of(attack: str, who: str, model: str, n: int = samples) -> list[Measurement]:
        return [m for s in range(rounds) if (m := found.get((attack, who, model, s, n)))]

    def seconds(attack: str, who: str, model: str, n: int = samples) -> float:
        return float(statistics.median(m["seconds"] for m in of(attack, who, model, n)))

    def together(attack: str, who: str, n: int = samples) -> float:
        return sum(seconds(attack, who, model, n) for model in MODELS)

    def standing(attack: str, who: str, model: str, n: int, seed: int = 0) -> set[int]:
        return set(found[(attack, who, model, seed, n)]["standing"])

    def agreement(a: set[int], b: set[int], n: int) -> float:
        return 100 - 100 * len(a ^ b) / n

    lines = [
        "# Our attacks beside other libraries'",
        "",
        f"`make compare-peers` on {datetime.now(UTC):%Y-%m-%d}, commit {known[-1]['commit'][:10]}, "
        f"{provenance.machine(CPU)}; " + ", ".join(f"{name} {version(name)}" for name in VERSIONS) + ".",
        "Fashion-MNIST test images, linf 8/255; "
        f"seconds over {samples} samples are medians of {rounds} rounds (pgd100 of the peers: one round). "
        "In brackets: the reference's (or peer's) seconds over ours.",
        "",
        f"## AutoAttack: seconds, {samples} samples",
        "",
        "| model | pyautoattack | autoattack | autoattack-fast | screen | time in model (autoattack) |",
        "|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        reference = seconds("autoattack", REFERENCE, model)
        cells = [f"{(s := seconds(a, 'ours', model)):.1f} ({reference / s:.1f})" for a in OURS]
        ratio = statistics.median(m["model_time_ratio"] for m in of("autoattack", "ours", model))
        lines.append(f"| {model} | {reference:.1f} | {' | '.join(cells)} | {100 * ratio:.0f} % |")
    reference = together("autoattack", REFERENCE)
    cells = [f"{(s := together(a, 'ours')):.1f} ({reference / s:.1f})" for a in OURS]
    lines += [f"| together | {reference:.1f} | {' | '.join(cells)} | |", ""]
    lines += [
        f"## Verdict: samples of {verdict_samples} left standing, and per-sample agreement with pyautoattack",
        "",
        "| model | pyautoattack | autoattack | autoattack-fast | screen "
        f"| pyautoattack with itself ({rounds} seeds, {samples} samples: standing; least agreement) |",
        "|---|---|---|---|---|---|",
    ]
    n = verdict_samples
    for model in MODELS:
        truth = standing("autoattack", REFERENCE, model, n)
        cells = [f"{len(left := standing(a, 'ours', model, n))} ({agreement(truth, left, n):.1f} %)" for a in OURS]
        own = [standing("autoattack", REFERENCE, model, samples, seed) for seed in range(rounds)]
        least = f"; {min(agreement(a, b, samples) for a in own for b in own):.1f} %" if rounds > 1 else ""
        counts = ", ".join(str(len(s)) for s in own)
        lines.append(f"| {model} | {len(truth)} | {' | '.join(cells)} | {counts}{least} |")
    lines += [
        "",
        f"Seconds over {n} samples, one round; in brackets pyautoattack's over ours:",
        "",
        "| model | pyautoattack | autoattack | autoattack-fast | screen |",
        "|---|---|---|---|---|",
    ]
    for model in MODELS:
        reference = seconds("autoattack", REFERENCE, model, n)
        cells = [f"{(s := seconds(a, 'ours', model, n)):.1f} ({reference / s:.1f})" for a in OURS]
        lines.append(f"| {model} | {reference:.1f} | {' | '.join(cells)} |")
    reference = together("autoattack", REFERENCE, n)
    cells = [f"{(s := together(a, 'ours', n)):.1f} ({reference / s:.1f})" for a in OURS]
    lines.append(f"| together | {reference:.1f} | {' | '.join(cells)} |")
    model, attack = EXACT_FIRST
    exact = seconds(attack, "ours", model, n)
    quicker = together("autoattack", "ours", n) - seconds("autoattack", "ours", model, n) + exact
    lines += [
        "",
        f"On {model}, with `--attack exact` before (AutoAttack leaves alone what is proven): {exact:.1f} s for both, "
        f"{seconds('autoattack', REFERENCE, model, n) / exact:.1f} times faster, "
        f"{len(standing(attack, 'ours', model, n))} left standing; together then {quicker:.1f} s "
        f"({reference / quicker:.1f}).",
        "",
        f"## Other libraries' AutoAttack, {samples} samples, one round: seconds (samples left standing)",
        "",
        f"| model | ours | {' | '.join((REFERENCE, *ENSEMBLES))} |",
        "|---|" + "---|" * (len(ENSEMBLES) + 2),
    ]
    for model in MODELS:
        whose = [found[("autoattack", who, model, 0, samples)] for who in ("ours", REFERENCE, *ENSEMBLES)]
        lines.append(f"| {model} | " + " | ".join(f"{m['seconds']:.1f} ({len(m['standing'])})" for m in whose) + " |")
    for attack in STEPS:
        lines += [
            "",
            f"## {attack}, {RESTARTS} restarts, {samples} samples: seconds (samples left standing)",
            "",
            f"| model | ours | {' | '.join(PEERS)} |",
            "|---|" + "---|" * (len(PEERS) + 1),
        ]
        for model in MODELS:
            cells = [
                f"{seconds(attack, who, model):.1f} ({len(standing(attack, who, model, samples))})"
                for who in ("ours", *PEERS)
            ]
            lines.append(f"| {model} | {' | '.join(cells)} |")
        ours = together(attack, "ours")
        cells = [f"{(s := together(attack, who)):.1f} ({s / ours:.1f} x ours)" for who in PEERS]
        lines.append(f"| together | {ours:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
