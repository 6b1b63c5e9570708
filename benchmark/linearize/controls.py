"""What a clustering effect is held against: random initialisations, class-mean images, the standard model."""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from sklearn.cluster import KMeans
from torch import Tensor, nn

from attacks.contract import EmbeddingClassifier, LinearHeadClassifier
from benchmark.datasets import Dataset
from model_zoo.architectures import build
from model_zoo.centroids import CentroidClassifier
from model_zoo.kmeans import KMeansClassifier
from model_zoo.learned_map import LearnedMap, LearnedMapClassifier
from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes.cluster_index import all_features
from model_zoo.registry import LoadedModel, load, zoo_cards
from model_zoo.weights import ModelCard

STARTS = 39
"""Random initialisations: a mode that exceeds all 39 has p = 1/40, which is enough after a correction for two modes."""
IMAGES = 2000
"""First images of the data set, for features: enough for class means and for k-means in each class."""
STANDARD = "nominal"
"""Recipe of the standard model."""


class NoControl(Exception):
    """Why a control cannot be had; the analysis goes on and says so."""


def random_start(loaded: LoadedModel, dataset: Dataset, seed: int) -> nn.Module:
    """The same architecture before any training; NoControl where it cannot be made.

    A clustering classifier gets a network with random weights and k-means of its features anew, as many clusters a
    class as it has. k-means in pixel space has no network: its start is as many random images of each class, which is
    where its iterations set out from.
    """
    model = loaded.model
    if isinstance(model, KMeansClassifier):
        return _random_images(model, dataset, seed)
    if isinstance(model, CentroidClassifier):
        network = copy.deepcopy(model.backbone)
        _initialise(network, loaded.card, seed)
        return _clustered(model, network, dataset, seed)
    if isinstance(model, EmbeddingClassifier):  # its centroids are trained, and no layer draws them anew
        raise NoControl(f"how a {type(model).__name__} begins is not known")
    fresh = copy.deepcopy(model)
    _initialise(fresh, loaded.card, seed)
    return fresh


def class_means(x: Float[Tensor, "n *image"], y: Int[Tensor, " n"], num_classes: int) -> Float[Tensor, "c d"] | None:
    """The mean of each class's images or features in float64; None where a class has none."""
    counts = torch.bincount(y, minlength=num_classes)
    if len(counts) > num_classes or bool((counts == 0).any()):
        return None
    flat = x.flatten(1).double()
    return torch.zeros(num_classes, flat.shape[1], dtype=torch.float64).index_add_(0, y, flat) / counts[:, None]


def features_of(model: nn.Module, dataset: Dataset) -> Float[Tensor, "n d"] | None:
    """The true features of the first images: the backbone's, or what the last linear layer is given; None without."""
    x = dataset.x[:IMAGES]
    known = isinstance(model, CentroidClassifier | EmbeddingClassifier)
    known |= isinstance(model, LinearHeadClassifier) and model.last_layer is not None
    backbone = getattr(model, "backbone", None) if known else None  # a user's may be given other than the images
    if isinstance(backbone, nn.Module):
        return all_features(backbone, x, torch.device("cpu"))
    layers = [part for part in model.modules() if isinstance(part, nn.Linear)]
    if not layers:
        return None
    seen: list[Tensor] = []
    hook = layers[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    try:
        with torch.no_grad():
            shapes = [model(part).shape for part in x.split(250)]
    finally:
        hook.remove()
    whole = len(seen) == len(shapes) and all(one.ndim == 2 for one in seen) and shapes[0][1] == layers[-1].out_features
    return torch.cat(seen).float() if whole else None


def standard_of(loaded: LoadedModel, given: Sequence[LoadedModel]) -> LoadedModel | None:
    """The standard model of the same architecture and data, batch norm unfolded; None for a standard model itself.

    Sought among the models `given`, then in the zoo; of several seeds the model's own, else the least. NoControl where
    there is none.
    """
    card = loaded.card
    if card is None:
        raise NoControl("standard model: no card says which architecture and data it has; name one by --standard")
    if card.architecture is None:
        raise NoControl("standard model: it has no network")
    if card.recipe == STANDARD:
        return None

    def rank(other: ModelCard) -> tuple[bool, int]:
        return other.seed != card.seed, other.seed

    def fits(other: ModelCard) -> bool:
        return (other.recipe, other.architecture, other.dataset) == (STANDARD, card.architecture, card.dataset)

    among = [(rank(one.card), one) for one in given if one.card is not None and fits(one.card)]
    if among:
        return min(among, key=lambda pair: pair[0])[1]
    shipped = [(rank(other), name) for name, other in zoo_cards().items() if fits(other)]
    if shipped:
        return load(min(shipped)[1], fold=False)
    raise NoControl(
        f"standard model: neither the models named nor the zoo have a {card.architecture} trained by {STANDARD} on "
        f"{card.dataset}; name one by --standard"
    )


def _initialise(module: nn.Module, card: ModelCard | None, seed: int) -> None:
    """Give the networks in a module random weights: the architecture's own, or as each layer's class draws them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = getattr(module, "network", None)
        if card is not None and card.architecture is not None and isinstance(network, nn.Module):
            fresh = build(card.architecture, card.input_shape[0], card.num_classes, card.input_shape[1:])
            weights = fresh.state_dict()
            if {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in network.state_dict().items()}:
                network.load_state_dict(weights)
                return
        before = torch.random.get_rng_state()
        for name, part in module.named_modules():
            reset, what = getattr(part, "reset_parameters", None), f"{name or 'the model'} ({type(part).__name__})"
            own = list(part.parameters(recurse=False))
            if callable(reset):
                for parameter in own:
                    parameter.detach().fill_(torch.nan)
                reset()
                if any(bool(parameter.isnan().any()) for parameter in own):  # of a subclass, or under a weight norm
                    raise NoControl(f"reset_parameters of {what} leaves some as they are")
            elif own:
                raise NoControl(f"{what} has no reset_parameters")
        if torch.equal(before, torch.random.get_rng_state()):  # of buffers, say: all would be the model itself
            raise NoControl("it has no weights that are drawn at random")


def _clustered(model: CentroidClassifier, backbone: nn.Module, dataset: Dataset, seed: int) -> nn.Module:
    features = all_features(backbone, dataset.x[:IMAGES], torch.device("cpu"))
    y = dataset.y[:IMAGES]
    centroids, labels = [], []
    for c, clusters in enumerate(torch.bincount(model.labels, minlength=model.num_classes).tolist()):
        members = features[y == c]
        if len(members) < clusters:
            raise NoControl(f"class {c} has {len(members)} images for {clusters} clusters")
        if clusters:
            fitted = KMeans(clusters, n_init=1, random_state=seed).fit(members.numpy())
            centroids.append(torch.from_numpy(fitted.cluster_centers_).float())
            labels += [c] * clusters
    found, of = torch.cat(centroids), torch.tensor(labels)
    # sigma^2 scales all rows alike
    if isinstance(model, LearnedMapClassifier):
        learned = LearnedMap(of, model.num_classes)
        return LearnedMapClassifier(backbone, found, of, 1.0, learned).requires_grad_(False)
    if isinstance(model, MagnetClassifier):
        return MagnetClassifier(backbone, found, of, 1.0, model.num_classes)
    raise NoControl(f"how a {type(model).__name__} begins is not known")


def _random_images(model: KMeansClassifier, dataset: Dataset, seed: int) -> KMeansClassifier:
    random = torch.Generator().manual_seed(seed)
    chosen = []
    for c, clusters in enumerate(torch.bincount(model.labels, minlength=model.num_classes).tolist()):
        members = torch.nonzero(dataset.y == c).flatten()
        if len(members) < clusters:
            raise NoControl(f"class {c} has {len(members)} images for {clusters} clusters")
        chosen.append(members[torch.randperm(len(members), generator=random)[:clusters]])
    places = torch.cat(chosen)
    return KMeansClassifier(dataset.x[places], dataset.y[places], model.num_classes, model.variance)
