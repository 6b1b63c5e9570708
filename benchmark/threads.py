"""One thread of torch, for what must round as it did in the workers of a run, or is slower on several threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

CPU = torch.device("cpu")


@contextmanager
def one_thread(device: torch.device = CPU) -> Iterator[None]:
    """As the workers of a run, whose threads a device other than the processor does not ask for.

    Sums in another order round otherwise, and small steps take many times as long where the cores are busy.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cpu" else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
