"""effect.json: every number of `bench analyze linearize`."""

import json
from typing import Any

from results.clustering_effect import Effect, Matrix, Test
from results.clustering_verdict import LEVEL, Mode
from results.effect_families import FamilyEffect, family_effects
from results.linearized import Analysis, Found, Told


def as_json(analysis: Analysis) -> str:
    """Every number; the undefined is null."""
    means = analysis.means
    content = {
        "dataset": analysis.dataset,
        "images": analysis.images,
        "threat": analysis.threat,
        "seed": analysis.seed,
        "level": LEVEL,
        "classes": list(analysis.groups.classes),
        "groups": {
            name: [analysis.groups.classes[index] for index in analysis.groups.members(group)]
            for group, name in enumerate(analysis.groups.names)
        },
        "groups_source": analysis.groups.source,
        "groups_reason": analysis.groups.reason,
        "class_mean_images": None if means is None else {"raw": _effect(means[0]), "centred": _effect(means[1])},
        "models": [_found(one) for one in analysis.models],
        "families": [_family(one) for one in family_effects(analysis.models)],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _found(one: Found) -> dict[str, Any]:
    return {
        "model": one.model,
        "weights_sha256": one.sha256,
        "verdict": str(one.verdict.ruling),
        "beside": list(one.verdict.beside),
        "missing_controls": list(one.missing),
        "modes": [_mode(mode, told) for mode, told in zip(one.modes, one.told, strict=True)],
        "classifier_rows": _effect(one.head),
        "standard_model": one.standard,
        "feature_distances": _matrix(one.distances),
        "adversarial": {
            "attack": one.misled.attack,
            "images": one.misled.images,
            "right": one.misled.right,
            "misclassified": one.misled.broken,
            "inside_a_group": one.misled.inside,
            "share_inside": one.misled.share,
            "share_inside_if_random": one.misled.expected,
            "test": _test(one.misled.test),
            "counts": one.misled.counts.tolist(),
        },
    }


def _family(one: FamilyEffect) -> dict[str, Any]:
    return {
        "family": one.family,
        "against": one.against,
        "bn": one.bn,
        "statistics": dict(zip(one.members, one.values, strict=True)),
        "statistics_against": dict(zip(one.members_against, one.values_against, strict=True)),
        "difference": one.difference,
        "p": one.p,
        "least_p": one.least,
    }


def _mode(mode: Mode, told: Told) -> dict[str, Any]:
    return {
        "bn": mode.bn,
        "self_check": told.check,
        "changes": told.changes,
        "row_norms": list(mode.norms),
        "raw": _effect(mode.raw),
        "centred": _effect(mode.centred),
        "p": mode.p,
        "least_p": mode.least,
        "random_initialisations": None if mode.starts is None else list(mode.starts),
        "beyond_class_mean_images": _test(mode.beyond_images),
        "over_standard_model": _test(mode.over_standard),
    }


def _effect(effect: Effect | None) -> dict[str, Any] | None:
    if effect is None:
        return None
    return {
        "test": _test(effect.test),
        "cophenetic_correlation": effect.cophenetic,
        "adjusted_rand_index": effect.rand_index,
        "cosines": _matrix(effect.similarities),
        "linkage": _matrix(effect.linkage),
    }


def _test(test: Test | None) -> dict[str, Any] | None:
    if test is None:
        return None
    return {
        "statistic": test.statistic,
        "p": test.p,
        "least_p": test.least,
        "partitions": test.seen,
        "exact": test.exact,
    }


def _matrix(matrix: Matrix | None) -> list[list[float]] | None:
    return None if matrix is None else matrix.tolist()
