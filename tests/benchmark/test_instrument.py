"""A wrapped model is the model: same bits, whoever else is in the batch; and every pass is counted."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from attacks.contract import ClusteringClassifier
from benchmark.datasets import Dataset, load
from benchmark.instrument import CPU_SHAPE, FixedBatch, instrument
from tests.benchmark.builders import CPU, Threshold, kmeans_for, magnet_for, small_resnet

N = 2 * CPU_SHAPE + 23


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("fashion-mnist")


@pytest.fixture(scope="module")
def few(data: Dataset) -> Dataset:
    return Dataset(data.name, data.x[:N].contiguous(), data.y[:N].contiguous(), 10, data.sha256)


def _many_centroids(few: Dataset) -> nn.Module:
    """As many centroids as images: long sums, where rounding would show."""
    from model_zoo.kmeans import KMeansClassifier

    return KMeansClassifier(few.x, few.y, 10)


MODELS: dict[str, Callable[[Dataset], nn.Module]] = {
    "network": lambda few: small_resnet(),
    "kmeans": kmeans_for,
    "kmeans with many centroids": _many_centroids,
    "magnet": magnet_for,
    "magnet scores": lambda few: magnet_for(few).seen_through("scores"),
}
each_model = pytest.mark.parametrize("kind", MODELS)


def _gradient(model: nn.Module, x: Tensor) -> Tensor:
    """Of a weighted sum of the logits, which no head saturates."""
    x = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad((model(x) * torch.linspace(1.0, 2.0, 10)).sum(), x)
    return gradient


@each_model
def test_outputs_are_the_models_own_on_each_padded_part(kind: str, few: Dataset) -> None:
    model = MODELS[kind](few).eval()
    padded = torch.cat([few.x, torch.zeros(-N % CPU_SHAPE, 1, 28, 28)])
    expected = torch.cat([model(part) for part in padded.split(CPU_SHAPE)])[:N]
    assert torch.equal(instrument(model, CPU)(few.x), expected)


@each_model
def test_outputs_agree_with_the_unwrapped_model(kind: str, few: Dataset) -> None:
    model = MODELS[kind](few).eval()
    assert torch.allclose(instrument(model, CPU)(few.x), model(few.x), rtol=1e-4, atol=1e-4)


@each_model
@pytest.mark.parametrize("n", [1, 2, 7, CPU_SHAPE - 1, CPU_SHAPE, CPU_SHAPE + 1, N])
def test_a_samples_logits_and_gradient_do_not_depend_on_the_batch(kind: str, n: int, few: Dataset) -> None:
    wrapped = instrument(MODELS[kind](few), CPU)
    logits, gradient = wrapped(few.x), _gradient(wrapped, few.x)
    assert bool(gradient.flatten(1).any(dim=1).all())
    order = torch.randperm(N, generator=torch.Generator().manual_seed(n))[:n]
    assert torch.equal(wrapped(few.x[order]), logits[order])
    assert torch.equal(_gradient(wrapped, few.x[order]), gradient[order])


@pytest.mark.parametrize("kind", ["kmeans", "magnet"])
def test_a_samples_distances_do_not_depend_on_the_batch(kind: str, few: Dataset) -> None:
    wrapped = instrument(MODELS[kind](few), CPU)
    assert isinstance(wrapped, ClusteringClassifier)
    distances = wrapped.squared_distances(few.x)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))[:31]
    assert torch.equal(wrapped.squared_distances(few.x[order]), distances[order])


def test_the_gradient_is_that_of_the_model(few: Dataset) -> None:
    model = small_resnet()
    wrapped = instrument(model, CPU)
    assert torch.allclose(_gradient(wrapped, few.x), _gradient(model, few.x), rtol=1e-3, atol=1e-6)


def test_a_closed_form_gradient_comes_through() -> None:
    x = torch.rand(7, 1, 2, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (gradient,) = torch.autograd.grad(instrument(Threshold(), CPU)(x)[:, 1].sum(), x)
    assert torch.equal(gradient, torch.full_like(x, 0.25))


@pytest.mark.parametrize("n", [1, CPU_SHAPE, CPU_SHAPE + 1, N])
def test_passes_of_samples_are_counted_without_the_padding(n: int, few: Dataset) -> None:
    wrapped = instrument(small_resnet(), CPU)
    assert (wrapped.forwards, wrapped.backwards) == (0, 0)
    with torch.no_grad():
        wrapped(few.x[:n])
    assert (wrapped.forwards, wrapped.backwards) == (n, 0)
    _gradient(wrapped, few.x[:n])
    assert (wrapped.forwards, wrapped.backwards) == (2 * n, n)


def test_a_backward_pass_through_some_parts_counts_those_parts(few: Dataset) -> None:
    wrapped = instrument(Threshold(), CPU)
    x = few.x.clone().requires_grad_(True)
    wrapped(x)[: CPU_SHAPE // 2].sum().backward()
    assert wrapped.forwards == N
    assert wrapped.backwards >= CPU_SHAPE // 2


def test_distances_and_their_logits_are_one_pass(few: Dataset) -> None:
    model = kmeans_for(few)
    wrapped = instrument(model, CPU)
    assert isinstance(wrapped, ClusteringClassifier)
    x = few.x.clone().requires_grad_(True)
    logits = wrapped.logits_from_distances(wrapped.squared_distances(x))
    assert isinstance(wrapped, FixedBatch)
    torch.autograd.grad(logits.sum(), x)
    assert (wrapped.forwards, wrapped.backwards) == (N, N)
    assert torch.equal(logits, wrapped(few.x))


@pytest.mark.parametrize("kind", ["kmeans", "magnet"])
def test_a_clustering_classifier_stays_one(kind: str, few: Dataset) -> None:
    model = MODELS[kind](few)
    wrapped = instrument(model, CPU)
    assert isinstance(model, ClusteringClassifier)
    assert isinstance(wrapped, ClusteringClassifier)
    assert torch.equal(wrapped.cluster_labels, model.cluster_labels)
    assert wrapped.variance == model.variance


def test_any_other_classifier_does_not_become_one() -> None:
    assert not isinstance(instrument(small_resnet(), CPU), ClusteringClassifier)


def test_the_wrapped_model_is_in_eval_mode() -> None:
    model = small_resnet().train()
    wrapped = instrument(model, CPU)
    assert not any(part.training for part in wrapped.modules())
