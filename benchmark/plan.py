"""What is to be done, as a flat list: pure functions from a request to units of work."""

from collections.abc import Iterable, Sequence

from attacks.registry import ResolvedAttack
from attacks.registry import resolve as resolve_attack
from benchmark.resolve import Request, applies
from model_zoo.registry import LoadedModel
from results.records import Scalar, WorkUnit


def plan(request: Request) -> list[WorkUnit]:
    """Every attack on every model it applies to, under every threat, in parts of `unit_size` samples.

    Each model's clean accuracy comes first. Attacks that a model cannot be given are left out.
    """
    config = request.config
    attacks = (resolve_attack("clean"), *(a for a in request.attacks if a.name != "clean"))
    return [
        WorkUnit(
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
        )
        for threat in config.threats
        for model in request.models
        for attack in attacks
        if applies(attack, model)
        for start in range(0, config.samples, config.unit_size)
    ]


def pending(units: Sequence[WorkUnit], done: Iterable[str]) -> list[WorkUnit]:
    """The units whose keys are not done, in order."""
    keys = set(done)
    return [unit for unit in units if unit.key not in keys]


def _params(attack: ResolvedAttack, surrogates: dict[str, LoadedModel]) -> dict[str, Scalar]:
    params = dict(attack.params)
    if attack.surrogate is not None:
        params["surrogate_sha256"] = surrogates[attack.surrogate].sha256
    return params
