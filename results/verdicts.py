"""A published number held against measured ones: a verdict, and the evidence it rests on.

Two numbers differ beyond sampling error where the interval of their difference leaves 0 out (Newcombe 1998, method 10,
from both Wilson intervals; a number whose n is not stated counts as exact). On evidence that agrees with the claim in
data set, architecture, norm and eps:

- refuted: the attack of the claim, here, leaves less than claimed; or it was not run, and another leaves less;
- weaker protocol: the attack of the claim leaves what is claimed, or the authors' own weights are measured, and a
  stronger attack leaves less;
- upheld: AutoAttack standard, or an exact verifier, leaves no less than claimed. Where nothing so strong was run, an
  attack that agrees is no verdict: not measured;
- a robust accuracy of at most 10 % says that nothing is robust: upheld where as little stands here, higher than
  published where more does, refuted where more is proven;
- a clean accuracy is upheld, or higher or lower than published.

Where the source states no eps, ours decides how strong the claim's own attack is: it refutes nothing.

A smaller eps is evidence for a larger one where less than claimed already stands in it. What is graded F is no number
of the model and gives no verdict; what is graded D may be too high, and can refute but not uphold, nor say "higher".
Neither can a measurement uphold a number inside its interval where that reaches further than TELLS: so few images would
agree with almost anything.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from results.aggregate import Proportion
from results.claims import Paper
from results.evidence import LABELS, PAPERS, Evidence, Figure, label, told
from results.matching import (
    AT_LEAST,
    STRONG,
    WEAK,
    differences,
    exceeds,
    least,
    order,
    relevant,
    same_attack,
    strongest_of,
)
from results.notes import show_eps
from results.paired import pair
from results.published import Number
from results.trust import Grade

_ALPHA = 0.05
TELLS = 0.1
"""How far the 95 % interval of what upholds a claim may reach: 10 points, which takes about 100 images."""


class Ruling(StrEnum):
    """What is said of a published number."""

    UPHELD = "upheld"
    REFUTED = "refuted"
    WEAKER = "weaker protocol"
    HIGHER = "higher than published"
    LOWER = "lower than published"
    NOT_COMPARABLE = "not comparable"
    NOT_MEASURED = "not measured"


FAILS = frozenset({Ruling.REFUTED, Ruling.WEAKER})
UNDECIDED = frozenset({Ruling.NOT_COMPARABLE, Ruling.NOT_MEASURED})


@dataclass(frozen=True)
class Gap:
    """A weak and a strong attack on the same recipe, on other data; `seen`: the strong one leaves less beyond error.

    `p` is of the exact McNemar test where both were judged sample by sample, else None.
    """

    seen: bool
    weak: Figure
    strong: Figure
    evidence: Evidence
    p: float | None


@dataclass(frozen=True)
class Judgement:
    """A ruling on a number. `measured` is its counterpart here, `strongest` what leaves least beside it.

    `differs` says what keeps both from being compared; `gap` whether other data show the same pattern.
    """

    number: Number
    ruling: Ruling
    because: str
    evidence: Evidence | None = None
    measured: Proportion | None = None
    strongest: Figure | None = None
    differs: tuple[str, ...] = ()
    gap: Gap | None = None


@dataclass(frozen=True)
class Held:
    """What was held against what: `papers` by name, `runs` the folders, none where what ships was taken.

    `whole` lists RobustBench's rows one by one.
    """

    judgements: tuple[Judgement, ...]
    papers: Mapping[str, Paper]
    runs: tuple[str, ...] = ()
    whole: bool = False

    def of(self, paper: str) -> tuple[Judgement, ...]:
        """The judgements on one source's numbers."""
        return tuple(one for one in self.judgements if one.number.paper == paper)

    @property
    def failed(self) -> bool:
        """Whether a claim is refuted, or rests on a weaker protocol."""
        return any(one.ruling in FAILS for one in self.judgements)


def judge(number: Number, measured: Sequence[Evidence]) -> Judgement:
    """The verdict on a number, from all that is measured of the models that stand for the claim's."""
    gap = _gap(number, measured) if number.quantity in WEAK and number.least is not None else None
    pieces = [piece for piece in measured if (piece.clean if number.quantity == "clean" else piece.figures)]
    if not pieces:
        return Judgement(number, Ruling.NOT_MEASURED, f"no measurement of {_subject(number)}", gap=gap)
    models = {piece.model for piece in pieces}
    pieces.sort(key=lambda piece: order(number, piece, models))
    comparable = [_decide(number, piece, gap) for piece in pieces if not differences(number, piece)]
    if comparable:
        return min(comparable, key=_severity)
    return _elsewhere(number, pieces[0], gap)


def _severity(one: Judgement) -> int:
    """Of several measurements under the claim's conditions, the one that says the worst of it counts."""
    if one.ruling is Ruling.REFUTED and one.measured is None:
        return 2
    return {Ruling.REFUTED: 0, Ruling.WEAKER: 1, Ruling.NOT_MEASURED: 5, Ruling.UPHELD: 4}.get(one.ruling, 3)


def _decide(number: Number, piece: Evidence, gap: Gap | None) -> Judgement:
    """On evidence under the claim's conditions."""
    if piece.trust is Grade.F:
        return Judgement(number, Ruling.NOT_MEASURED, _distrusted(piece), piece, gap=gap)
    if number.quantity == "clean":
        return _clean(number, piece)
    same = same_attack(piece, number.quantity)
    return _promise(number, piece, same, gap) if number.least is not None else _nothing(number, piece, same)


def _elsewhere(number: Number, piece: Evidence, gap: Gap | None) -> Judgement:
    """On evidence under other conditions: no verdict, and what differs."""
    differs = differences(number, piece)
    because = f"other {', '.join(differs)}"
    if number.quantity == "clean":
        return Judgement(number, Ruling.NOT_COMPARABLE, because, piece, piece.clean, None, differs)
    same, told_of = same_attack(piece, number.quantity), relevant(number, piece)
    if not told_of:
        return _lacking(number, piece, gap)
    shown = same or min(told_of, key=least)
    strongest = strongest_of(piece, shown) or shown
    share = shown.share if same else None
    return Judgement(number, Ruling.NOT_COMPARABLE, because, piece, share, strongest, differs, gap)


def _clean(number: Number, piece: Evidence) -> Judgement:
    share = piece.clean
    assert share is not None
    ruling = Ruling.UPHELD
    if number.least is not None and exceeds(number.least, share):
        ruling = Ruling.LOWER
    elif number.most is not None and exceeds(share, number.most):
        ruling = Ruling.HIGHER
    elif _vague(share, number.least, number.most):
        return Judgement(number, Ruling.NOT_MEASURED, _too_few(share), piece, share)
    because = f"{told(share)} of {share.n:,} test images{_remarks(number, piece, False)}"
    return Judgement(number, ruling, because, piece, share)


def _promise(number: Number, piece: Evidence, same: Figure | None, gap: Gap | None) -> Judgement:
    """A claim that so many samples stand."""
    promised = number.least
    assert promised is not None
    strongest = strongest_of(piece, same)
    bounds = [share for share in (piece.upper, strongest.share if strongest else None) if share is not None]
    worst = min(bounds, key=lambda share: share.value, default=None)
    own = f"{label(same)} leaves {told(same.share)}" if same else ""
    stronger = f"{label(strongest)} leaves {told(strongest.share)}" if strongest else ""
    if strongest and worst and worst.value < strongest.share.value:
        stronger += f", all attacks together {told(worst)}"
    by_own = same is not None and exceeds(promised, same.share) and not number.assumed
    if by_own:
        ruling, because = Ruling.REFUTED, f"the same attack falls short: {own}"
        because += f"; {stronger}" if strongest and same and strongest.share.value < same.share.value else ""
    elif worst is not None and exceeds(promised, worst):
        if same is None and not piece.authors:
            ruling, because = Ruling.REFUTED, f"{stronger}; {LABELS[number.quantity]} itself was not run"
        else:
            agrees = "; the claim's own attack agrees: " if same else ""
            agrees = "; the claim's own attack, at an eps of ours: " if number.assumed else agrees
            ruling, because = Ruling.WEAKER, f"{stronger}{agrees}{own}"
    elif any(figure.kind in STRONG for figure in piece.figures):
        agrees = "; ".join(part for part in (stronger, own) if part)
        against = (
            _distrusted(piece)
            if piece.trust is Grade.D
            else _too_few(worst)
            if worst and _vague(worst, promised)
            else ""
        )
        if against:
            measured = same.share if same else None
            because = f"{agrees}, but {against}"
            return Judgement(number, Ruling.NOT_MEASURED, because, piece, measured, strongest, (), gap)
        if same and strongest and strongest.share.value > same.share.value:
            stronger, strongest = "", None
        ruling, because = Ruling.UPHELD, "; ".join(part for part in (stronger, own) if part)
    else:
        return _lacking(number, piece, gap)
    because += _remarks(number, piece, True)
    return Judgement(number, ruling, because, piece, same.share if same else None, strongest, (), gap)


def _nothing(number: Number, piece: Evidence, same: Figure | None) -> Judgement:
    """A claim that next to nothing stands."""
    limit = number.most
    assert limit is not None
    lowest = min(piece.figures, key=least)
    worst = piece.upper if piece.upper is not None and piece.upper.value < lowest.share.value else lowest.share
    because = f"{label(lowest)} leaves {told(lowest.share)}"
    if piece.lower is not None and exceeds(piece.lower, limit):
        ruling, because = Ruling.REFUTED, f"{told(piece.lower)} are proven to stand"
    elif not exceeds(worst, limit):
        ruling = Ruling.UPHELD
        if _vague(worst, limit):
            ruling, because = Ruling.NOT_MEASURED, f"{because}, but {_too_few(worst)}"
    elif relevant(number, piece) and piece.trust is Grade.D:
        ruling, because = Ruling.NOT_MEASURED, f"{because}, but {_distrusted(piece)}"
    elif relevant(number, piece):
        ruling, because = Ruling.HIGHER, f"measured higher: {because}"
    else:
        return _lacking(number, piece, None)
    because += _remarks(number, piece, True)
    return Judgement(number, ruling, because, piece, same.share if same else None, lowest)


def _distrusted(piece: Evidence) -> str:
    meaning = "is no number of this model" if piece.trust is Grade.F else "may be too high"
    return f"what is measured {meaning}: trust {piece.trust}, bench report says why"


def _vague(share: Proportion, *bounds: Proportion | None) -> bool:
    """Whether an interval too wide to tell holds one of these numbers."""
    wide = max(share.value - share.low, share.high - share.value) > TELLS
    return wide and any(bound is not None and share.low <= bound.value <= share.high for bound in bounds)


def _too_few(share: Proportion) -> str:
    return f"that is too far from certain to uphold a number, on {share.n:,} of the test images: {told(share)}"


def _lacking(number: Number, piece: Evidence, gap: Gap | None) -> Judgement:
    """No verdict, for want of an attack."""
    had = ", ".join(dict.fromkeys(label(figure) for figure in piece.figures))
    same = same_attack(piece, number.quantity)
    if same is not None:
        because = f"{label(same)} leaves {told(same.share)}, but no stronger attack was run beside it: add autoattack"
    else:
        because = f"{_subject(number)} was attacked, but not by {LABELS[number.quantity]} or anything stronger: {had}"
    return Judgement(number, Ruling.NOT_MEASURED, because, piece, same.share if same else None, None, (), gap)


def _gap(number: Number, measured: Iterable[Evidence]) -> Gap | None:
    """The claim's attack against the strongest one, on other data at the claim's eps."""
    found = []
    for piece in measured:
        if piece.dataset == number.dataset or piece.norm != number.norm or number.eps is None:
            continue
        if piece.trust is Grade.F:
            continue
        weak = same_attack(piece, number.quantity)
        if abs(piece.eps - number.eps) > 1e-9 or weak is None:
            continue
        strong = strongest_of(piece, weak, (*AT_LEAST[number.quantity], weak.kind))
        if strong is not None:
            found.append((piece, weak, strong))
    if not found:
        return None
    piece, weak, strong = min(
        found,
        key=lambda one: (
            number.nearest is not None and one[0].nearest != number.nearest,
            one[1].head != PAPERS,
            one[2].kind not in STRONG,
            -one[0].n,
        ),
    )
    if weak.stands and strong.stands and weak.stands.keys() == strong.stands.keys():
        paired = pair(strong.stands, weak.stands)
        return Gap(paired.lost > paired.kept and paired.p < _ALPHA, weak, strong, piece, paired.p)
    return Gap(exceeds(weak.share, strong.share), weak, strong, piece, None)


def _remarks(number: Number, piece: Evidence, attacked: bool) -> str:
    """What a reader must know beside the numbers."""
    parts = [number.remark] if attacked and number.remark else []
    if attacked and number.eps is not None and piece.eps < number.eps - 1e-9:
        parts.append(f"already at {piece.norm} {show_eps(piece.eps)}")
    parts += [piece.remark] if piece.remark else []
    return "".join(f"; {part}" for part in parts)


def _subject(number: Number) -> str:
    return number.model + (f" with D = {number.nearest}" if number.nearest else "")
