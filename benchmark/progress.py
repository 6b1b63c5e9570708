"""Progress on a terminal; elsewhere log lines are progress enough."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def units_bar(what: str) -> Iterator[Callable[[int, int], Callable[[], None]]]:
    """A progress bar on a terminal; elsewhere the log lines of the runner are progress enough."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda total, done: lambda: None
        return
    logging.getLogger("benchmark").setLevel(logging.ERROR)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:

        def advance(total: int, done: int) -> Callable[[], None]:
            task = bar.add_task(what, total=total, completed=done)
            return lambda: bar.advance(task)

        yield advance


@contextmanager
def epoch_bars() -> Iterator[Callable[[Any, str], Any]]:
    """A bar an epoch on a terminal, plain iteration elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda steps, _: steps
        return
    with Progress(console=console, transient=True) as bar:
        yield lambda steps, description: bar.track(list(steps), description=description)
