"""One unit of work to one record: the only place where tensors become verdicts."""

import hashlib
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch
from torch import Tensor, nn

from attacks.contract import AttackResult
from attacks.registry import ResolvedAttack, call
from attacks.registry import resolve as resolve_attack
from attacks.threat import Threat
from benchmark import provenance
from benchmark.cheap_copy import Searched, prepare_search
from benchmark.datasets import Dataset
from benchmark.instrument import instrument
from benchmark.judge import judge, predict
from model_zoo.adapter import judged_by
from model_zoo.magnet import MagnetClassifier
from model_zoo.registry import LoadedModel
from results.aggregate import UnsoundError
from results.records import MODEL_CHECKS, Provenance, UnitRecord, Verdict, WorkUnit
from results.store import pack, pack_adversarial


@dataclass(frozen=True)
class Outcome:
    """A finished unit: its record, and the safetensors bytes of the images that broke the model, and of proofs."""

    record: UnitRecord
    adversarial: bytes | None
    proofs: bytes | None = None


def run_unit(
    unit: WorkUnit,
    dataset: Dataset,
    model: LoadedModel,
    surrogate: nn.Module | None,
    *,
    device: torch.device,
    batch_size: int,
    attack: ResolvedAttack | None = None,
    searched: Searched | None = None,
    certified: frozenset[int] = frozenset(),
) -> Outcome:
    """Attack the unit's correctly classified samples and judge what comes back.

    The samples `certified` by the units in `unit.certificates` are left alone. `searched` is what
    `prepare_search` gave for this model, data set and `unit.search`; made anew without it.
    Raises whatever the model or the attack raises: a crash leaves no record and is no verdict.
    """
    started = time.monotonic()
    attack = attack or resolve_attack(unit.attack)
    verifies = attack.entry.verifies
    part = slice(unit.start, unit.stop)
    sample_ids = torch.arange(unit.start, unit.stop)
    x, y = dataset.x[part].to(device), dataset.y[part].to(device)
    threat = Threat(unit.norm, unit.eps)  # type: ignore[arg-type]  # Threat checks the norm
    judged = instrument(judged_by(model.model), device)
    right, clean_predictions = predict(judged, x, y)
    known = torch.tensor([sample in certified for sample in sample_ids.tolist()], device=device) & right
    tried = right & ~known
    with torch.no_grad():
        randomised = not torch.equal(judged(x), judged(x))

    if not attack.entry.searches:
        searched = Searched(model.model)
    elif searched is None:
        searched = prepare_search(model.model, dataset.x, dataset.y, device, unit.search, batch_size)
    attacked = instrument(searched.model, device)
    attacked.lanes, attacked.slack = batch_size, searched.slack
    attacked.shapes = searched.shapes or attacked.shapes
    confirming = instrument(judged_by(model.model), device)
    attacked.confirm = lambda x, y, x_adv, threat: judge(confirming, x, y, x_adv, threat).broken
    shown = None if surrogate is None else instrument(surrogate, device)
    size = len(x) if attack.entry.whole_unit or attack.entry.searches or verifies else batch_size
    function = call(attack, shown)
    given: nn.Module = judged_by(model.model) if verifies else attacked
    with torch.random.fork_rng():
        torch.manual_seed(int(unit.key[:8], 16))  # for a user's attack that draws from torch's own generator
        results = [
            _checked(
                function(given, x[rows], y[rows], threat, seed=unit.seed, sample_ids=sample_ids[rows.cpu()]), x[rows]
            )
            for rows in torch.nonzero(tried).flatten().split(size)
            if len(rows)
        ]
    x_adv = x.clone()
    if results:
        x_adv[tried] = torch.cat([result.x_adv.detach().to(x) for result in results])
    judgement = judge(judged, x, y, x_adv, threat)
    broken = judgement.broken & tried
    proved = _gather(results, lambda r: r.certified, tried)
    if bool((proved & broken).any()):
        samples = sample_ids[(proved & broken).cpu()].tolist()
        raise UnsoundError(f"{unit}: samples {samples} are both broken and certified")
    verdicts = [
        Verdict.MISCLASSIFIED if not r else Verdict.BROKEN if b else Verdict.CERTIFIED if c else Verdict.SURVIVED
        for r, b, c in zip(right.tolist(), broken.tolist(), (proved | known).tolist(), strict=True)
    ]
    adversarial = None
    if bool(broken.any()):
        adversarial = pack_adversarial(
            sample_ids[broken.cpu()].numpy(), x_adv[broken].float().cpu().numpy().astype(np.float32)
        )
    proofs = _proofs(results) if verifies else None
    wrappers = [w for w in (judged, attacked, confirming, shown) if w is not None]
    seconds = time.monotonic() - started
    record = UnitRecord(
        key=unit.key,
        unit=unit,
        sample_ids=sample_ids.tolist(),
        labels=y.tolist(),
        clean_predictions=clean_predictions.tolist(),
        predictions=judgement.predictions.tolist(),
        verdicts=verdicts,
        distances=[d if b else None for d, b in zip(judgement.distances.tolist(), broken.tolist(), strict=True)],
        radii=_radii(results, tried, threat.diameter(x[0].numel())),
        winners=_winners(results, broken, tried, unit.attack),
        forwards=sum(w.forwards for w in wrappers if w is not judged),
        backwards=sum(w.backwards for w in wrappers),
        seconds=seconds,
        samples_per_second=len(x) / seconds,
        model_time_ratio=sum(w.seconds for w in wrappers) / seconds,
        search=searched.arithmetic,
        flags=_flags(model, searched, results, judgement.allowed & tried, broken, tried, randomised),
        adversarial_sha256=None if adversarial is None else _sha256(adversarial),
        proofs_sha256=None if proofs is None else _sha256(proofs),
        provenance=Provenance(
            commit=provenance.commit(),
            versions=provenance.versions() | ({MODEL_CHECKS: "1"} if model.checked else {}),
            machine=provenance.machine(device),
            device=str(device),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )
    return Outcome(record, adversarial, proofs)


def _radii(results: list[AttackResult], tried: Tensor, largest: float) -> list[float | None]:
    """The verifier's radius of each sample it was given, at most the box's diameter; None where it knows none."""
    radii: list[float | None] = [None] * len(tried)
    given = [r.radii.tolist() if r.radii is not None else [math.nan] * len(r.x_adv) for r in results]
    for sample, radius in zip(torch.nonzero(tried).flatten().tolist(), itertools.chain(*given), strict=True):
        radii[sample] = None if math.isnan(radius) else min(radius, largest)
    return radii


def _proofs(results: list[AttackResult]) -> bytes | None:
    """The proofs of a verifier, which sees all samples of a unit at once."""
    proofs = results[0].proofs if results else None
    return None if proofs is None else pack({name: part.cpu().numpy() for name, part in proofs.items()})


def _winners(results: list[AttackResult], broken: Tensor, tried: Tensor, attack: str) -> list[str | None]:
    """The part of an ensemble that broke each sample, or the attack itself."""
    named = [name or attack for result in results for name in (result.winners or [attack] * len(result.x_adv))]
    winners: list[str | None] = [None] * len(tried)
    for sample, name in zip(torch.nonzero(tried).flatten().tolist(), named, strict=True):
        winners[sample] = name if bool(broken[sample]) else None
    return winners


def _checked(result: AttackResult, x: Tensor) -> AttackResult:
    if result.x_adv.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"the attack returned images of shape {tuple(result.x_adv.shape[1:])}, not {tuple(x.shape[1:])}"
        )
    for name in ("x_adv", "certified", "claimed", "radii"):
        marks = getattr(result, name)
        if marks is not None and len(marks) != len(x):
            raise ValueError(f"the attack returned {len(marks)} entries in {name} for {len(x)} samples")
    return result


def _gather(results: list[AttackResult], pick: Callable[[AttackResult], Tensor | None], tried: Tensor) -> Tensor:
    """A per-sample mark of the attack, spread over all samples; False where it gave none."""
    marks = torch.zeros_like(tried)
    parts = []
    for result in results:
        mark = pick(result)
        parts.append(tried.new_zeros(len(result.x_adv)) if mark is None else mark.to(tried.device))
    if parts:
        marks[tried] = torch.cat(parts)
    return marks


def _flags(
    model: LoadedModel,
    searched: Searched,
    results: list[AttackResult],
    allowed: Tensor,
    broken: Tensor,
    tried: Tensor,
    randomised: bool,
) -> list[str]:
    flags = list(model.flags)
    if isinstance(model.model, MagnetClassifier) and model.model.masks and not model.model.unmasked:
        flags.append(
            f"only the {model.model.nearest} nearest clusters count, which hides gradients: attack it unmasked as well"
        )
    if randomised:
        flags.append("two passes over the same images differ: a randomised model, whose verdicts are one draw")
    if searched.refused:
        flags.append(f"searched in float32: {searched.refused}")
    for result in results:
        flags += result.flags
    outside = int((tried & ~allowed).sum())
    if outside:
        flags.append(f"{outside} candidates lay outside the threat model and were refused")
    denied = int((_gather(results, lambda r: r.claimed, tried) & ~broken & allowed).sum())
    if denied:
        flags.append(f"{denied} successes the attack claimed were denied by the judged head")
    return list(dict.fromkeys(flags))


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()
