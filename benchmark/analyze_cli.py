"""`bench analyze ...`: what is to be learnt of models beside their robustness."""

import logging
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmark.errors import RequestError
from benchmark.progress import units_bar

app = typer.Typer(help="Analyses of models: linearize, adapt.", no_args_is_help=True)

MODES: dict[str, tuple[Literal["drop", "fold"], ...]] = {"drop": ("drop",), "fold": ("fold",), "both": ("drop", "fold")}


@app.callback()
def _options() -> None:
    """Analyses of models."""


@app.command()
def linearize(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Models by name, as bench run takes them.")],
    dataset: Annotated[
        str | None, typer.Option(help="Data set by name, npz:FILE or folder:DIR; default: that of the models' cards.")
    ] = None,
    groups: Annotated[Path | None, typer.Option(help="YAML of groups of classes; default: those that ship.")] = None,
    standard: Annotated[
        str | None,
        typer.Option(help="Standard model to hold all against; default: one named or of the zoo, where a card fits."),
    ] = None,
    bn: Annotated[str, typer.Option(help="Batch norm: drop, fold (its eval-mode scale stays), or both.")] = "both",
    samples: Annotated[int, typer.Option(help="How many test images to attack, from the first on.")] = 1000,
    norm: Annotated[str, typer.Option(help="Norm of the attack: linf, l2 or l1.")] = "linf",
    eps: Annotated[str, typer.Option(help='Its radius in input units, like "8/255".')] = "8/255",
    starts: Annotated[
        int,
        typer.Option(help="Random initialisations of each architecture; 0: none, and fewer than 19 decide nothing."),
    ] = 39,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    device: Annotated[str, typer.Option(help="Where to attack: auto, cpu or cuda.")] = "auto",
    data_root: Annotated[
        Path | None, typer.Option(help="Folder with data sets, and where torchvision downloads them to.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of rows, matrices, trees and figures.")] = None,
) -> None:
    """Do rows of related classes point the same way once a network's non-linear parts are out? With controls."""
    from benchmark.analysis_folder import kept
    from benchmark.linearize.analysis import Work, analyse
    from benchmark.linearize.files import Folder
    from benchmark.linearize.request import Options, prepare
    from benchmark.resolve import choose_device
    from results.render_linearized import terminal

    if bn not in MODES:
        raise RequestError(f"--bn must be one of {', '.join(MODES)}, got {bn!r}")
    if groups is not None and not os.path.lexists(groups):
        raise RequestError(f"--groups {groups}: no such file")
    options = Options(
        tuple(models),
        dataset,
        groups,
        MODES[bn],
        samples,
        starts,
        seed,
        norm,
        eps,
        choose_device(device),
        data_root,
        standard,
    )
    prepared = prepare(options)
    folder = Folder(out or Path("runs") / f"linearize-{prepared.fingerprint()}", prepared)
    folder.open()
    with kept(folder.path), units_bar("models") as advance:
        work = Work(folder.done(prepared), folder.note)
        analysis = analyse(prepared, folder.keep, advance, work)
    text = terminal(analysis)
    folder.finish(analysis, text)
    typer.echo(text, nl=False)
    typer.echo(f"numbers, matrices, trees and figures: {folder.path}")


@app.command()
def adapt(
    dataset: Annotated[str, typer.Option(help="Data set by name, with training and test images.")] = "fashion-mnist",
    groups: Annotated[Path | None, typer.Option(help="YAML of groups of classes; default: those that ship.")] = None,
    splits: Annotated[int, typer.Option(help="How many choices of classes to leave out.")] = 3,
    method: Annotated[
        list[str] | None, typer.Option(help="standard, robust, grouped, clustering, clustering grouped; repeatable.")
    ] = None,
    shots: Annotated[int, typer.Option(help="Images a class left out, for fine-tuning.")] = 10,
    epochs: Annotated[int, typer.Option(help="Epochs of every training; 0: each recipe's own.")] = 0,
    architecture: Annotated[str, typer.Option(help="The networks trained; resnet18 for CIFAR.")] = "small-resnet",
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    device: Annotated[str, typer.Option(help="Where to train: auto, cpu or cuda.")] = "auto",
    data_root: Annotated[
        Path | None, typer.Option(help="Folder with data sets, and where torchvision downloads them to.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of weights and results; the same one goes on.")] = None,
) -> None:
    """Do models tell the group of classes they have never seen? Trains standard, robust and grouped ones, and asks."""
    from benchmark.adaptation import KIND, adapt, count_trainings, protocol_of
    from benchmark.analysis_folder import kept, open_folder
    from benchmark.resolve import choose_device
    from results.adaptation import table
    from results.store import write_whole

    logging.getLogger("model_zoo").setLevel(logging.INFO)
    protocol = protocol_of(
        dataset,
        data_root,
        groups=groups,
        count=splits,
        methods=method or [],
        shots=shots,
        seed=seed,
        epochs=epochs,
        architecture=architecture,
    )
    where = choose_device(device)
    folder = out or Path("runs") / f"adapt-{protocol.fingerprint()}"
    open_folder(folder, KIND, protocol.identity())
    with kept(folder), units_bar("trainings") as advance:
        found = adapt(protocol, folder, data_root, where, advance(count_trainings(protocol), 0))
    text = table(found)
    write_whole(folder / "adaptation.json", (found.model_dump_json(indent=1) + "\n").encode())
    write_whole(folder / "adaptation.md", (text + "\n").encode())
    typer.echo(text)
    typer.echo(f"weights and results: {folder}")
