"""What linearising did to a network's operations, and the refusal to do it."""

from dataclasses import dataclass

from benchmark.errors import RequestError


class NotLinearizable(RequestError):
    """A network with an operation that has no linear stand-in; one line naming the operation and where it is."""


@dataclass(frozen=True)
class Change:
    """What became of one operation. `where` is the path of the module that carries it out, or the operation's name
    in the recorded graph; `became` is "identity", "average pooling 3x3/2", "removed", "scale" or "kept"."""

    operation: str
    where: str
    became: str
