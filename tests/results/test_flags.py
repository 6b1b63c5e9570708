"""Sentences of an attack's parts are told once, their counts of samples added."""

from results.flags import merged

SQUARE = "Square broke {} of {} samples that gradients had left standing"


def test_counts_of_samples_add_up() -> None:
    zero, abandoned = "zero or non-finite gradient at {} of {} samples", "{} of {} samples abandoned as hopeless"
    found = merged([[zero.format(3, 200), abandoned.format(165, 180)], [zero.format(4, 150), abandoned.format(1, 20)]])
    assert found == [zero.format(7, 350), abandoned.format(166, 200)]


def test_a_total_that_lacks_a_part_is_not_told() -> None:
    flags = [[SQUARE.format(1, 170)], [], [SQUARE.format(2, 160)]]
    assert merged(flags) == ["Square broke 3 samples that gradients had left standing"]
    assert merged([[SQUARE.format(1, 170)]]) == [SQUARE.format(1, 170)]


def test_candidates_and_successes_add_up() -> None:
    flags = ["2 candidates lay outside the threat model and were refused", "5 successes the attack claimed were denied"]
    assert merged([flags, flags[:1]]) == ["4 candidates lay outside the threat model and were refused", flags[1]]


def test_other_numbers_belong_to_the_sentence() -> None:
    flags = ["no certificate is known for D = 4 of 20 nearest clusters", "searched in float32: 12 of 200 images differ"]
    assert merged([flags, flags]) == flags
    other = ["robust at 2 of 3 eps", "robust at 1 of 3 eps"]
    assert merged([other, other]) == other


def test_nothing_stays_nothing() -> None:
    assert merged([]) == []
    assert merged([[], []]) == []
