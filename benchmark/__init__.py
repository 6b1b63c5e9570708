"""The runner and the command line; `benchmark.evaluate` for notebooks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.evaluation import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]


def __getattr__(name: str) -> Any:
    """Import torch only when it is needed: `bench report` and `bench --help` start without it."""
    if name in __all__:
        from benchmark import evaluation as module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
