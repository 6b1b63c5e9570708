"""Evaluation without files or configuration, for notebooks and other people's code."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from benchmark.cheap_copy import prepare_search
from benchmark.config import build_config
from benchmark.datasets import from_arrays
from benchmark.diagnostics import checked
from benchmark.plan import plan
from benchmark.resolve import check_request, surrogate_of
from benchmark.runner import Outcome, run_unit
from model_zoo.external import fingerprint
from model_zoo.registry import LoadedModel
from results.leaderboard import Row, leaderboard
from results.records import Verdict, certified_samples


@dataclass(frozen=True)
class Evaluation:
    """`rows` as on the leaderboard; `verdicts` per attack and sample; `x_adv` per attack (n, c, h, w).

    In `x_adv`, samples that an attack did not break are the originals.
    """

    rows: list[Row]
    verdicts: dict[str, list[Verdict]]
    x_adv: dict[str, Float[Tensor, "n c h w"]]


def evaluate(
    model: nn.Module,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, " n"],
    *,
    norm: str = "linf",
    eps: float | str = 8 / 255,
    attacks: Sequence[str] = ("pgd20", "autoattack"),
    seed: int = 0,
    search: str = "auto",
    skip_certified: bool = True,
    batch_size: int = 250,
    device: torch.device | str | None = None,
    name: str = "model",
) -> Evaluation:
    """Attack a model of images in [0, 1] to logits and judge every sample.

    `x` float images in [0, 1], `y` integer labels; `eps` in input units or as text like "8/255"; `attacks`
    as the command line spells them; `search` "auto" or "float32" (no bfloat16 copy); `skip_certified`: attacks
    leave alone what a verifier among them proves. All samples form one unit. The model is put in eval mode meanwhile.
    Raises RequestError (a ValueError) for wrong input, and what the model or an attack raises.
    """
    where = torch.device(device) if device is not None else _device_of(model)
    content = {
        "models": [name],
        "dataset": "given images",
        "samples": len(x),
        "threats": [{"norm": norm, "eps": eps}],
        "attacks": list(attacks),
        "seed": seed,
        "search": search,
        "skip_certified": skip_certified,
        "unit_size": max(1, len(x)),
        "batch_size": batch_size,
        "device": where.type,
    }
    config = build_config(content, {})
    dataset = from_arrays("given images", x.detach().cpu().numpy(), y.detach().cpu().numpy(), channels_first=True)
    training = {part_name: part for part_name, part in model.named_modules() if part.training}
    flags = ("the model was in training mode; it was evaluated in eval mode",) if training else ()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.to(where).eval().requires_grad_(False)  # or an attack's backward() would add to the weights' gradients
    try:
        loaded = LoadedModel(name, name, model, fingerprint(model), flags=flags, training=tuple(training))
        request = check_request(config, dataset, (loaded,), where)
        loaded = checked(loaded, dataset, where)
        units = plan(request)
        searched = prepare_search(model, dataset.x, dataset.y, where, search, batch_size)
        outcomes: list[Outcome] = []
        certified: dict[str, frozenset[int]] = {}
        for unit in sorted(units, key=lambda unit: not unit.proves):
            outcome = run_unit(
                unit,
                dataset,
                loaded,
                surrogate_of(unit, request.surrogates),
                device=where,
                batch_size=batch_size,
                searched=searched,
                certified=frozenset().union(*(certified[key] for key in unit.certificates)),
            )
            certified[unit.key] = certified_samples(outcome.record)
            outcomes.append(outcome)
    finally:
        for part in training.values():
            part.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)
    records = [outcome.record for outcome in outcomes]
    return Evaluation(
        rows=leaderboard(units, records),
        verdicts={r.unit.attack: list(r.verdicts) for r in records if r.unit.attack != "clean"},
        x_adv={
            o.record.unit.attack: _with_originals(o, dataset.x) for o in outcomes if o.record.unit.attack != "clean"
        },
    )


def _device_of(model: nn.Module) -> torch.device:
    tensor = next(iter(model.state_dict().values()), None)
    return tensor.device if isinstance(tensor, Tensor) else torch.device("cpu")


def _with_originals(outcome: Outcome, x: Tensor) -> Tensor:
    x_adv = x.clone()
    if outcome.adversarial is not None:
        arrays = load_tensors(outcome.adversarial)
        x_adv[arrays["sample_ids"]] = arrays["x_adv"]
    return x_adv
