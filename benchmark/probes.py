"""The costly checks of one classifier, each an attack that a sound number must withstand.

- More steps and restarts (Carlini et al. 2019): PGD on the margin with five times the steps of the longest attack, on
  what stands. Whether a loss still rises at the end of an attack shows in what more steps break.
- The tailored loss of a clustering classifier (Tramer et al. 2020), on what stands.
- Gradient masking (Athalye et al. 2018): Square, and images made on other models, on what stands; and whether a step
  along the gradient raises the margin more often than a random step of the same length.
- An unbounded attack must reach 0 % (Pintor et al. 2022): PGD over the whole box, on what is classified correctly.

Success on the path but not at the end (Pintor et al. 2022) cannot happen here: every iterate is judged. What a probe
breaks is broken for certain, so that one sample is enough for a finding. Each probe is a unit like those of the run,
carried out by `benchmark.runner` and judged by the same judge.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from attacks.autoattack import ENSEMBLES, autoattack
from attacks.contract import ClusteringClassifier
from attacks.gradient import slope
from attacks.losses import margin
from attacks.randomness import sample_generators
from attacks.registry import AttackEntry, ResolvedAttack
from attacks.registry import resolve as resolve_attack
from attacks.threat import Threat
from benchmark.cheap_copy import Searched, prepare_search
from benchmark.datasets import Dataset
from benchmark.diagnostics import at_least_by_chance, model_flags
from benchmark.instrument import LANES, instrument
from benchmark.runner import run_unit
from model_zoo.adapter import judged_by
from model_zoo.magnet import MagnetClassifier
from model_zoo.registry import LoadedModel
from results.aggregate import verdicts_by_sample, worst_case
from results.diagnosis import LEVEL, broken_by
from results.findings import Finding, Severity, read_flag, without_repeats
from results.probed import Probe, Probed
from results.records import Classifier, Scalar, UnitRecord, Verdict, WorkUnit

LONGER = 5
"""Times the steps of the run's longest attack."""
SHORTEST = 100
"""Steps that an attack is taken to have at least: APGD's."""
SQUARE = ResolvedAttack(
    "square",
    AttackEntry("Square, 5000 queries", functools.partial(autoattack, parts=ENSEMBLES["standard"][-1:]), searches=True),
)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A classifier of a run: its units and records, and its models as attacked.

    `dataset` is what the run's configuration calls the data set, such as npz:FILE.
    """

    about: Classifier
    dataset: str
    units: Sequence[WorkUnit]
    records: Sequence[UnitRecord]

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(unit.model for unit in self.units))


@dataclasses.dataclass(frozen=True)
class Probing:
    """One classifier on the probes."""

    subject: Subject
    models: Mapping[str, LoadedModel]
    dataset: Dataset
    device: torch.device
    samples: int
    seed: int

    def probed(self) -> Probed:
        group, weights, dataset, data, norm, eps = self.subject.about
        worst = worst_case(verdicts_by_sample([record]) for record in self.subject.records)
        first = [sample for sample in sorted(worst) if sample < self.samples]
        standing = [sample for sample in first if worst[sample] is Verdict.SURVIVED]
        right = [sample for sample in first if worst[sample] is not Verdict.MISCLASSIFIED]
        model = _seen(self.models[self.subject.models[0]])
        probes: list[Probe] = []
        told = [
            read_flag(flag, name, "")
            for name in self.subject.models
            for flag in model_flags(self.models[name], self.dataset, self.device)
        ]
        search = self.subject.units[0].search
        searched = prepare_search(model.model, self.dataset.x, self.dataset.y, self.device, search, LANES)
        run = functools.partial(self._broken, model, searched)

        def breaks(check: str, what: str, broken: frozenset[int]) -> None:
            probes.append(Probe(what=what, outcome="broke", count=len(broken), n=len(standing)))
            if broken:
                seen = f"{what} broke {len(broken)} of {len(standing)} samples that stood in the run"
                told.append(self._finding(check, len(broken), len(standing), seen))

        if standing:
            longest = [s for u in self.subject.units if isinstance(s := u.params.get("steps"), int)]
            steps = LONGER * max([SHORTEST, *longest])
            longer = resolve_attack(f"cw100@steps={steps},restarts=2")
            breaks("stopped-early", f"PGD on the margin with {steps} steps and 2 restarts", run(longer, standing, eps))
            if isinstance(model.model, ClusteringClassifier):
                tailored = resolve_attack("magnet100@restarts=2")
                breaks("tailored-loss", "the Magnet loss (100 steps, 2 restarts)", run(tailored, standing, eps))
            breaks("square-breaks-more", "Square with 5000 queries", run(SQUARE, standing, eps))
            for surrogate in self._surrogates():
                attack = _transferred(surrogate.group)
                broken = self._broken(model, Searched(model.model), attack, standing, eps, judged_by(surrogate.model))
                breaks("transfer-breaks-more", f"transfer from {surrogate.group}", broken)
        if right:
            self._unbounded(run, right, norm, probes, told)
            self._guided(model, right, Threat(norm, eps), probes, told)  # type: ignore[arg-type]  # the unit's norm
        return Probed(
            group=group,
            weights_sha256=weights,
            dataset=dataset,
            data_sha256=data,
            norm=norm,
            eps=eps,
            samples=len(first),
            standing=len(standing),
            seed=self.seed,
            probes=tuple(probes),
            findings=tuple(without_repeats(told)),
        )

    def _unbounded(
        self, run: Callable[..., frozenset[int]], right: list[int], norm: str, probes: list[Probe], told: list[Finding]
    ) -> None:
        """Whether some samples are left when every image of the box is allowed."""
        eps = Threat(norm, 0.0).diameter(self.dataset.x[0].numel())  # type: ignore[arg-type]  # the unit's norm
        left = list(right)
        for name in ("pgd100", "cw100"):
            if left:
                broken = run(resolve_attack(name), left, eps)
                left = [sample for sample in left if sample not in broken]
        what = f"PGD over the whole box ({norm} eps = {eps:.4g})"
        probes.append(Probe(what=what, outcome="left", count=len(left), n=len(right)))
        if left:
            seen = f"{what} left {len(left)} of {len(right)} samples standing"
            told.append(self._finding("unbounded", len(left), len(right), seen))

    def _guided(
        self, model: LoadedModel, right: list[int], threat: Threat, probes: list[Probe], told: list[Finding]
    ) -> None:
        """Whether the gradient tells up from down: a step of eps/4 along it against one in a random direction.

        Exact sign test; a model whose gradients guide no better than chance cannot be told from chance by it.
        """
        x, y = self.dataset.x[right].to(self.device), self.dataset.y[right].to(self.device)
        shown = instrument(model.model, self.device)
        seen = slope(shown, x, y, lambda out: margin(out.logits, y))
        generators = sample_generators(self.seed, torch.tensor(right), "diagnose/random-step")
        random = torch.stack([torch.from_numpy(g.standard_normal(tuple(x.shape[1:]))) for g in generators]).to(x)

        def after(direction: Tensor) -> Tensor:
            with torch.no_grad():
                stepped = threat.project(x, x + threat.eps / 4 * threat.steepest(direction))
                return margin(shown(stepped), y)

        wins = int((after(seen.gradient) > after(random)).sum())
        what = "a step along the gradient against a random one"
        probes.append(Probe(what=what, outcome="won", count=wins, n=len(right)))
        if at_least_by_chance(len(right), len(right)) <= LEVEL < at_least_by_chance(wins, len(right)):
            told.append(
                self._finding(
                    "gradients-mislead",
                    wins,
                    len(right),
                    f"a step along the gradient raises the margin more than a random one on {wins} of {len(right)} "
                    "samples, no more than chance",
                )
            )

    def _broken(
        self,
        model: LoadedModel,
        searched: Searched,
        attack: ResolvedAttack,
        samples: list[int],
        eps: float,
        surrogate: nn.Module | None = None,
    ) -> frozenset[int]:
        """The samples that an attack breaks, by a unit over these alone."""
        data = dataclasses.replace(self.dataset, x=self.dataset.x[samples], y=self.dataset.y[samples])
        params: dict[str, Scalar] = dict(attack.params)
        unit = self.subject.units[0].model_copy(
            update={
                "attack": attack.name,
                "params": params,
                "start": 0,
                "stop": len(samples),
                "eps": eps,
                "seed": self.seed,
                "proves": False,
                "certificates": (),
            }
        )
        outcome = run_unit(
            unit, data, model, surrogate, device=self.device, batch_size=LANES, attack=attack, searched=searched
        )
        return frozenset(samples[place] for place in broken_by([outcome.record]))

    def _surrogates(self) -> list[LoadedModel]:
        """One model of each other classifier."""
        others = {m.group: m for m in self.models.values() if m.group != self.subject.about[0]}
        return list(others.values())

    def _finding(self, check: str, count: int, n: int, seen: str) -> Finding:
        model = self.subject.models[0]
        return Finding(check=check, severity=Severity.FLATTERS, model=model, count=count, n=n, seen=seen)


def _seen(loaded: LoadedModel) -> LoadedModel:
    """The classifier through the head that judges it, without the mask of the D nearest clusters."""
    judged = judged_by(loaded.model)
    if isinstance(judged, MagnetClassifier) and judged.masks:
        judged = judged.seen_through("log_sum_exp", unmasked=True)
    return dataclasses.replace(loaded, model=judged, flags=())


def _transferred(surrogate: str) -> ResolvedAttack:
    attack = resolve_attack("transfer")
    return dataclasses.replace(attack, params=attack.params | {"surrogate": surrogate})
