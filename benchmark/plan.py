"""What is to be done, as a flat list: pure functions from a request to units of work."""

from collections.abc import Iterable, Iterator, Sequence

from attacks.registry import ResolvedAttack
from attacks.registry import resolve as resolve_attack
from benchmark.config import ThreatConfig
from benchmark.resolve import Request, applies
from model_zoo.registry import LoadedModel
from results.records import Scalar, WorkUnit


def plan(request: Request) -> list[WorkUnit]:
    """Every attack on every model it applies to, under every threat, in parts of `unit_size` samples.

    Each model's clean accuracy comes first. Attacks that a model cannot be given are left out, and so are
    verifiers of a classifier that another head of it has already. Searches leave alone what the verifiers of
    their classifier certify, unless the configuration says otherwise.
    """
    config = request.config
    named = [attack for attack in request.attacks if attack.name != "clean"]
    attacks = (resolve_attack("clean"), *sorted(named, key=lambda attack: not attack.entry.verifies))
    units: list[WorkUnit] = []
    proofs: dict[tuple[str, str, str, float, int], list[WorkUnit]] = {}
    for threat, model, attack, start in _combinations(request, attacks):
        about = (model.group, model.sha256, threat.norm, threat.eps, start)
        proving = proofs.setdefault(about, [])
        if attack.entry.verifies and any(unit.attack == attack.name for unit in proving):
            continue
        skips = config.skip_certified and not attack.entry.whole_unit and not attack.entry.verifies
        unit = WorkUnit(
            model=model.name,
            group=model.group,
            weights_sha256=model.sha256,
            dataset=request.dataset.name,
            data_sha256=request.dataset.sha256,
            norm=threat.norm,
            eps=threat.eps,
            attack=attack.name,
            params=_params(attack, request.surrogates),
            start=start,
            stop=min(start + config.unit_size, config.samples),
            seed=config.seed,
            search=config.search,
            proves=attack.entry.verifies,
            certificates=tuple(sorted(unit.key for unit in proving)) if skips and attack.name != "clean" else (),
        )
        units.append(unit)
        if unit.proves:
            proving.append(unit)
    return units


def _combinations(
    request: Request, attacks: Sequence[ResolvedAttack]
) -> Iterator[tuple[ThreatConfig, LoadedModel, ResolvedAttack, int]]:
    config = request.config
    for threat in config.threats:
        for model in request.models:
            for attack in attacks:
                if applies(attack, model):
                    for start in range(0, config.samples, config.unit_size):
                        yield threat, model, attack, start


def pending(units: Sequence[WorkUnit], done: Iterable[str]) -> list[WorkUnit]:
    """The units whose keys are not done, in order."""
    keys = set(done)
    return [unit for unit in units if unit.key not in keys]


def _params(attack: ResolvedAttack, surrogates: dict[str, LoadedModel]) -> dict[str, Scalar]:
    params = dict(attack.params)
    if attack.surrogate is not None:
        params["surrogate_sha256"] = surrogates[attack.surrogate].sha256
    return params
