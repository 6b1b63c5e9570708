"""PGD on the Magnet loss: the attack adapted to clustering classifiers."""

import dataclasses

from torch import Tensor

from attacks.contract import AttackResult, Classifier, Outputs, as_clustering
from attacks.losses import magnet, magnet_published
from attacks.pgd import restarted_ascent
from attacks.threat import Threat


def magnet_pgd(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    seed: int,
    sample_ids: Tensor,
    steps: int = 100,
    restarts: int = 10,
    step_size: float | None = None,
    published: bool = False,
    alpha: float = 12.5,
) -> AttackResult:
    """PGD that raises the Magnet loss of the squared distances to the centroids.

    Source: ClusTR section 4.2, "Adaptive Attacks" (100 steps, 10 restarts). Deviation: the loss has no
    hinge and stays in the log domain (`attacks.losses.magnet`), because the paper's form has zero gradient
    wherever the model is confident. `published=True` restores the paper's form with its `alpha` (12.5 for
    CIFAR-10) and flags the result. Distances do not pass through a head, so every head gives the same loss.
    """
    clustering = as_clustering(model)
    if clustering is None:
        raise TypeError("magnet attacks need a clustering classifier: squared distances to labelled centroids")
    labels, variance = clustering.cluster_labels.to(y.device), clustering.variance

    def objective(out: Outputs, y: Tensor) -> Tensor:
        assert out.squared_distances is not None  # a clustering classifier's passes go through its distances
        if published:
            return magnet_published(out.squared_distances, y, labels, variance, alpha)
        return magnet(out.squared_distances, y, labels, variance)

    result = restarted_ascent(
        model,
        objective,
        x,
        y,
        threat,
        seed=seed,
        sample_ids=sample_ids,
        steps=steps,
        restarts=restarts,
        step_size=step_size,
        name="magnet",
    )
    if published:
        masked = "published form of the Magnet attack: hinge and log(. + 1e-8) mask its gradients"
        return dataclasses.replace(result, flags=(masked, *result.flags))
    return result
