"""One unit, attacked by stubs that do what they should or what they must not."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from attacks.contract import AttackResult
from attacks.registry import ResolvedAttack
from attacks.threat import Threat
from benchmark.datasets import Dataset, from_arrays
from benchmark.instrument import CPU_SHAPE, FixedBatch
from benchmark.judge import ModelFault
from benchmark.runner import Outcome, run_unit
from results.aggregate import UnsoundError
from results.records import UnitRecord, Verdict, WorkUnit
from tests.benchmark.builders import CPU, Threshold, grey, loaded, stub, unit_for

M, B, S, C = Verdict.MISCLASSIFIED, Verdict.BROKEN, Verdict.SURVIVED, Verdict.CERTIFIED

LEVELS = [0.1, 0.45, 0.9, 0.48, 0.55]
"""Under eps 0.1, Threshold can be broken on the second, fourth and fifth image."""


def _run(
    attack: Callable[..., AttackResult] | ResolvedAttack,
    data: Dataset | None = None,
    model: nn.Module | None = None,
    *,
    batch_size: int = 250,
    unit: WorkUnit | None = None,
    flags: tuple[str, ...] = (),
    certified: frozenset[int] = frozenset(),
) -> Outcome:
    data = data or grey(LEVELS)
    return run_unit(
        unit or unit_for(data),
        data,
        loaded(model or Threshold(), flags=flags),
        None,
        device=CPU,
        batch_size=batch_size,
        attack=attack if isinstance(attack, ResolvedAttack) else stub(attack),
        certified=certified,
    )


def _toward(x: Tensor, eps: float) -> Tensor:
    """Every pixel by eps towards, and past, the middle: the strongest attack on Threshold."""
    return x + eps * torch.sign(0.5 - x)


def _strongest(model: object, x: Tensor, y: Tensor, threat: Threat, **_: object) -> AttackResult:
    return AttackResult(_toward(x, threat.eps))


def _nothing(model: object, x: Tensor, y: Tensor, threat: Threat, **_: object) -> AttackResult:
    return AttackResult(x.clone())


def test_verdicts_are_what_can_be_read_off_the_levels() -> None:
    data = grey([*LEVELS, 0.2, 0.5], labels=[0, 0, 1, 0, 1, 1, 0])
    record = _run(_strongest, data).record
    assert record.verdicts == [S, B, S, B, B, M, M]
    assert record.clean_predictions == [0, 0, 1, 0, 1, 0, 1]
    assert record.predictions == [0, 1, 1, 1, 0, 0, 1]
    assert record.labels == data.y.tolist()
    assert record.sample_ids == list(range(7))


def test_the_strongest_attack_in_the_registry_agrees_with_the_closed_form() -> None:
    data = grey(LEVELS)
    unit = unit_for(data, attack="pgd20@steps=5,restarts=1")
    record = run_unit(unit, data, loaded(Threshold()), None, device=CPU, batch_size=250).record
    assert record.verdicts == [S, B, S, B, B]
    assert record.backwards > 0


def test_distances_are_those_of_the_broken_samples_and_of_no_other() -> None:
    data = grey([*LEVELS, 0.2], labels=[0, 0, 1, 0, 1, 1])
    record = _run(_strongest, data).record
    for verdict, distance in zip(record.verdicts, record.distances, strict=True):
        assert (distance is not None) == (verdict is B)
        if distance is not None:
            assert distance == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_distances_are_measured_in_the_norm_of_the_unit(norm: str) -> None:
    data = grey([0.45])
    record = _run(lambda m, x, y, threat, **_: AttackResult(x + 0.06), data, unit=unit_for(data, norm=norm, eps=0.2))
    assert record.record.distances[0] == pytest.approx(0.06 if norm == "linf" else 0.12, abs=1e-6)


def test_the_images_of_the_broken_samples_are_kept_bit_for_bit() -> None:
    data = grey(LEVELS)
    outcome = _run(_strongest, data)
    assert outcome.adversarial is not None
    assert outcome.record.adversarial_sha256 == hashlib.sha256(outcome.adversarial).hexdigest()
    arrays = load_tensors(outcome.adversarial)
    assert arrays["sample_ids"].tolist() == [1, 3, 4]
    assert arrays["x_adv"].dtype == torch.float32
    assert torch.equal(arrays["x_adv"], _toward(data.x, 0.1)[[1, 3, 4]])


def test_where_nothing_breaks_there_are_no_images() -> None:
    outcome = _run(_nothing)
    assert outcome.adversarial is None
    assert outcome.record.adversarial_sha256 is None
    assert outcome.record.verdicts == [S] * 5


def test_samples_in_the_middle_of_the_data_keep_their_places() -> None:
    data = grey(LEVELS)
    seen: list[list[int]] = []

    def attack(model: object, x: Tensor, y: Tensor, threat: Threat, *, seed: int, sample_ids: Tensor) -> AttackResult:
        seen.append([*sample_ids.tolist(), seed])
        return AttackResult(_toward(x, threat.eps))

    outcome = _run(attack, data, unit=unit_for(data, start=2, stop=5, seed=9))
    assert seen == [[2, 3, 4, 9]]
    assert outcome.record.sample_ids == [2, 3, 4]
    assert outcome.record.verdicts == [S, B, B]
    assert outcome.adversarial is not None
    assert load_tensors(outcome.adversarial)["sample_ids"].tolist() == [3, 4]


@pytest.mark.parametrize("batch_size", [1, 2, 250])
def test_only_correctly_classified_samples_are_attacked_in_batches(batch_size: int) -> None:
    data = grey([0.1, 0.2, 0.9, 0.5, 0.3], labels=[0, 1, 1, 0, 0])
    given: list[tuple[Tensor, Tensor, list[int]]] = []

    def attack(model: object, x: Tensor, y: Tensor, threat: Threat, *, seed: int, sample_ids: Tensor) -> AttackResult:
        given.append((x.clone(), y.clone(), sample_ids.tolist()))
        return AttackResult(x)

    record = _run(attack, data, batch_size=batch_size).record
    assert record.verdicts == [S, M, S, M, S]
    assert all(len(x) <= batch_size for x, _, _ in given)
    assert [sample for _, _, ids in given for sample in ids] == [0, 2, 4]
    assert torch.equal(torch.cat([x for x, _, _ in given]), data.x[[0, 2, 4]])
    assert torch.equal(torch.cat([y for _, y, _ in given]), data.y[[0, 2, 4]])


def test_an_attack_that_needs_the_whole_unit_gets_it_whatever_the_batch_size() -> None:
    sizes: list[int] = []

    def attack(model: object, x: Tensor, y: Tensor, threat: Threat, **_: object) -> AttackResult:
        sizes.append(len(x))
        return AttackResult(x)

    _run(stub(attack, whole_unit=True), batch_size=2)
    assert sizes == [5]


def test_where_nothing_is_right_nothing_is_attacked() -> None:
    def attack(*_: object, **__: object) -> AttackResult:
        raise AssertionError("called")

    record = _run(attack, grey([0.2, 0.5, 0.8], labels=[1, 0, 0])).record
    assert record.verdicts == [M] * 3
    assert record.forwards == record.backwards == 0


def test_the_attack_sees_the_threat_of_the_unit() -> None:
    threats: list[Threat] = []

    def attack(model: object, x: Tensor, y: Tensor, threat: Threat, **_: object) -> AttackResult:
        threats.append(threat)
        return AttackResult(x)

    data = grey(LEVELS)
    _run(attack, data, unit=unit_for(data, norm="l2", eps=0.25))
    assert threats == [Threat("l2", 0.25, 0.0, 1.0)]


def test_passes_of_the_attack_are_counted_and_those_of_the_judge_are_not() -> None:
    def attack(model: FixedBatch, x: Tensor, y: Tensor, threat: Threat, **_: object) -> AttackResult:
        x = x.clone().requires_grad_(True)
        (model(x).square().sum() + model(x.detach()).sum()).backward()
        return AttackResult(x.detach())

    data = grey([*LEVELS, 0.2], labels=[0, 0, 1, 0, 1, 1])
    record = _run(attack, data).record
    assert (record.forwards, record.backwards) == (10, 5)
    assert _run(_nothing, data).record.forwards == 0


def test_an_image_outside_the_ball_is_refused_and_flagged() -> None:
    def attack(model: object, x: Tensor, y: Tensor, threat: Threat, **_: object) -> AttackResult:
        return AttackResult(_toward(x, threat.eps + 1e-4))

    record = _run(attack).record
    assert record.verdicts == [S] * 5
    assert record.distances == [None] * 5
    assert record.predictions == record.labels
    assert record.flags == ["5 candidates lay outside the threat model and were refused"]


def test_an_image_outside_the_box_is_refused_and_flagged() -> None:
    def attack(model: object, x: Tensor, y: Tensor, threat: Threat, **_: object) -> AttackResult:
        return AttackResult(torch.where(x < 0.5, x - threat.eps, x + threat.eps))

    record = _run(attack, grey([0.05, 0.15, 0.95])).record
    assert record.flags == ["2 candidates lay outside the threat model and were refused"]


def test_refused_images_harm_no_neighbour() -> None:
    def attack(model: object, x: Tensor, y: Tensor, threat: Threat, **_: object) -> AttackResult:
        x_adv = _toward(x, threat.eps)
        x_adv[1] = 1.0
        x_adv[3] = float("nan")
        return AttackResult(x_adv)

    record = _run(attack).record
    assert record.verdicts == [S, S, S, S, B]
    assert record.flags == ["2 candidates lay outside the threat model and were refused"]


def test_misclassified_samples_count_neither_as_refused_nor_as_broken() -> None:
    record = _run(_strongest, grey([0.45, 0.45], labels=[1, 0])).record
    assert record.verdicts == [M, B]
    assert record.flags == []


def test_a_claim_that_the_judge_denies_is_flagged() -> None:
    def attack(model: object, x: Tensor, y: Tensor, threat: Threat, **_: object) -> AttackResult:
        return AttackResult(_toward(x, threat.eps), claimed=torch.ones(len(x), dtype=torch.bool))

    record = _run(attack).record
    assert record.verdicts == [S, B, S, B, B]
    assert record.flags == ["2 successes the attack claimed were denied by the judged head"]


def test_a_claim_that_the_judge_confirms_is_not_flagged() -> None:
    def attack(model: object, x: Tensor, y: Tensor, threat: Threat, **_: object) -> AttackResult:
        return AttackResult(_toward(x, threat.eps), claimed=(x.flatten(1)[:, 0] - 0.5).abs() < threat.eps)

    assert _run(attack).record.flags == []


class _OtherHead(nn.Module):
    """Shows attacks a flat head that is fooled by everything; judged by Threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.judged = Threshold()

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(Threshold()(x))


def test_predictions_are_judged_by_the_judged_head() -> None:
    seen: list[Tensor] = []

    def attack(model: FixedBatch, x: Tensor, y: Tensor, threat: Threat, **_: object) -> AttackResult:
        seen.append(model(x))
        return AttackResult(_toward(x, threat.eps))

    record = _run(attack, model=_OtherHead()).record
    assert record.verdicts == [S, B, S, B, B]
    assert not bool(seen[0].any())


def test_flags_of_model_and_attack_are_carried_once_each() -> None:
    def attack(model: object, x: Tensor, y: Tensor, threat: Threat, **_: object) -> AttackResult:
        return AttackResult(x, flags=("from the attack",))

    record = _run(attack, batch_size=1, flags=("from the model",)).record
    assert record.flags == ["from the model", "from the attack"]


def _certify(*samples: int) -> Callable[..., AttackResult]:
    def verifier(model: object, x: Tensor, y: Tensor, threat: Threat, *, seed: int, sample_ids: Tensor) -> AttackResult:
        return AttackResult(_toward(x, threat.eps), certified=torch.isin(sample_ids, torch.tensor(samples)))

    return verifier


@pytest.mark.parametrize("batch_size", [1, 2, 250])
def test_a_proven_sample_is_certified(batch_size: int) -> None:
    record = _run(_certify(0), batch_size=batch_size).record
    assert record.verdicts == [C, B, S, B, B]
    assert record.distances[0] is None


def test_a_misclassified_sample_is_not_certified() -> None:
    record = _run(_certify(0, 1), grey([0.1, 0.1], labels=[0, 1])).record
    assert record.verdicts == [C, M]


def test_a_sample_certified_and_broken_stops_with_its_number() -> None:
    with pytest.raises(UnsoundError, match=r"samples \[1, 4\] are both broken and certified"):
        _run(_certify(0, 1, 2, 4))


def _noting(given: list[int]) -> Callable[..., AttackResult]:
    def attack(model: object, x: Tensor, y: Tensor, threat: Threat, *, seed: int, sample_ids: Tensor) -> AttackResult:
        given.extend(sample_ids.tolist())
        return AttackResult(_toward(x, threat.eps))

    return attack


@pytest.mark.parametrize("batch_size", [1, 2, 250])
def test_what_verifiers_certified_is_left_alone_and_certified_here_too(batch_size: int) -> None:
    """Sample 1 would break, sample 5 is misclassified, and 40 is of another unit."""
    given: list[int] = []
    data = grey([*LEVELS, 0.2], labels=[0, 0, 1, 0, 1, 1])
    record = _run(_noting(given), data, batch_size=batch_size, certified=frozenset({1, 2, 5, 40})).record
    assert given == [0, 3, 4]
    assert record.verdicts == [S, C, C, B, B, M]
    assert [winner is None for winner in record.winners] == [True, True, True, False, False, True]
    assert record.distances[1] is None
    assert record.predictions == [0, 0, 1, 1, 0, 0]


def test_certified_samples_are_those_of_the_data_set_not_of_the_unit() -> None:
    given: list[int] = []
    data = grey(LEVELS)
    record = _run(_noting(given), data, unit=unit_for(data, start=2), certified=frozenset({0, 1, 3})).record
    assert given == [2, 4]
    assert record.verdicts == [S, C, B]


def test_where_everything_is_certified_nothing_is_attacked() -> None:
    given: list[int] = []
    outcome = _run(_noting(given), certified=frozenset(range(5)))
    assert (given, outcome.record.verdicts, outcome.adversarial) == ([], [C] * 5, None)
    assert outcome.record.forwards == outcome.record.backwards == 0


def test_leaving_samples_alone_changes_no_other_verdict() -> None:
    rng = np.random.default_rng(0)
    n = 40
    data = from_arrays("random", rng.random((n, 2, 2), dtype=np.float32) * 0.4 + 0.3, rng.integers(0, 2, n))
    whole, skipping = (
        run_unit(
            unit_for(data, attack="pgd20@steps=3,restarts=2"),
            data,
            loaded(Threshold()),
            None,
            device=CPU,
            batch_size=250,
            certified=certified,
        )
        for certified in (frozenset[int](), frozenset(range(0, n, 3)))
    )
    assert whole.adversarial is not None
    assert skipping.adversarial is not None
    images = [load_tensors(part.adversarial) for part in (whole, skipping) if part.adversarial is not None]
    kept = {int(s): x for s, x in zip(images[0]["sample_ids"], images[0]["x_adv"], strict=True) if s % 3}
    assert images[1]["sample_ids"].tolist() == list(kept)
    assert all(torch.equal(x, kept[int(s)]) for s, x in zip(images[1]["sample_ids"], images[1]["x_adv"], strict=True))
    for sample, (one, other) in enumerate(zip(whole.record.verdicts, skipping.record.verdicts, strict=True)):
        assert other is (one if sample % 3 or one is M else C)


def _verifier(radii: list[float] | None, proofs: dict[str, Tensor] | None = None) -> ResolvedAttack:
    def verify(model: object, x: Tensor, y: Tensor, threat: Threat, **_: object) -> AttackResult:
        known = None if radii is None else torch.tensor(radii, dtype=torch.float64)
        return AttackResult(x, radii=known, proofs=proofs)

    return stub(verify, verifies=True)


@pytest.mark.parametrize(("norm", "diameter"), [("linf", 1.0), ("l2", 2.0), ("l1", 4.0)])
def test_radii_keep_their_places_and_end_at_the_boxs_diameter(norm: str, diameter: float) -> None:
    data = grey([0.1, 0.2, 0.9, 0.45, 0.55], labels=[0, 1, 1, 0, 1])
    attack = _verifier([0.25, float("inf"), float("nan"), 7.5])
    record = _run(attack, data, unit=unit_for(data, norm=norm)).record
    assert record.radii == [0.25, None, diameter, None, diameter]
    assert UnitRecord.model_validate_json(record.model_dump_json()) == record


def test_a_verifier_sees_the_whole_unit_and_the_judged_model_itself() -> None:
    seen: list[tuple[object, int]] = []

    def verify(model: object, x: Tensor, y: Tensor, threat: Threat, **_: object) -> AttackResult:
        seen.append((model, len(x)))
        return AttackResult(x)

    model = _OtherHead()
    _run(stub(verify, verifies=True), model=model, batch_size=2)
    assert seen == [(model.judged, 5)]


def test_proofs_are_kept_with_their_checksum() -> None:
    outcome = _run(_verifier(None, {"weight": torch.tensor([0.25, 1e-300], dtype=torch.float64)}))
    assert outcome.proofs is not None
    assert outcome.record.proofs_sha256 == hashlib.sha256(outcome.proofs).hexdigest()
    assert load_tensors(outcome.proofs)["weight"].tolist() == [0.25, 1e-300]
    assert outcome.record.radii == [None] * 5


def test_without_proofs_or_samples_there_is_no_file_of_proofs() -> None:
    for outcome in (
        _run(_verifier([0.1] * 5)),
        _run(_verifier([], {"a": torch.zeros(1)}), grey([0.1, 0.9], labels=[1, 0])),
    ):
        assert (outcome.proofs, outcome.record.proofs_sha256) == (None, None)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("count", [0, 4, 6])
def test_another_number_of_radii_than_images_is_an_error(count: int) -> None:
    with pytest.raises(ValueError, match=f"returned {count} entries in radii for 5 samples"):
        _run(_verifier([0.1] * count))


def test_whatever_an_attack_raises_comes_through() -> None:
    def attack(*_: object, **__: object) -> AttackResult:
        raise ZeroDivisionError("my attack divides by zero")

    with pytest.raises(ZeroDivisionError, match="my attack divides by zero"):
        _run(attack)


def test_images_of_another_shape_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 2, 1\), not \(1, 2, 2\)"):
        _run(lambda m, x, y, threat, **_: AttackResult(x[..., :1]))


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("count", [0, 1, 4, 6])
def test_another_number_of_images_than_were_given_is_an_error(count: int) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        _run(lambda m, x, y, threat, **_: AttackResult(torch.cat([x, x])[:count]))


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("field", ["certified", "claimed"])
@pytest.mark.parametrize("count", [0, 1, 4, 6])
def test_another_number_of_certificates_or_claims_than_images_is_an_error(field: str, count: int) -> None:
    marks: dict[str, Any] = {field: torch.ones(count, dtype=torch.bool)}
    with pytest.raises((ValueError, RuntimeError)):
        _run(lambda m, x, y, threat, **_: AttackResult(x, **marks))


class _Faulty(nn.Module):
    """Right on clean images, and `output` for anything darker."""

    def __init__(self, output: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        # Padding is black; only images that were moved are in between.
        return self.output(Threshold()(x)) if bool(((x > 0.0) & (x < 0.05)).any()) else Threshold()(x)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_without_finite_logits_under_attack_is_a_fault_and_no_verdict(value: float) -> None:
    model = _Faulty(lambda logits: logits * 0.0 + value)
    with pytest.raises(ModelFault, match="NaN or infinite"):
        _run(lambda m, x, y, threat, **_: AttackResult(x - 0.08), grey([0.1, 0.2]), model)


def test_verdicts_and_images_do_not_depend_on_batch_size_or_parts() -> None:
    rng = np.random.default_rng(0)
    n = CPU_SHAPE + 20
    data = from_arrays("random", rng.random((n, 2, 2), dtype=np.float32) * 0.4 + 0.3, rng.integers(0, 2, n))
    whole = run_unit(
        unit_for(data, attack="pgd20@steps=3,restarts=2"), data, loaded(Threshold()), None, device=CPU, batch_size=250
    )
    assert set(whole.record.verdicts) == {M, B, S}
    assert whole.adversarial is not None
    for batch_size, cut in ((1, 0), (7, 0), (250, 13), (9, CPU_SHAPE)):
        parts = [
            run_unit(
                unit_for(data, attack="pgd20@steps=3,restarts=2", start=start, stop=stop),
                data,
                loaded(Threshold()),
                None,
                device=CPU,
                batch_size=batch_size,
            )
            for start, stop in ((0, cut), (cut, n))
            if start < stop
        ]
        assert [v for part in parts for v in part.record.verdicts] == whole.record.verdicts
        assert [d for part in parts for d in part.record.distances] == whole.record.distances
        images = [load_tensors(part.adversarial)["x_adv"] for part in parts if part.adversarial is not None]
        assert torch.equal(torch.cat(images), load_tensors(whole.adversarial)["x_adv"])
