"""Weight files: safetensors and a JSON card beside them, checked by sha256; nothing is ever unpickled."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from model_zoo.adapter import FeatureExtractor, LogitsModel, channels_last
from model_zoo.architectures import build
from model_zoo.errors import ModelError
from model_zoo.files import write_whole
from model_zoo.kmeans import KMeansClassifier
from model_zoo.learned_map import LearnedMap, LearnedMapClassifier
from model_zoo.magnet import MagnetClassifier

Kind = Literal["logits", "kmeans", "magnet", "learned-map"]


class ModelCard(BaseModel):
    """What is known of a weight file: how to rebuild the model, and how it was trained.

    Accuracies are fractions; `clean_accuracy` is on `clean_samples` test images, `validation_accuracy` on
    the held-out training images. `nearest` is D of the clustering classifiers, None for all clusters, and
    `fuzzifier` m of fuzzy c-means, None for the Gaussian kernel. `notes` are sentences that whoever
    reads the card's numbers must know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str
    kind: Kind
    architecture: str | None = None
    input_shape: tuple[int, int, int]
    num_classes: int = Field(ge=2)
    clusters: int | None = None
    variance: float | None = None
    nearest: int | None = None
    fuzzifier: float | None = None
    trained_head: str | None = None
    recipe: str
    settings: dict[str, Any]
    command: str
    dataset: str
    data_sha256: str
    seed: int
    minutes: float
    machine: str
    versions: dict[str, str]
    validation_accuracy: float
    clean_accuracy: float | None = None
    clean_samples: int | None = None
    notes: tuple[str, ...] = ()
    sha256: str

    @property
    def identity(self) -> str:
        """sha256 over everything that makes the classifier: the weights and what the card adds to rebuild it."""
        parts = self.model_dump(
            mode="json",
            include={"sha256", "kind", "architecture", "input_shape", "num_classes", "variance", "nearest"},
        )
        if self.fuzzifier is not None:  # a card without one keeps the identity it had before there were any
            parts["fuzzifier"] = self.fuzzifier
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def card_path(weights: Path) -> Path:
    return weights.with_suffix(".json")


def save_model(path: Path, model: nn.Module, card: dict[str, Any]) -> ModelCard:
    """Write the weights and the card beside them; `card` holds what the model itself does not know.

    Centroids in pixel space that float16 holds exactly are written as that, and come back as float32.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if isinstance(model, KMeansClassifier) and torch.equal(tensors["centroids"].half().float(), tensors["centroids"]):
        tensors["centroids"] = tensors["centroids"].half()
    payload = save_tensors(tensors)
    known: dict[str, Any] = {"sha256": hashlib.sha256(payload).hexdigest()}
    if isinstance(model, KMeansClassifier):
        known |= {"kind": "kmeans", "clusters": len(model.centroids), "variance": model.variance}
    elif isinstance(model, MagnetClassifier):
        known |= {
            "kind": "magnet",
            "clusters": len(model.centroids),
            "variance": model.variance,
            "nearest": model.nearest,
            "fuzzifier": model.fuzzifier,
        }
    elif isinstance(model, LearnedMapClassifier):
        known |= {"kind": "learned-map", "clusters": len(model.centroids), "variance": model.variance}
    elif isinstance(model, LogitsModel):
        known |= {"kind": "logits"}
    else:
        raise TypeError(f"cannot save a {type(model).__name__}")
    checked = ModelCard(**(card | known))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, payload)
    write_whole(card_path(path), (checked.model_dump_json(indent=2) + "\n").encode())
    return checked


def read_card(weights: Path) -> ModelCard:
    """The card beside a weight file; ModelError names the file and the field that is wrong."""
    path = card_path(weights)
    try:
        return ModelCard.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        missing = "" if weights.exists() else f"weight file {weights} is missing, and so is its "
        raise ModelError(
            f"{missing}model card {path}{'' if missing else ' is missing (it lies beside the weights)'}"
        ) from None
    except OSError as error:
        raise ModelError(f"model card {path} cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"model card {path} is not JSON: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelError(f"model card {path}: {where}: {first['msg']}") from None


def load_model(weights: Path, device: torch.device) -> tuple[nn.Module, ModelCard]:
    """Rebuild a model from a weight file and its card.

    Raises ModelError for a file that is missing, truncated, not safetensors, of another checksum than its
    card says, or whose tensors do not fit the architecture.
    """
    card = read_card(weights)
    try:
        payload = weights.read_bytes()
    except OSError as error:
        raise ModelError(f"weight file {weights} cannot be read: {error.strerror}") from None
    try:
        tensors = load_tensors(payload)
    except SafetensorError as error:
        raise ModelError(f"weight file {weights} is truncated or not safetensors: {error}") from None
    actual = hashlib.sha256(payload).hexdigest()
    if actual != card.sha256:
        raise ModelError(f"weight file {weights} has sha256 {actual[:12]}..., its card says {card.sha256[:12]}...")
    try:
        model = _rebuild(card, tensors)
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"weight file {weights} does not fit its card: {reason}") from None
    return channels_last(model.to(device)).eval().requires_grad_(False), card


def _rebuild(card: ModelCard, tensors: dict[str, Tensor]) -> nn.Module:
    if card.kind == "kmeans":
        return KMeansClassifier(tensors["centroids"], tensors["labels"], card.num_classes, card.variance or 0.5)
    channels = card.input_shape[0]
    placeholder = [0.0] * channels, [1.0] * channels
    network = build(card.architecture or "", channels, card.num_classes)
    model: nn.Module
    if card.kind == "logits":
        model = LogitsModel(network, *placeholder)
    elif card.kind == "learned-map":
        model = LearnedMapClassifier(
            FeatureExtractor(network, *placeholder),
            tensors["centroids"],
            tensors["labels"],
            card.variance or 0.0,
            LearnedMap(tensors["labels"], card.num_classes),
        )
    else:
        model = MagnetClassifier(
            FeatureExtractor(network, *placeholder),
            tensors["centroids"],
            tensors["labels"],
            card.variance or 0.0,
            card.num_classes,
            nearest=card.nearest,
            fuzzifier=card.fuzzifier,
        )
    model.load_state_dict(tensors)
    return model
