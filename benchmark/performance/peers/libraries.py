"""Other libraries' linf attacks behind one signature each, at their fastest honest settings.

Images (n, c, h, w) in [0, 1] as float32, labels int64, a model in eval mode whose parameters need no gradient (some
libraries would compute theirs too). All samples go in one batch, without progress bars. A function returns what its
library gives back: the caller judges. Raises ImportError where the library is not installed. A library is imported in
its first call, which takes seconds: warm up before timing.

Neither foolbox nor adv-lib is in `AUTOATTACK`: foolbox 3.3.4 has no APGD, FAB or Square; adv-lib 0.2.8 has APGD and
FAB one by one, but no Square and no ensemble.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn


class Ensemble(Protocol):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int) -> Tensor: ...


class Restarted(Protocol):
    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int, steps: int, restarts: int
    ) -> Tensor: ...


UPSTREAM_BATCH = 250
"""The default of `run_standard_evaluation`, upstream's and RobustBench's."""

UPSTREAM_STEPS = 100


def pyautoattack(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int) -> Tensor:
    """AutoAttack standard by the reference implementation, all samples in one batch."""
    return _pyautoattack(model, x, y, eps, seed=seed, batch_size=len(x))


def upstream_settings(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int) -> Tensor:
    """The same in upstream's batches; no different up to 250 samples."""
    return _pyautoattack(model, x, y, eps, seed=seed, batch_size=UPSTREAM_BATCH)


def _pyautoattack(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int, batch_size: int) -> Tensor:
    from pyautoattack import AutoAttack

    with _seeded(seed):
        attack = AutoAttack(model, norm="Linf", eps=eps, version="standard", seed=seed, device=x.device)
        targets = min(attack.fab.n_target_classes, _classes(model, x) - 1)
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
        x_adv: Tensor
        x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=batch_size)
    return x_adv


def torchattacks_autoattack(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int) -> Tensor:
    """AutoAttack `standard` as torchattacks ships it: APGD, targeted APGD and FAB take 10 steps, not upstream's 100."""
    from torchattacks import AutoAttack

    with _seeded(seed):
        attack = AutoAttack(model, eps=eps, version="standard", n_classes=_classes(model, x), seed=seed)
        x_adv: Tensor = attack(x, y)
    return x_adv.detach()  # it hangs on to the graph


def torchattacks_100_steps(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int) -> Tensor:
    """The same with upstream's 100 steps, which its constructor does not offer: comparable work."""
    from torchattacks import AutoAttack

    with _seeded(seed):
        attack = AutoAttack(model, eps=eps, version="standard", n_classes=_classes(model, x), seed=seed)
        for member in attack._autoattack.attacks:
            if hasattr(member, "steps"):  # all but Square, whose 5000 queries are upstream's
                member.steps = UPSTREAM_STEPS
        x_adv: Tensor = attack(x, y)
    return x_adv.detach()


def art_autoattack(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int) -> Tensor:
    """ART's own ensemble: APGD on CE and on DLR with 5 restarts each, DeepFool, Square with 5; nothing targeted."""
    from art.attacks.evasion import AutoAttack

    with _seeded(seed):
        attack = AutoAttack(_art_classifier(model, x), norm=np.inf, eps=eps, batch_size=len(x))
        for member in attack.attacks:
            member.set_params(batch_size=len(x), verbose=False)  # Square is not given the batch size, none the silence
        x_adv = attack.generate(x.cpu().numpy(), y.cpu().numpy())
    return torch.from_numpy(x_adv).to(x)


def torchattacks_pgd(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int, steps: int, restarts: int
) -> Tensor:
    """No restarts of its own."""
    from torchattacks import PGD as LinfPGD

    with _seeded(seed):
        attack = LinfPGD(model, eps=eps, alpha=eps / 4, steps=steps, random_start=True)
        return _restarted(attack, model, x, y, restarts)


def foolbox_pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int, steps: int, restarts: int) -> Tensor:
    """Not by `.repeat(restarts)`, which attacks every sample in every restart."""
    from foolbox.attacks import LinfPGD
    from foolbox.criteria import Misclassification
    from foolbox.models.pytorch import PyTorchModel

    with _seeded(seed):
        wrapped = PyTorchModel(model, bounds=(0, 1), device=x.device)
        attack = LinfPGD(abs_stepsize=eps / 4, steps=steps, random_start=True)

        def once(images: Tensor, labels: Tensor) -> Tensor:
            x_adv: Tensor = attack.run(wrapped, images, Misclassification(labels), epsilon=eps)
            return x_adv

        return _restarted(once, model, x, y, restarts)


def art_pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int, steps: int, restarts: int) -> Tensor:
    """Its own restarts, each on every sample: it has no early stopping."""
    from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_pytorch import (
        ProjectedGradientDescentPyTorch,
    )

    with _seeded(seed):
        attack = ProjectedGradientDescentPyTorch(
            _art_classifier(model, x),
            norm=np.inf,
            eps=eps,
            eps_step=eps / 4,
            max_iter=steps,
            num_random_init=restarts,
            batch_size=len(x),
            verbose=False,
        )
        x_adv = attack.generate(x.cpu().numpy(), y.cpu().numpy())
    return torch.from_numpy(x_adv).to(x)


def adv_lib_pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, seed: int, steps: int, restarts: int) -> Tensor:
    """Later restarts attack what stands. It judges every iterate but the last: `steps` gradients, one update fewer."""
    from adv_lib.attacks import pgd_linf

    with _seeded(seed):
        x_adv: Tensor = pgd_linf(model, x, y, eps, steps=steps, restarts=restarts, absolute_step_size=eps / 4)
    return x_adv


AUTOATTACK: dict[str, Ensemble] = {
    "pyautoattack": pyautoattack,
    "upstream-settings": upstream_settings,
    "torchattacks": torchattacks_autoattack,
    "torchattacks-100-steps": torchattacks_100_steps,
    "art": art_autoattack,
}

PGD: dict[str, Restarted] = {
    "torchattacks": torchattacks_pgd,
    "foolbox": foolbox_pgd,
    "art": art_pgd,
    "adv_lib": adv_lib_pgd,
}


def _restarted(
    attack: Callable[[Tensor, Tensor], Tensor], model: nn.Module, x: Tensor, y: Tensor, restarts: int
) -> Tensor:
    """Restarts for a library that has none worth having: each attacks what still stands."""
    x_adv, standing = x.clone(), torch.arange(len(x), device=x.device)
    for _ in range(restarts):
        found = attack(x[standing], y[standing])
        with torch.no_grad():
            broken = model(found).argmax(dim=1) != y[standing]
        x_adv[standing[broken]] = found[broken]
        standing = standing[~broken]
        if not len(standing):
            break
    return x_adv


def _art_classifier(model: nn.Module, x: Tensor) -> Any:
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=_classes(model, x),
        clip_values=(0.0, 1.0),
        device_type="gpu" if x.is_cuda else "cpu",
    )


@torch.no_grad()
def _classes(model: nn.Module, x: Tensor) -> int:
    logits: Tensor = model(x[:1])
    return logits.shape[1]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's and numpy's global generators, the only ones that most libraries use, and put them back."""
    state = np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)
