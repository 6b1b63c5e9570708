"""Random numbers belong to (seed, sample, attack, restart) and to nothing else."""

import numpy as np
import torch

from attacks.randomness import sample_generators


def draws(seed: int, ids: list[int], attack: str = "pgd", restart: int = 0) -> list[list[float]]:
    generators = sample_generators(seed, torch.tensor(ids, dtype=torch.int64), attack, restart)
    return [generator.random(4).tolist() for generator in generators]


def test_a_samples_numbers_do_not_depend_on_its_neighbours() -> None:
    together = dict(zip([3, 7, 9, 40], draws(0, [3, 7, 9, 40]), strict=True))
    assert draws(0, [9]) == [together[9]]
    assert draws(0, [40, 3]) == [together[40], together[3]]


def test_drawing_from_one_sample_does_not_advance_another() -> None:
    first, second = sample_generators(0, torch.tensor([1, 2]), "pgd")
    first.random(1000)
    assert second.random(4).tolist() == draws(0, [2])[0]


def test_every_part_of_the_key_changes_the_numbers() -> None:
    keys = [
        (seed, sample, attack, restart)
        for seed in (0, 1, 11)
        for sample in (0, 1, 11)
        for attack in ("pgd", "cw")
        for restart in (0, 1, 11)
    ]
    seen = {tuple(draws(seed, [sample], attack, restart)[0]) for seed, sample, attack, restart in keys}
    assert len(seen) == len(keys)


def test_numbers_of_neighbouring_keys_are_uncorrelated() -> None:
    columns = np.array([g.random(4000) for g in sample_generators(0, torch.arange(4), "pgd")])
    correlation = np.corrcoef(columns) - np.eye(4)
    assert np.abs(correlation).max() < 4 / np.sqrt(4000)


def test_no_sample_gives_no_generator() -> None:
    assert sample_generators(0, torch.zeros(0, dtype=torch.int64), "pgd") == []
