"""What a check found about a number, and the words in which a person is told."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class Severity(StrEnum):
    """What a finding does to a number; there is nothing in between, and nothing is added up.

    VOID: the number is not one of this model. FLATTERS: the classifier's robust accuracy may be too high.
    BLIND: the attack (or every attack through the head) could not see where to go, so that its number is no evidence;
    others may stand in for it. NOTE: good to know.
    """

    VOID = "void"
    FLATTERS = "flatters"
    BLIND = "blind"
    NOTE = "note"


class Finding(BaseModel):
    """One check's answer about `model` as attacked, under `attack` (None: whatever the attack).

    `check` is a name of CHECKS; `count` of `n` samples or images are the evidence, None where a finding has no such
    number; `seen` says what was seen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    check: str
    severity: Severity
    model: str
    attack: str | None = None
    count: int | None = Field(default=None, ge=0)
    n: int | None = Field(default=None, ge=0)
    seen: str

    @property
    def sentence(self) -> str:
        """What was seen, why it matters, and what to do."""
        check = CHECKS.get(self.check)
        under = f"{self.attack}: " if self.attack else ""
        return f"{under}{self.seen}" + (f". {check.why}. {check.remedy}." if check and check.why else ".")


@dataclass(frozen=True)
class Check:
    """Why what a check sees makes a number untrustworthy, and what to do about it."""

    why: str = ""
    remedy: str = ""


NOT_CHECKED = "not-checked"
CHECKS: dict[str, Check] = {
    "training-mode": Check(
        "Batch norm and dropout make another model of it in training mode, and the number is of eval mode alone",
        "Call .eval() before handing it over",
    ),
    "normalisation-missing": Check(
        "The network was trained on normalised inputs, and what is attacked is not what was trained",
        "Put the normalisation inside the model: model_zoo.LogitsModel(network, mean, std)",
    ),
    "below-card": Check(
        "The model here is not the one that the card measured, or sees other inputs",
        "Look for the data set, the normalisation and the weights of the card",
    ),
    "other-images": Check(
        "A model is not made for images that it was not trained on, and its numbers on them say little of it",
        "Give the data set of its card by --dataset, unless that is what is to be measured",
    ),
    "guessing": Check(
        "Answering one class always does as well, and no attack moves an answer that does not look",
        "Look for the labels' order and the normalisation",
    ),
    "probabilities": Check(
        "Cross entropy takes a softmax of a softmax, which is flat, and rounds to 0 and 1 where the model is sure",
        "Hand over the logits: the logarithm of these outputs",
    ),
    "raw-scores": Check(
        "Fed to a loss as logits they are flat where the model is sure, and robustness shows that is not there",
        "Hand over their logarithm, taken stably (log-sum-exp)",
    ),
    "ties": Check(
        "Outputs that are equal in float32 are saturated: losses cannot tell them apart, and attacks stop or stall",
        "Hand over outputs before what saturates them",
    ),
    "zero-gradients": Check(
        "An attack that follows gradients does not move there, and what it leaves standing is not robust",
        "Attack the layer before what rounds, clamps or saturates, or replace it by a differentiable one (BPDA)",
    ),
    "randomised": Check(
        "A verdict is then one draw: the next pass may break what this one left standing",
        "Evaluate the expectation: make the noise part of the model's average, and attack with autoattack-rand",
    ),
    "batch-dependent": Check(
        "A sample's verdict depends on its neighbours, whom no threat model lets anyone choose",
        "Use statistics of training in eval mode (track_running_stats=True), and no position in the batch",
    ),
    "dynamic": Check(
        "A model that optimises while it answers breaks the gradients of attacks that go through it",
        "Attack through the whole procedure, unrolled, or with an adaptive attack (Croce et al. 2022)",
    ),
    "nearest-mask": Check("The mask cuts gradients to the other clusters", "Attack NAME@...,unmasked in the same run"),
    "published-magnet": Check("Its number shows the masking, not the model", "Attack with magnet100"),
    "denied-claims": Check(
        "The attack took them for broken and left them alone from then on",
        "Attack through the head that judges",
    ),
    "refused-candidates": Check(
        "They break nothing, and the attack lost the samples by proposing them",
        "Project to the ball and the box [0, 1] before handing images back",
    ),
    "reference-warns": Check("AutoAttack itself says that its number may be unreliable", "Follow its advice"),
    "square-beats-white-box": Check(
        "A random search without gradients found what gradients missed: they are masked, and more may be there to find "
        "(AutoAttack's own rule, 0.2 points)",
        "Write an adaptive attack, or look for the part that hides gradients",
    ),
    "noise-beats-white-box": Check(
        "Random points found what gradients missed: they are masked, or the attack hardly moves",
        "Look at the attack's steps and at the part of the model that hides gradients",
    ),
    "transfer-beats-white-box": Check(
        "Images made on another model found what its own gradients missed: they are masked",
        "Write an adaptive attack, or look for the part that hides gradients",
    ),
    "eps-ladder": Check(
        "An image that breaks a sample at a smaller eps is allowed at a larger one: the attack failed, not the model",
        "Attack with more steps and restarts at the larger eps",
    ),
    "stopped-early": Check(
        "The attack ended before its search did, or follows a weaker loss: what it leaves standing is not robust",
        "Give it more steps and restarts, or take autoattack",
    ),
    "tailored-loss": Check(
        "An unusual head is owed a loss of its own (Tramer et al. 2020)",
        "Attack with magnet100 beside autoattack",
    ),
    "square-breaks-more": Check(
        "The gradients of this model hide what a search without them finds (gradient masking)",
        "Write an adaptive attack, or look for the part that hides gradients",
    ),
    "transfer-breaks-more": Check(
        "The gradients of this model hide what another model's gradients find (gradient masking)",
        "Write an adaptive attack, or look for the part that hides gradients",
    ),
    "gradient-masking": Check(  # what older diagnoses call the two above
        "The gradients of this model hide what a search without them, or another model's images, find",
        "Write an adaptive attack, or look for the part that hides gradients",
    ),
    NOT_CHECKED: Check(
        "That nothing is said of training mode, normalisation, randomness and the like means that nobody looked",
        "bench diagnose looks at the models of this run, and so does a new run",
    ),
    "gradients-mislead": Check(
        "Gradients that guide no better than chance make every attack by gradients a random walk",
        "Look for a step, a quantisation or noise in the model; attack what lies before it",
    ),
    "unbounded": Check(
        "Every image is allowed, so none may be left: the attack fails, and does so at a small eps as well",
        "Look for the part that hides gradients",
    ),
    "no-white-box": Check(
        "Nobody looked with the model's gradients, so the number says how weak the attack was",
        "Add autoattack, or pgd20 for a first look",
    ),
    "certificate-contradicted": Check(
        "An attack, the certificate or the judge is wrong, and every number that rests on it",
        "Look at the image and the proof that the run names; do not publish",
    ),
    "note": Check(),
}


@dataclass(frozen=True)
class Told:
    """A flag of a record as a finding: its words with places for numbers, and whom it is about.

    `of_model`: about the model or the head, whatever the attack.
    """

    check: str
    severity: Severity
    words: str
    of_model: bool = False

    def say(self, **numbers: object) -> str:
        """The flag; the one place where its words stand."""
        return self.words.format(**numbers)

    def read(self, flag: str) -> dict[str, str] | None:
        """The numbers of a flag in these words; None for another flag."""
        places = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+?)", re.escape(self.words))
        match = re.fullmatch(rf"(?:[\w.-]+: )?{places}", flag)
        return None if match is None else match.groupdict()


V, F, B, N = Severity.VOID, Severity.FLATTERS, Severity.BLIND, Severity.NOTE

TRAINING = Told(
    "training-mode",
    F,
    "handed over in training mode ({parts} parts), evaluated in eval mode; in training mode {count} of {n} images are "
    "predicted otherwise",
    True,
)
NORMALISATION = Told(
    "normalisation-missing",
    V,
    "with inputs normalised by {how}, {count} of {n} images are classified correctly, as handed over {without}",
    True,
)
CARD = Told("below-card", V, "{count} of {n} images are classified correctly, the model's card says {accuracy} %", True)
OTHER_IMAGES = Told("other-images", N, "trained on {trained}, attacked on images of {dataset}", True)
PROBABILITIES = Told("probabilities", B, "the outputs are probabilities on {count} of {n} images", True)
SCORES = Told(
    "raw-scores",
    B,
    "the outputs are raw scores: none is negative, and on {count} of {n} images some vanish beside the largest in "
    "float32",
    True,
)
UNIT_SCORES = Told("raw-scores", B, "the outputs are raw scores: on {count} of {n} images all lie in [0, 1]", True)
TIES = Told("ties", B, "the largest output is that of several classes on {count} of {n} images", True)
FLAT = Told("zero-gradients", B, "the margin's gradient is zero or not finite at {count} of {n} images", True)
RANDOM = Told("randomised", V, "five passes over the same images differ on {count} of {n} images", True)
BATCH = Told("batch-dependent", V, "the outputs of {count} of {n} images change with the images beside them", True)
DYNAMIC = Told("dynamic", F, "gradients are taken {count} times inside one pass of the model", True)

TOLD: tuple[Told, ...] = (
    TRAINING,
    Told("training-mode", N, "the factory returned a model in training mode; it was evaluated in eval mode", True),
    Told("training-mode", N, "the model was in training mode; it was evaluated in eval mode", True),
    NORMALISATION,
    CARD,
    OTHER_IMAGES,
    PROBABILITIES,
    SCORES,
    UNIT_SCORES,
    TIES,
    FLAT,
    RANDOM,
    BATCH,
    DYNAMIC,
    Told(
        "randomised", V, "two passes over the same images differ: a randomised model, whose verdicts are one draw", True
    ),
    Told("zero-gradients", B, "zero or non-finite gradient at {count} of {n} samples"),
    Told("zero-gradients", B, "zero or non-finite gradient at {count} samples"),
    Told(
        "nearest-mask",
        B,
        "only the {nearest} nearest clusters count, which hides gradients: attack it unmasked as well",
        True,
    ),
    Told("published-magnet", B, "published form of the Magnet attack: hinge and log(. + 1e-8) mask its gradients"),
    Told("denied-claims", B, "{count} successes the attack claimed were denied by the judged head"),
    Told("refused-candidates", B, "{count} candidates lay outside the threat model and were refused"),
    Told("square-beats-white-box", F, "autoattack warns: Square Attack has decreased {what}"),
    Told("reference-warns", B, "autoattack warns: {what}"),
)


def read_flag(flag: str, model: str, attack: str) -> Finding:
    """The finding that a flag of a record of `attack` on `model` tells; a flag without a check is a note."""
    for told in TOLD:
        numbers = told.read(flag)
        if numbers is not None:
            count, n = _number(numbers.get("count")), _number(numbers.get("n"))
            harmless = told is TRAINING and count == 0
            return Finding(
                check=told.check,
                severity=N if harmless else told.severity,
                model=model,
                attack=None if told.of_model else attack,
                count=count,
                n=n,
                seen=flag,
            )
    return Finding(check="note", severity=N, model=model, attack=attack, seen=flag)


def without_repeats(findings: Iterable[Finding]) -> list[Finding]:
    """Of findings of one check about the same model and attack the gravest, with numbers if there is one with them.

    They come in the order of severity.
    """

    def weight(found: Finding) -> tuple[int, bool]:
        return order.index(found.severity), found.count is None

    order = list(Severity)
    kept: dict[tuple[str, str, str | None, str], Finding] = {}
    for found in findings:
        about = (found.check, found.model, found.attack, found.seen if found.check == "note" else "")
        if about not in kept or weight(found) < weight(kept[about]):
            kept[about] = found
    return sorted(kept.values(), key=lambda found: order.index(found.severity))


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
