"""Sentences of an attack's parts are told once, their counts of samples added."""

from results.flags import merged


def test_counts_of_samples_add_up() -> None:
    found = merged(
        [
            "zero or non-finite gradient at 3 of 200 samples",
            "not AutoAttack standard: 165 of 180 samples abandoned as hopeless",
            "zero or non-finite gradient at 4 of 150 samples",
            "not AutoAttack standard: 1 of 20 samples abandoned as hopeless",
        ]
    )
    assert found == [
        "zero or non-finite gradient at 7 of 350 samples",
        "not AutoAttack standard: 166 of 200 samples abandoned as hopeless",
    ]


def test_so_do_candidates_and_successes() -> None:
    flags = ["2 candidates lay outside the threat model and were refused", "5 successes the attack claimed were denied"]
    assert merged([*flags, flags[0]]) == ["4 candidates lay outside the threat model and were refused", flags[1]]


def test_other_numbers_belong_to_the_sentence() -> None:
    flags = ["no certificate is known for D = 4 of 20 nearest clusters", "searched in float32: 12 of 200 images differ"]
    assert merged(flags * 2) == flags
    assert merged(["robust at 2 of 3 eps", "robust at 1 of 3 eps"]) == ["robust at 2 of 3 eps", "robust at 1 of 3 eps"]


def test_nothing_stays_nothing() -> None:
    assert merged([]) == []
