"""Adversarial images of training images, made once on a surrogate and kept.

A set depends on what `AdversarialSet` names and on nothing else, and its file is named by the sha256 of that. The
passes are full float32, in parts of a fixed size. Attacks are those of `attacks.transfer`, which an evaluation by
`transfer@attack=...` uses too.

Reading taken: where the surrogate was trained on the data set itself, the attack leaves the true class. The paper
(arXiv 2312.09533) attacks Fashion-MNIST by a network of MNIST, too, whose classes have nothing to do with the true
ones: the attack then leaves what the surrogate predicts on the clean image.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from attacks.threat import Threat
from attacks.transfer import craft
from model_zoo.files import write_whole
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import Progress

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "CLUSTRBENCH_ADVERSARIAL_SETS"
"""The environment variable that names another folder than the default one."""

_PART = 250


@dataclass(frozen=True)
class AdversarialSet:
    """The first `n` training images, attacked on a surrogate under linf; all that their pixels depend on.

    `surrogate` and `data_sha256` are identities by content. `labels` is which class is left, one of
    `attacks.transfer.LABELS`; `step_size` is in input units.
    """

    surrogate: str
    data_sha256: str
    n: int
    attack: str
    labels: str
    eps: float
    step_size: float
    iterations: int
    seed: int

    @property
    def canonical(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @property
    def key(self) -> str:
        """sha256 of the canonical JSON."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()


class _DamagedError(Exception):
    """Why a file is not the set that its name promises."""


def folder() -> Path:
    """Where sets are kept: what the environment variable names, or a folder in the user's cache."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "clustrbench" / "adversarial-sets"


def adversarial_images(
    wanted: AdversarialSet, surrogate: nn.Module, data: TrainingData, device: torch.device, progress: Progress
) -> Float[Tensor, "n c h w"]:
    """The set's images, on the CPU: read where they are kept, made and kept otherwise.

    A file that is damaged is named in a warning and made again, which gives the same images. Raises ValueError where
    the folder cannot be written to.
    """
    path = folder() / f"{wanted.key}.safetensors"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            try:
                return _read(path, wanted)
            except _DamagedError as error:
                logger.warning("adversarial set %s is damaged (%s); it is made again", path, error)
        images = _made(wanted, surrogate, data, device, progress)
        _write(path, wanted, images)
    except OSError as error:
        raise ValueError(
            f"adversarial set {path} cannot be kept: {error.strerror}; name another folder in {FOLDER_VARIABLE}"
        ) from error
    return images


def _made(
    wanted: AdversarialSet, surrogate: nn.Module, data: TrainingData, device: torch.device, progress: Progress
) -> Tensor:
    parts = []
    with _float32(device):
        starts = range(0, wanted.n, _PART)
        for start in progress(starts, f"{wanted.attack}, eps {wanted.eps:.3g}"):
            part = slice(start, min(start + _PART, wanted.n))
            x_adv = craft(
                surrogate,
                data.x[part].to(device),
                data.y[part].to(device),
                Threat("linf", wanted.eps),
                attack=wanted.attack,
                labels=wanted.labels,
                steps=wanted.iterations,
                step_size=wanted.step_size,
                seed=wanted.seed,
                sample_ids=torch.arange(part.start, part.stop),
            )
            parts.append(x_adv.cpu())
    return torch.cat(parts)


@contextlib.contextmanager
def _float32(device: torch.device) -> Iterator[None]:
    """Float32 that is float32: neither autocast nor, on CUDA, TF32, which is torch's default for convolutions."""
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.autocast(device.type, enabled=False), exact:
        yield


def _write(path: Path, wanted: AdversarialSet, images: Tensor) -> None:
    about = json.dumps({"set": wanted.canonical, "sha256": _checksum(images)})  # one entry: their order is random
    payload = save({"x_adv": images.contiguous()}, metadata={"about": about})
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        write_whole(path, payload, temporary)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, wanted: AdversarialSet) -> Tensor:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            about: dict[str, str] = json.loads((file.metadata() or {}).get("about", "{}"))
            images: Tensor = file.get_tensor("x_adv")
    except (SafetensorError, json.JSONDecodeError) as error:
        raise _DamagedError(" ".join(str(error).split())) from None
    if about.get("set") != wanted.canonical:
        raise _DamagedError("it holds another set")
    if about.get("sha256") != _checksum(images):
        raise _DamagedError("its content does not have the checksum it was written with")
    return images


def _checksum(images: Tensor) -> str:
    digest = hashlib.sha256(f"{images.dtype} {tuple(images.shape)}".encode())
    digest.update(images.contiguous().numpy().tobytes())
    return digest.hexdigest()
