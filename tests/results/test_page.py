"""The page as text: what is on it, what a browser may do with it, and that names stay names."""

import base64
import hashlib
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from results.gallery import CleanImages
from results.loaded import load_runs
from results.page import page_html
from results.page.content import OTHER, Families, Page, Section, build_page
from tests.results.run_folders import Cells, clean_images, write_run

EVIL = "<script>alert(1)</script>\"'&amp;"
CELLS: Cells = {
    ("net", "clean"): "SSSSM",
    ("net", "pgd20"): "SSBBM",
    ("net", "autoattack"): "SBBBM",
    ("net@scores", "pgd20"): "SSSSM",
    (EVIL, "clean"): "SSSSS",
    (EVIL, "pgd20"): "SSSSB",
    (EVIL, "autoattack"): "SSSBB",
}
VOID = {"meta", "link", "input", "img"}


class Read(HTMLParser):
    """Tags with their attributes, the text, and whether every element was closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID and tag != "option":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag != "option":
            assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _find(name: str, sha256: str) -> CleanImages | str:
    return clean_images(10)


def make(
    *folders: Path,
    families: Families | None = None,
    find: Callable[[str, str], CleanImages | str] = _find,
    claims: Section | None = None,
    findings: Section | None = None,
) -> tuple[Page, str]:
    page = build_page(load_runs(folders), families or {}, find, claims, findings)
    return page, page_html(page)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", CELLS, eps=(0.1, 0.2), flags={"pgd20": (f"flag {EVIL}",)})


def test_the_page_is_well_formed_and_the_same_each_time(run: Path) -> None:
    _, text = make(run)
    assert Read(text).open == []
    assert make(run)[1] == text


def test_names_and_flags_are_text(run: Path) -> None:
    read = Read(make(run)[1])
    assert read.text.count(EVIL) > 5
    assert f"pgd20: flag {EVIL}" in read.text
    assert len(read.of("script")) == 1
    assert all(not name.startswith("on") for _, attributes in read.tags for name in attributes)


def test_a_browser_may_load_nothing_and_run_only_what_is_on_the_page(run: Path) -> None:
    _, text = make(run)
    read = Read(text)
    (policy,) = [meta["content"] for meta in read.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in str(policy).split("; "))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert rules[f"{tag}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    for name, attributes in read.tags:
        assert "style" not in attributes, "the policy forbids it"
        for key in ("src", "href"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:", "#")), (name, value)
    assert not re.search(r"https?://|@import|url\(", text)


def test_the_leaderboard_has_the_numbers_of_the_rows(run: Path) -> None:
    page, text = make(run)
    assert [(board.title, board.n) for board in page.boards] == [
        ("digits, linf ε = 0.1", 5),
        ("digits, linf ε = 0.2", 5),
    ]
    best, net = page.boards[0].entries
    assert (best.group, best.main.rank, net.group, net.main.rank) == (EVIL, 1, "net", 2)
    assert [line.option for line in net.lines] == ["", "scores"]
    words = Read(text).text
    for told in ("60.00 23.1–88.2", "20.00 3.6–62.4", "↳ @scores", "100.00", "80.00"):
        assert told in words
    labels = [str(svg.get("aria-label")) for svg in Read(text).of("svg")]
    assert "proven 0.00 %, standing 20.00 %, clean 80.00 %" in labels


def test_headers_are_buttons_and_images_have_words(run: Path) -> None:
    read = Read(make(run)[1])
    keys = [str(th["data-key"]) for th in read.of("th") if "data-key" in th]
    assert {"rank", "model", "lower", "upper", "clean", "pgd20", "autoattack", "family"} <= set(keys)
    assert len(read.of("button")) == len(keys) + 1
    assert all(image.get("alt") for image in read.of("img"))
    assert len(read.of("h1")) == 1


def test_families_are_what_the_cards_say(run: Path) -> None:
    page, text = make(run, families={("net", "w" * 64): "clustering"})
    assert page.families == ("clustering", OTHER)
    groups = {(tag.get("data-text"), tag.get("data-family")) for tag in Read(text).of("tbody") if "data-group" in tag}
    assert ("net net@scores clustering", "clustering") in groups
    other, _ = make(run, families={("net", "v" * 64): "clustering"})
    assert other.families == (OTHER,)  # a card of other weights says nothing


def test_an_incomplete_run_is_shown_as_incomplete_and_not_ranked(tmp_path: Path) -> None:
    page, text = make(write_run(tmp_path / "half", CELLS, left_out=(("net", "autoattack"),)))
    assert page.incomplete == ("half",)
    ranks = {entry.group: entry.main.rank for entry in page.boards[0].entries}
    assert ranks == {EVIL: 1, "net": None}
    words = Read(text).text
    assert "Incomplete: half" in words
    assert "0/5 done" in words
    assert "20.00" not in words
    assert "Incomplete:" not in Read(make(write_run(tmp_path / "whole", CELLS))[1]).text


def test_a_classifier_whose_other_head_is_not_done_has_no_verdict(tmp_path: Path) -> None:
    page, text = make(write_run(tmp_path / "half", CELLS, left_out=(("net@scores", "pgd20"),)))
    assert "other heads not done" in Read(text).text
    assert {entry.group: entry.main.rank for entry in page.boards[0].entries} == {EVIL: 1, "net": None}


def test_which_attack_broke_what_and_the_gallery(run: Path) -> None:
    _, text = make(run)
    words = Read(text).text
    assert "3 1 alone" in words
    assert "3 of 3 broken samples" in words
    assert "zero (0) → one (1)" in words
    assert "linf 25.50/255; × 5.0" in words


def test_without_clean_images_the_gallery_says_so(run: Path) -> None:
    _, text = make(run, find=lambda name, sha256: "data set digits is not here")
    assert "Without clean images: data set digits is not here" in Read(text).text
    assert "clean: predicted" not in text


def test_curves_come_with_a_table_of_their_numbers(run: Path) -> None:
    page, text = make(run)
    (chart,) = page.charts
    assert chart.eps == ("0", "0.1", "0.2")
    numbers = {row.group: row.cells for row in chart.rows}
    assert numbers["net"] == ("80.00 (37.6–96.4)", "20.00 (3.6–62.4)", "20.00 (3.6–62.4)")
    assert "20.00 (3.6–62.4)" in Read(text).text
    assert {plot.shape for plot in chart.plots} == {"wide", "narrow"}


def test_points_of_a_curve_stand_at_their_percentages(run: Path) -> None:
    page, _ = make(run)
    plot = page.charts[0].plots[0]
    heights = {label: y for y, label in plot.percent_ticks}
    (net,) = [drawn for drawn in plot.drawn if drawn.group == "net"]
    assert [mark.y for mark in net.marks] == [heights["80"], heights["20"], heights["20"]]
    assert [mark.x for mark in net.marks] == [x for x, _ in plot.eps_ticks]


def test_one_eps_has_no_curve_and_the_page_says_why(tmp_path: Path) -> None:
    page, text = make(write_run(tmp_path / "run", CELLS))
    assert page.charts == ()
    assert "Nothing to draw" in Read(text).text


def test_many_classifiers_are_spread_over_charts(tmp_path: Path) -> None:
    cells = {(f"net{i}", attack): "SB" for i in range(8) for attack in ("clean", "pgd20")}
    cells |= {key: "SS" for key in cells if key[1] == "clean"}
    page, _ = make(write_run(tmp_path / "run", cells, eps=(0.1, 0.2)))
    assert [(chart.part, len(chart.plots[0].drawn)) for chart in page.charts] == [("1 of 2", 6), ("2 of 2", 2)]


def test_several_runs_keep_their_own_boards(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", {("m", "clean"): "SM", ("m", "pgd20"): "SM"}, dataset="mnist", norm="l2")
    page, text = make(run, other)
    assert [(board.run, board.dataset, board.norm) for board in page.boards] == [
        ("run", "digits", "linf"),
        ("run", "digits", "linf"),
        ("other", "mnist", "l2"),
    ]
    choices = [option.get("value") for option in Read(text).of("option")]
    assert {"digits", "mnist", "linf", "l2", "0.1", "0.2", OTHER} <= set(choices)
    assert len({tag["id"] for _, tag in Read(text).tags if "id" in tag}) == text.count(' id="')


def test_claims_and_findings_are_shown_where_there_are_some(run: Path) -> None:
    claims = Section("Claims", ("claim", "verdict"), ((f"published {EVIL}", "refuted"),), "held against this run")
    _, text = make(run, claims=claims, findings=Section("Findings", ("what",), (("odd",),)))
    words = Read(text).text
    assert f"published {EVIL} refuted" in words
    assert "held against this run" in words
    assert 'id="findings"' in text
    assert 'id="claims"' not in make(run)[1]


def test_the_page_stays_small(tmp_path: Path) -> None:
    cells = {(f"net{i}", attack): "B" * 12 for i in range(40) for attack in ("pgd20", "pgd100", "autoattack")}
    assert len(make(write_run(tmp_path / "run", cells))[1]) < 5_000_000
