"""The wheel holds exactly the four packages with their data, and works away from the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("leaderboards", "reproduced")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in tracked:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)],
        capture_output=True,
        check=True,
    )
    (built,) = out.glob("clustrbench-*.whl")
    return built


def test_the_wheel_installs_exactly_the_four_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"attacks", "benchmark", "model_zoo", "results"}
    assert "benchmark/data/fashion-mnist/t10k-images-idx3-ubyte.gz" in names
    assert {"benchmark/configs/quick.yaml", "benchmark/configs/full.yaml"} <= set(names)
    claims = {f"results/claims/{path.name}" for path in (ROOT / "results" / "claims").glob("*.yaml")}
    assert len(claims) == 5
    assert claims <= set(names)
    groups = {f"results/groups/{path.name}" for path in (ROOT / "results" / "groups").glob("*.yaml")}
    assert len(groups) == 3
    assert groups <= set(names)
    tables = {f"results/{folder}/{p.name}" for folder in FOLDERS for p in (ROOT / "results" / folder).glob("*.csv")}
    assert len(tables) >= 13
    assert tables <= set(names)
    assert {f"results/page/page.{form}" for form in ("html", "css", "js")} <= set(names)
    shipped = {path.name for path in (ROOT / "model_zoo" / "weights").iterdir()}
    assert shipped == {name.split("/")[2] for name in names if name.startswith("model_zoo/weights/")}


def test_the_installed_wheel_runs_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    done = subprocess.run(
        [sys.executable, "-m", "benchmark.cli", "run", "--model", "nominal", "--attack", "noise", "--samples", "8"],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list(work.glob("runs/*/leaderboard.csv"))
    where = subprocess.run(
        [sys.executable, "-c", "import benchmark; print(benchmark.__file__)"],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert Path(where.strip()).is_relative_to(site)
