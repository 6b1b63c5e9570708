"""Models from outside the zoo: the user's own factory, and RobustBench's zoo by name."""

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import io
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model_zoo.adapter import LogitsModel
from model_zoo.errors import ModelError

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_ROBUSTBENCH = re.compile(r"robustbench:(Linf|L2)/(cifar10|cifar100|imagenet)/([A-Za-z0-9_.-]+)")


def is_factory(name: str) -> bool:
    """Whether a model name has the form package.module:factory."""
    return _FACTORY.fullmatch(name) is not None


def load_factory(name: str, device: torch.device) -> tuple[nn.Module, str, tuple[str, ...]]:
    """Call `package.module:factory`, found on PYTHONPATH or in the working directory.

    Returns the model in eval mode, a checksum of its weights and its source file, and the names of the parts that came
    in training mode.
    """
    module_name, attribute = name.split(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ModelError(f"model {name}: no module named {error.name!r} on the Python path") from None
    except (Exception, SystemExit) as error:  # a script that parses the command line, say
        raise ModelError(f"model {name}: importing {module_name} raised {_told(error)}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ModelError(f"model {name}: {module_name} has no callable {attribute!r}")
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # a factory that initialises at random gives the same model in every process
            model = factory()
    except (Exception, SystemExit) as error:
        raise ModelError(f"model {name}: the factory raised {_told(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {name}: the factory returned {type(model).__name__}, not a torch.nn.Module")
    try:
        training = tuple(part_name for part_name, part in model.named_modules() if part.training)
        model = model.to(device).eval().requires_grad_(False)
        return model, fingerprint(model, inspect.getsourcefile(module)), training
    except Exception as error:  # a lazy layer, a torch.jit.script, a class that does not call super().__init__()
        raise ModelError(
            f"model {name}: the factory's {type(model).__name__} cannot be put in eval mode on {device} with frozen "
            f"weights, give a plain torch.nn.Module with all its weights made: {_told(error)}"
        ) from error


def load_robustbench(name: str, device: torch.device, folder: Path) -> tuple[nn.Module, str]:
    """A model of RobustBench's zoo, `robustbench:THREAT/DATASET/NAME`; downloads its weights when first used."""
    match = _ROBUSTBENCH.fullmatch(name)
    if match is None:
        raise ModelError(f"model {name!r}: expected robustbench:Linf|L2/cifar10|cifar100|imagenet/NAME")
    threat, dataset, model_name = match.groups()
    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        raise ModelError(f"model {name}: unset TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD, nothing is unpickled here")
    load, known = _robustbench()
    names = known.get((dataset, threat), [])
    if model_name not in names:
        close = difflib.get_close_matches(model_name, names)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ModelError(f"model {name}: RobustBench lists no {model_name!r} for {dataset} {threat}{hint}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the downloader prints
            network = load(model_name, model_dir=str(folder), dataset=dataset, threat_model=threat)
    except OSError as error:
        raise ModelError(
            f"model {name}: its weights must be downloaded, and that failed (no network?): {_told(error)}"
        ) from error
    except Exception as error:
        raise ModelError(f"model {name}: RobustBench could not load it: {_told(error)}") from error
    model = LogitsModel(network, [0.0], [1.0]).to(device).requires_grad_(False)
    return model, fingerprint(model)


def _robustbench() -> tuple[Any, dict[tuple[str, str], list[str]]]:
    """RobustBench's loader, and its model names by (data set, threat).

    `robustbench` imports `autoattack`, which is not on PyPI under that name: `pyautoattack`, which it
    depends on, is the same package renamed, and stands in for it.
    """
    if importlib.util.find_spec("autoattack") is None:
        sys.modules["autoattack"] = importlib.import_module("pyautoattack")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pkg_resources and timm announce their own retirement
        utils = importlib.import_module("robustbench.utils")
        zoo = importlib.import_module("robustbench.model_zoo")
    known = {
        (dataset.value, threat.value): sorted(models)
        for dataset, threats in zoo.model_dicts.items()
        for threat, models in threats.items()
    }
    return utils.load_model, known


def fingerprint(model: nn.Module, source: str | None = None) -> str:
    """sha256 over a model's tensors, its parts' classes and plain attributes, and the source files of both.

    The sources are the given file and those of the parts' classes, torch's own left out: editing a forward
    pass makes another model. A helper function in a third file goes unseen.
    """
    digest = hashlib.sha256()
    sources = set() if source is None else {source}
    for name, part in model.named_modules():
        plain = {k: v for k, v in vars(part).items() if k != "training" and _is_plain(v)}
        digest.update(f"{name} {type(part).__module__}.{type(part).__qualname__} {sorted(plain.items())}".encode())
        with contextlib.suppress(TypeError, OSError):  # classes of a notebook have no file
            if not type(part).__module__.startswith("torch."):
                sources.add(inspect.getsourcefile(type(part)) or "")
    for key, value in model.state_dict().items():
        if isinstance(value, torch.Tensor):
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    for path in sorted(sources):
        if Path(path).is_file():
            digest.update(Path(path).read_bytes())
    return digest.hexdigest()


def _is_plain(value: object) -> bool:
    """Whether a value's repr is the same in every process."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (int, float, str))


def _told(error: BaseException) -> str:
    """An exception as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
