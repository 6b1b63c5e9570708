"""S of several seeds, held against the seeds of the standard model."""

import itertools
import statistics
from collections.abc import Sequence

import numpy as np
import pytest

from results.clustering_effect import cosines, effect_of
from results.clustering_verdict import Mode, judge
from results.effect_families import family_effects
from results.linearized import Found, Told
from results.misled import misled

LABELS = (0, 0, 0, 1, 1, 1)


def found(name: str, standard: str | None, strength: float, modes: Sequence[str] = ("fold",)) -> Found:
    """A model whose rows lean towards a direction of their group by `strength`."""
    random = np.random.default_rng(len(name))
    rows = random.normal(size=(6, 30)) + strength * random.normal(size=(2, 30))[list(LABELS)]
    raw, centred = (effect_of(cosines(rows, centred), LABELS, 0) for centred in (False, True))
    found = tuple(Mode(bn, (1.0,) * 6, raw, centred, None, None, None) for bn in modes)
    attacked = misled("pgd20", 10, 10, np.zeros((6, 6), dtype=np.int64), LABELS, 0)
    told = tuple(Told(bn, "", "") for bn in modes)
    return Found(name, "0" * 64, told, found, judge(found, standard), None, standard, None, attacked, ())


def s_of(one: Found, mode: int = 0) -> float:
    return one.modes[mode].centred.test.statistic


def test_a_family_is_held_against_that_of_its_standard_model_in_each_mode() -> None:
    plain = [found(name, None, 0.0, ("drop", "fold")) for name in ("plain", "plain-seed1", "plain-seed2")]
    at = [found(name, "plain", 3.0, ("drop", "fold")) for name in ("at", "at-seed1", "at-seed10")]
    drop, fold = family_effects([*plain, *at])
    assert (drop.bn, fold.bn) == ("drop", "fold")
    assert (fold.family, fold.against) == ("at", "plain")
    assert fold.members == ("at", "at-seed1", "at-seed10")
    assert fold.values == tuple(map(s_of, at))
    assert fold.values_against == tuple(map(s_of, plain))
    assert fold.difference == pytest.approx(statistics.mean(fold.values) - statistics.mean(fold.values_against))
    assert min(fold.values) > max(fold.values_against)  # planted
    assert fold.p == fold.least == pytest.approx(2 / 20)


def test_p_counts_every_way_to_deal_the_seeds() -> None:
    plain = [found(f"plain-seed{10**i}", None, 0.4 * i) for i in range(4)]
    at = [found(f"at-seed{10**i}", "plain-seed1", 0.5 * i) for i in range(3)]
    (one,) = family_effects([*at, *plain])
    pooled, n = [*one.values, *one.values_against], len(one.values)
    dealt = []
    for chosen in itertools.combinations(range(len(pooled)), n):
        rest = [value for place, value in enumerate(pooled) if place not in chosen]
        dealt.append(abs(statistics.mean(pooled[place] for place in chosen) - statistics.mean(rest)))
    assert one.p == pytest.approx(np.mean(np.array(dealt) >= abs(one.difference) - 1e-9))
    assert one.least == pytest.approx(1 / 35)


def test_one_seed_of_either_is_compared_with_nothing() -> None:
    plain = [found("plain", None, 0.0), found("plain-seed1", None, 0.0)]
    at = [found("at", "plain", 1.0), found("at-seed1", "plain", 1.0)]
    assert family_effects([*plain, at[0]]) == ()
    assert family_effects([plain[0], *at]) == ()
    assert family_effects(at) == ()
    assert family_effects(plain) == ()


def test_a_standard_model_named_for_all_is_not_held_against_its_own_family() -> None:
    plain = [found("plain-seed1", "plain", 0.0), found("plain", None, 0.0)]
    assert family_effects(plain) == ()
