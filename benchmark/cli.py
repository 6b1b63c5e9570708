"""The `bench` command: verbs only; they parse, call and choose the exit code."""

import errno
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmark import analyze_cli
from benchmark.errors import RequestError
from benchmark.progress import epoch_bars, units_bar
from results.aggregate import UnsoundError
from results.claims import ClaimsError
from results.printable import printable
from results.store import Store, StoreError

OK, GATE_FAILED, WRONG_REQUEST, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    help="Adversarial robustness of clustering classifiers: attack, judge, compare.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(analyze_cli.app, name="analyze")

DataRoot = Annotated[Path | None, typer.Option(help="Folder with data sets, and where torchvision downloads them to.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


@app.callback()
def _options() -> None:
    """Keep `bench VERB` even while there are few verbs."""


@app.command()
def run(
    config: Annotated[str | None, typer.Argument(help="quick (default), full, or a YAML file.")] = None,
    config_option: Annotated[str | None, typer.Option("--config", help="The same, as an option.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Model by name; repeat for several.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set by name, npz:FILE or folder:DIR.")] = None,
    attack: Annotated[list[str] | None, typer.Option(help="Attack by name; repeat for several.")] = None,
    norm: Annotated[str | None, typer.Option(help="linf, l2 or l1.")] = None,
    eps: Annotated[list[str] | None, typer.Option(help='Radius in input units, like "8/255"; repeatable.')] = None,
    samples: Annotated[int | None, typer.Option(help="How many test images, from the first on.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random numbers.")] = None,
    search: Annotated[str | None, typer.Option(help="auto (a bfloat16 copy where it pays) or float32.")] = None,
    skip_certified: Annotated[
        bool | None,
        typer.Option("--skip-certified/--no-skip-certified", help="Leave alone what a verifier of this run proves."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples attacked at a time; memory, not numbers.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; 0: one a core.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    data_root: DataRoot = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; the same folder resumes it.")] = None,
) -> None:
    """Attack models and print the leaderboard. With no arguments: the quick configuration."""
    from benchmark.config import build_config, read_config
    from benchmark.resolve import resolve
    from benchmark.run import run as run_request
    from results.curves import curves_table
    from results.render import terminal

    if config is not None and config_option is not None:
        raise RequestError("give the configuration once: as an argument or as --config")
    name = config or config_option or "quick"
    content = read_config(name)
    overrides: dict[str, Any] = {
        "models": model or None,
        "dataset": dataset,
        "attacks": attack or None,
        "samples": samples,
        "seed": seed,
        "search": search,
        "skip_certified": skip_certified,
        "batch_size": batch_size,
        "workers": workers,
        "device": device,
    }
    if norm is not None or eps:
        radii = list(eps or [DEFAULT_EPS.get(norm or "", "8/255")])
        overrides["threats"] = [{"norm": norm or "linf", "eps": radius} for radius in radii]
    checked = build_config(content, overrides)
    request = resolve(checked, data_root)
    store = Store(out or Path("runs") / f"{Path(name).stem}-{checked.fingerprint()}")
    with store.opened(checked.identity()), units_bar("units") as advance:
        report = run_request(request, store, data_root, advance)
    print(terminal(report.rows))
    if report.curves:
        print(curves_table(report.curves))
    print(f"leaderboard: {store.folder / 'leaderboard.md'} and {store.folder / 'leaderboard.csv'}")
    if report.failures:
        _say(f"{len(report.failures)} units failed and have no verdict; run again to try them again")
        for failure in report.failures:
            _say(f"  {failure.unit}: {failure.reason}")
        raise typer.Exit(GATE_FAILED)


DEFAULT_EPS = {"linf": "8/255", "l2": "0.5", "l1": "12"}


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="Recipe by name; see bench list recipes.")],
    dataset: Annotated[str, typer.Option(help="Data set by name, npz:FILE or folder:DIR.")] = "fashion-mnist",
    out: Annotated[Path | None, typer.Option(help="Weight file; default trained/RECIPE.safetensors.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting, key=value; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    device: Device = "auto",
    data_root: DataRoot = None,
) -> None:
    """Train a model by a recipe; run it again after a kill and it goes on where it was."""
    from benchmark.config import RunConfig
    from benchmark.resolve import choose_device
    from benchmark.training import train as train_recipe

    logging.getLogger("model_zoo").setLevel(logging.INFO)
    target = out or Path("trained") / f"{recipe}.safetensors"
    assignments = list(set_ or [])
    command = shlex.join(
        ["bench", "train", recipe, "--dataset", dataset, "--seed", str(seed)]
        + [part for assignment in assignments for part in ("--set", assignment)]
    )
    with epoch_bars() as progress:
        card = train_recipe(
            recipe,
            dataset,
            target,
            assignments=assignments,
            seed=seed,
            device=choose_device(device),
            data_root=data_root,
            command=command,
            progress=progress,
        )
    accuracy = f"validation {100 * card.validation_accuracy:.2f} %"
    if card.clean_accuracy is not None:
        accuracy += f", clean {100 * card.clean_accuracy:.2f} % of {card.clean_samples} test images"
    print(f"{target}: {accuracy}, {card.minutes:.1f} minutes")
    for note in card.notes:
        print(f"note: {printable(note)}")
    of = [] if dataset == RunConfig.model_fields["dataset"].default else ["--dataset", dataset]
    print(f"evaluate it: {shlex.join(['bench', 'run', '--model', str(target), *of])}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folder of a run; several for one html page.")],
    form: Annotated[str, typer.Option("--format", help="terminal, md, csv, json, tex or html.")] = "terminal",
    against: Annotated[
        str | None, typer.Option(help="Compare every classifier with this one instead, sample by sample.")
    ] = None,
    seeds: Annotated[
        bool, typer.Option("--seeds", help="With --against: NAME, NAME-seed1, ... are one family, held by its mean.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="File to write instead of printing; html: RUN/report.html if not given.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder to also draw figures into, PNG and SVG.")] = None,
    data_root: DataRoot = None,
) -> None:
    """Print the leaderboard of a run from its records alone, or write a page of one or several runs."""
    from results.checksums import refuse_own
    from results.loaded import load_runs
    from results.paired import compare
    from results.render import FORMATS
    from results.render_paired import FORMATS as PAIRED
    from results.render_seeds import FORMATS as BY_FAMILY
    from results.seeds import compare_families

    if form not in (*FORMATS, "html"):
        raise RequestError(f"format must be one of {', '.join((*FORMATS, 'html'))}, got {form!r}")
    if len(runs) > 1 and (form != "html" or out is None):
        raise RequestError("several runs go into one page: --format html --out FILE")
    if against is not None and (form not in PAIRED or figures is not None):
        raise RequestError(f"--against goes with --format {', '.join(PAIRED)}, and not with --figures")
    if seeds and against is None:
        raise RequestError("--seeds goes with --against NAME: the family that the others are held against")
    out = runs[0] / "report.html" if out is None and form == "html" else out
    if out is not None:
        refuse_own(out)
    if figures is not None and figures.exists() and not figures.is_dir():
        raise RequestError(f"--figures {figures} is not a folder")
    loaded = load_runs(runs)
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise RequestError(f"--out {out} is a folder" if out.is_dir() else f"--out {out}: there is no {out.parent}")
    if against is not None:
        (run,) = loaded
        try:
            if seeds:
                text = BY_FAMILY[form](compare_families(run.units, run.records, against))
            else:
                text = PAIRED[form](compare(run.units, run.records, against))
        except ValueError as error:
            raise RequestError(f"--against: {error}") from None
        _give(text, out)
        return
    if form == "html" and out is not None:
        from benchmark.report import write_page

        write_page(loaded, out, data_root)
        print(out)
    else:
        _give(FORMATS[form](loaded[0].rows), out)
    if figures is not None:
        from results.plots import draw

        for path in draw(loaded, figures):
            _say(f"figure: {path}")
    if not all(run.complete for run in loaded):
        raise typer.Exit(GATE_FAILED)


def _give(text: str, out: Path | None) -> None:
    """Print, or write a file and print its name."""
    from results.store import write_whole

    if out is None:
        print(text, end="")
    else:
        write_whole(out, text.encode())
        print(out)


@app.command()
def regress(
    run: Annotated[Path, typer.Argument(help="Folder of a complete run.")],
    baseline: Annotated[Path | None, typer.Option(help="Committed file to hold the run against.")] = None,
    write_baseline: Annotated[Path | None, typer.Option(help="Write that file from this run instead.")] = None,
    points: Annotated[
        float | None, typer.Option(help="Loss in percentage points that passes; default 1, with --strict 0.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Level of the one-sided McNemar tests, after Holm's correction.")] = 0.05,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fixed weights: more than POINTS % newly lost samples fail, untested.")
    ] = False,
    rename: Annotated[
        list[str] | None, typer.Option(help="NEW=OLD: a classifier of the run by its name in the baseline; repeatable.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the outcome here, for a pull request.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Also write it here, as JUnit XML.")] = None,
) -> None:
    """Gate for CI: exit code 1 where a run lost clean or robust accuracy against a committed baseline."""
    from results import render_regression
    from results.baseline import baseline_of, parse_renames, read_baseline
    from results.checksums import refuse_own
    from results.planned import check_plan
    from results.regression import Gate
    from results.regression import regress as hold_against
    from results.store import write_whole

    if (baseline is None) == (write_baseline is None):
        raise RequestError("give one of --baseline FILE and --write-baseline FILE")
    if write_baseline is not None and (markdown or junit):
        raise RequestError("--markdown and --junit go with --baseline")
    written = [path.resolve() for path in (baseline, write_baseline, markdown, junit) if path is not None]
    if len(set(written)) < len(written):
        raise RequestError("--baseline, --markdown and --junit must be different files")
    for path in (write_baseline, markdown, junit):
        if path is not None:
            refuse_own(path)
    gate = Gate((0.0 if strict else 1.0) if points is None else points, alpha, strict)
    before = None if baseline is None else read_baseline(baseline)
    store = Store(run)
    units = store.read_plan()
    check_plan(run, units)
    now = baseline_of(units, store.read(units), parse_renames(rename or []))
    if write_baseline is not None:
        write_whole(write_baseline, now.text().encode())
        names = ", ".join(dict.fromkeys(case.classifier for case in now.cases))
        print(f"{write_baseline}: {names}; {len(now.cases[0].clean)} samples; commit it")
    if before is None:
        return
    found = hold_against(now, before, gate)
    for path, form in ((markdown, render_regression.markdown), (junit, render_regression.junit)):
        if path is not None:
            write_whole(path, form(found).encode())
    print(render_regression.terminal(found), end="")
    if not found.passed:
        raise typer.Exit(GATE_FAILED)


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or a .zip of one.")],
    device: Device = "auto",
    data_root: DataRoot = None,
) -> None:
    """Judge every saved adversarial example and proof of a run again, from its files; no attack is run."""
    from benchmark.resolve import choose_device
    from benchmark.verify import verify as verify_run
    from results.verification import terminal

    found = verify_run(run, choose_device(device), data_root)
    print(terminal(found), end="")
    if not found.verified:
        raise typer.Exit(GATE_FAILED)


@app.command()
def claims(
    run: Annotated[
        list[Path] | None, typer.Argument(help="Folders of complete runs; default: the results that ship.")
    ] = None,
    paper: Annotated[
        list[str] | None, typer.Option(help="Of one source alone, see bench list claims; repeatable.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Your own YAML of claims instead of those that ship.")] = None,
    form: Annotated[str, typer.Option("--format", help="terminal, md, csv or json.")] = "terminal",
    figure: Annotated[
        Path | None, typer.Option(help="Also draw reported against AutoAttack numbers here: .png or .svg.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 where a claim is refuted or rests on a weaker protocol.")
    ] = False,
) -> None:
    """Hold published numbers against measured ones: upheld, refuted, weaker protocol, not comparable."""
    from benchmark.claims import hold
    from results.plots_claims import SUFFIXES, draw
    from results.render_claims import FORMATS

    if form not in FORMATS:
        raise RequestError(f"format must be one of {', '.join(FORMATS)}, got {form!r}")
    if figure is not None and figure.suffix not in SUFFIXES:
        raise RequestError(f"--figure must end in {' or '.join(SUFFIXES)}, got {str(figure)!r}")
    if figure is not None and (figure.is_dir() or not figure.parent.is_dir()):
        reason = "it is a folder" if figure.is_dir() else f"there is no folder {figure.parent}"
        raise RequestError(f"--figure {figure} cannot be written: {reason}")
    held = hold(run or [], paper or [], file)
    if figure is not None:
        draw(held, figure)
    print(FORMATS[form](held), end="")
    if strict and held.failed:
        raise typer.Exit(GATE_FAILED)


@app.command()
def diagnose(
    run: Annotated[Path, typer.Argument(help="Folder of a complete run.")],
    samples: Annotated[int, typer.Option(min=1, help="How many of the run's samples to probe, from the first.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the probes' random numbers.")] = 0,
    model: Annotated[list[str] | None, typer.Option(help="Only this model or classifier; repeatable.")] = None,
    device: Device = "auto",
    data_root: DataRoot = None,
) -> None:
    """Which numbers of a run to trust, and why: costly checks, in plain words. A finding is no error: exit code 0."""
    from benchmark.diagnose import diagnosed

    with units_bar("classifiers") as advance:
        told = diagnosed(run, model or [], samples, seed, device, data_root, advance)
    print(told, end="")


@app.command()
def reproduce(
    paper: Annotated[str, typer.Argument(help="Paper by name: clustr, clustering-training, kmeans.")],
    item: Annotated[
        str | None, typer.Argument(help="Its figure, table or section, such as fig3 or 1; default: all.")
    ] = None,
    dataset: Annotated[
        str, typer.Option(help="Data set to measure on, by name, npz:FILE or folder:DIR.")
    ] = "fashion-mnist",
    weights: Annotated[
        Path | None, typer.Option(help="Folder of RECIPE.safetensors trained on that data set; default: the zoo.")
    ] = None,
    samples: Annotated[int, typer.Option(help="How many test images to attack, from the first on.")] = 1000,
    seed: Annotated[list[int] | None, typer.Option(help="Seed of fig3; repeat for several. Default: 0 to 4.")] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0: one a core.")] = 0,
    data_root: DataRoot = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of tables, figures and units; the same folder resumes.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="kmeans: train and measure again, in the background.")] = False,
    foreground: Annotated[bool, typer.Option("--foreground", help="With --fresh: here, and wait for it.")] = False,
) -> None:
    """Print a paper's numbers beside measured ones, and what of its statements is reproduced."""
    from benchmark.reproduce import kept_studies
    from benchmark.reproduce import reproduce as reports
    from benchmark.reproduce.request import Options

    options = Options(tuple(seed or range(5)), dataset, data_root, weights, samples, workers)
    if paper in kept_studies.STUDIES:
        with units_bar("units") as advance:
            report = kept_studies.asked(paper, item, out, options, fresh, foreground, advance)
        print(report.text)
        if not report.complete:
            raise typer.Exit(GATE_FAILED)
        return
    if fresh or foreground:
        raise RequestError(f"--fresh and --foreground are for {', '.join(kept_studies.STUDIES)}: {paper} keeps units")
    complete = True
    for prepare in reports(paper, item, out, options):
        with units_bar("units") as advance:
            report = prepare(advance)
        print(report.text)
        complete = complete and report.complete
    if not complete:
        raise typer.Exit(GATE_FAILED)


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="models, attacks, datasets, recipes, configs or claims.")],
) -> None:
    """List what has a name."""
    from benchmark import catalogue

    if what not in catalogue.CATALOGUES:
        raise RequestError(f"list one of {', '.join(catalogue.CATALOGUES)}, got {what!r}")
    print(catalogue.table(*catalogue.CATALOGUES[what]()))


def main() -> None:
    """Entry point: one line on stderr for whatever a person can mend, exit codes as documented."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("benchmark").setLevel(logging.INFO)
    try:
        result = app(standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _say("stopped; the same command goes on from here")
        sys.exit(INTERRUPTED)
    except UnsoundError as error:
        _say(f"unsound: {error}")
        sys.exit(GATE_FAILED)
    except FloatingPointError as error:
        _say(f"training stopped: {error}")
        sys.exit(GATE_FAILED)
    except (RequestError, StoreError, ClaimsError) as error:
        _say(f"error: {error}")
        sys.exit(WRONG_REQUEST)
    except Exception as error:
        sys.exit(_other(error))
    if result == INTERRUPTED:  # typer's answer to Ctrl-C
        _say("stopped; the same command goes on from here")
    sys.exit(result if isinstance(result, int) else OK)


def _other(error: Exception) -> int:
    """Errors of other packages that are answers to a request, in one line; anything else is a bug and raises."""
    from model_zoo.errors import ModelError

    if isinstance(error, ModelError):
        _say(f"error: {error}")
        return WRONG_REQUEST
    message = getattr(error, "format_message", None)
    if callable(message):  # typer's usage errors, whose class moved between its versions
        if text := message():  # empty where the help was asked for by giving no verb
            _say(f"error: {text}")
        return WRONG_REQUEST
    if isinstance(error, OSError) and error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter tries once more
        _say(f"error: the output cannot be written: {error.strerror}")
        return WRONG_REQUEST
    if type(error).__name__ == "Abort":
        _say("stopped; the same command goes on from here")
        return INTERRUPTED
    raise error


def _say(text: str) -> None:
    """One line: what it names may come from files that anyone may have written."""
    from results.printable import printable

    print(printable(text), file=sys.stderr)


if __name__ == "__main__":
    main()
