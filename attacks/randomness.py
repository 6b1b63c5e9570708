"""Random numbers that belong to a sample, not to a batch."""

import hashlib

import numpy as np
from jaxtyping import Int
from torch import Tensor


def sample_generators(
    seed: int, sample_ids: Int[Tensor, " n"], attack: str, restart: int = 0
) -> list[np.random.Generator]:
    """One counter-based generator a sample, keyed by (seed, sample id, attack, restart).

    Philox (Salmon et al. 2011): the stream is a function of the key alone, so batch size, order and
    sharding cannot change it.
    """
    return [_generator(f"{seed}/{sample}/{attack}/{restart}") for sample in sample_ids.tolist()]


def _generator(name: str) -> np.random.Generator:
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))
