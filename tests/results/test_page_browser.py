"""The page in a headless Chromium: sorting, filtering, keyboard, narrow screens, nothing loaded, no complaint."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from results.page import page_html
from tests.results.browsers import chromium, missing
from tests.results.run_folders import Cells, write_run
from tests.results.test_page import EVIL, make

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

BEST, WORST, LATE = "a-best", "b-worst", "c-late"
CELLS: Cells = {
    (WORST, "clean"): "SSSSS",
    (WORST, "pgd20"): "SBBBB",
    (BEST, "clean"): "SSSSM",
    (BEST, "pgd20"): "SSSSM",
    (f"{BEST}@scores", "pgd20"): "SSSSM",
    (EVIL, "clean"): "SSSMM",
    (EVIL, "pgd20"): "SSBMM",
    (LATE, "clean"): "SSSSS",
    (LATE, "pgd20"): "SSSSS",
}
FAMILIES = {(WORST, "w" * 64): "ordinary", (BEST, "w" * 64): "clustering"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets, two norms, three eps; one classifier is not done."""
    folder = tmp_path_factory.mktemp("page")
    flags = {"pgd20": (f"flag {EVIL}",)}
    first = write_run(folder / "first", CELLS, eps=(0.1, 0.2), left_out=((LATE, "pgd20"),), flags=flags)
    plain = {key: verdicts for key, verdicts in CELLS.items() if key[0] != LATE}
    second = write_run(folder / "second", plain, eps=(0.5,), dataset="mnist", data_sha256="e" * 64, norm="l2")
    page, _ = make(first, second, families=FAMILIES)
    path = folder / "page.html"
    path.write_text(page_html(page))
    return path


class Seen:
    """A page, and all that it asked for or complained of."""

    def __init__(self, browser: Any, file: Path, address: str = "", **context: Any):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | context)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri() + address)

    def groups(self, board: int = 1) -> list[str]:
        """The classifiers of a board that are shown, from the top."""
        rows = self.page.locator(f"#board-{board} tbody:visible tr:first-child th")
        return [str(text).strip() for text in rows.all_inner_texts()]

    def boards(self) -> list[str]:
        return [
            str(text).split("  ")[0] for text in self.page.locator("#leaderboard .board:visible h3").all_inner_texts()
        ]

    def head(self, key: str, board: int = 1) -> Any:
        return self.page.locator(f'#board-{board} th[data-key="{key}"]')

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something; the page's policy forbids playwright's own way of waiting."""
        for _ in range(50):
            if holds():
                return
            self.page.wait_for_timeout(50)
        raise AssertionError("it did not come")

    def choose(self, **values: str) -> None:
        for name, value in values.items():
            self.page.locator(f'[name="{name}"]').select_option(value)


@pytest.fixture
def seen(browser: Any, file: Path) -> Iterator[Seen]:
    """An open page, which at the end has loaded nothing and complained of nothing."""
    opened = Seen(browser, file)
    yield opened
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [file.as_uri()]
    opened.context.close()


def test_the_page_opens_from_a_file_with_its_ranking(seen: Seen) -> None:
    assert seen.groups() == [BEST, EVIL, WORST, LATE]
    assert seen.page.locator("#status").inner_text() == "11 of 11 shown"
    assert seen.page.title() == "Adversarial robustness of clustering classifiers"
    images = seen.page.locator("#gallery details[open] img")
    assert images.count() >= 3
    images.first.scroll_into_view_if_needed()
    drawn = "all => all.slice(0, 3).every(image => image.complete && image.naturalWidth === 6)"
    seen.until(lambda: bool(images.evaluate_all(drawn)))


def test_a_click_sorts_and_another_turns_it_round(seen: Seen) -> None:
    seen.head("clean").get_by_role("button").click()
    assert seen.groups() == [WORST, LATE, BEST, EVIL]
    assert seen.head("clean").get_attribute("aria-sort") == "descending"
    seen.head("clean").get_by_role("button").click()
    assert seen.groups() == [EVIL, BEST, WORST, LATE]
    assert seen.head("clean").get_attribute("aria-sort") == "ascending"
    seen.head("model").get_by_role("button").click()
    assert seen.groups()[-3:] == [BEST, WORST, LATE]
    assert seen.head("clean").get_attribute("aria-sort") is None
    assert seen.head("model", board=3).get_attribute("aria-sort") == "ascending"


def test_what_is_not_known_comes_last_either_way(seen: Seen) -> None:
    for direction in ("descending", "ascending"):
        seen.head("upper").get_by_role("button").click()
        assert seen.head("upper").get_attribute("aria-sort") == direction
        assert seen.groups()[-1] == LATE
    assert seen.groups() == [WORST, EVIL, BEST, LATE]


def test_another_head_stays_with_its_classifier(seen: Seen) -> None:
    seen.head("clean").get_by_role("button").click()
    lines = seen.page.locator("#board-1 tbody:visible tr th").all_inner_texts()
    place = next(i for i, line in enumerate(lines) if line.strip() == BEST)
    assert lines[place + 1].strip() == "↳ @scores"


def test_filters_leave_what_was_chosen(seen: Seen) -> None:
    assert len(seen.boards()) == 3
    seen.choose(eps="0.2")
    assert [title.split(" n =")[0] for title in seen.boards()] == ["digits, linf ε = 0.2"]
    seen.choose(eps="", norm="l2")
    assert [title.split(" n =")[0] for title in seen.boards()] == ["mnist, l2 ε = 0.5"]
    seen.choose(norm="", dataset="digits")
    assert len(seen.boards()) == 2
    seen.choose(dataset="", family="clustering")
    assert (seen.groups(), len(seen.boards())) == ([BEST], 3)
    assert seen.page.locator("#status").inner_text() == "3 of 11 shown"
    for section in ("breaks", "gallery", "curves"):
        assert seen.page.locator(f'#{section} [data-family="ordinary"]:visible').count() == 0


def test_the_search_looks_in_names_and_says_when_there_is_none(seen: Seen) -> None:
    field = seen.page.locator("[name=q]")
    field.fill("WORST")
    assert seen.groups() == [WORST]
    field.fill("<script>")
    assert seen.groups() == [EVIL]
    field.fill("nobody")
    assert seen.boards() == []
    assert seen.page.locator("#leaderboard .empty").is_visible()
    seen.page.get_by_role("button", name="Reset").click()
    seen.until(lambda: seen.page.locator("#status").inner_text() == "11 of 11 shown")
    assert seen.groups() == [BEST, EVIL, WORST, LATE]


def test_the_address_keeps_filters_and_order(seen: Seen) -> None:
    seen.choose(family="other")
    seen.page.locator("[name=q]").fill(EVIL[:12])
    seen.head("clean").get_by_role("button").click()
    seen.page.reload()
    assert seen.groups() == [EVIL]
    assert seen.head("clean").get_attribute("aria-sort") == "descending"
    assert seen.page.locator("[name=family]").input_value() == "other"
    seen.requests.pop()  # the reload


@pytest.mark.parametrize("address", ["#gallery", "#eps=77&sort=nothing", "#%%%=<b>&family=x", "#sort=__proto__"])
def test_an_address_that_means_nothing_changes_nothing(browser: Any, file: Path, address: str) -> None:
    seen = Seen(browser, file, address)
    assert seen.groups() == [BEST, EVIL, WORST, LATE]
    assert seen.complaints == []
    seen.context.close()


def test_all_of_it_works_by_keyboard(seen: Seen) -> None:
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.className") == "skip"
    reached = []
    for _ in range(40):
        seen.page.keyboard.press("Tab")
        reached.append(seen.page.evaluate("document.activeElement.name || document.activeElement.textContent.trim()"))
        if reached[-1].startswith("clean"):
            break
    assert {"dataset", "norm", "eps", "family", "q", "Reset", "#"} <= set(reached)
    outline = seen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    seen.page.keyboard.press("Enter")
    assert seen.groups() == [WORST, LATE, BEST, EVIL]
    seen.page.keyboard.press("Space")
    assert seen.groups() == [EVIL, BEST, WORST, LATE]
    seen.page.locator("[name=family]").focus()
    seen.page.keyboard.type("ord")
    assert seen.groups() == [WORST]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 768])
def test_a_narrow_screen_scrolls_tables_and_not_the_page(browser: Any, file: Path, width: int, scheme: str) -> None:
    seen = Seen(browser, file, viewport={"width": width, "height": 700}, color_scheme=scheme)
    seen.page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    inner = seen.page.locator("#board-1 .scroll")
    if width < 400:
        assert inner.evaluate("box => box.scrollWidth > box.clientWidth && box.tabIndex === 0")
        inner.focus()
        seen.page.keyboard.press("ArrowRight")
        seen.until(lambda: bool(inner.evaluate("box => box.scrollLeft > 0")))
    shapes = [
        plot.is_visible() for plot in (seen.page.locator(".plot.wide").first, seen.page.locator(".plot.narrow").first)
    ]
    assert shapes == ([False, True] if width < 700 else [True, False])
    assert seen.complaints == []
    seen.context.close()


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, bottom) => top.slice(0, 3).map((c, i) => c * top[3] + bottom[i] * (1 - top[3]));
  const linear = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => rgb.map(linear).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (one) => {
    const layers = [];
    for (let at = one; at; at = at.parentElement) layers.unshift(rgba(getComputedStyle(at).backgroundColor));
    return layers.reduce((bottom, top) => over(top, bottom), [255, 255, 255]);
  };
  const found = [];
  for (const one of document.querySelectorAll("body *")) {
    const words = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!words || !one.checkVisibility() || ["SCRIPT", "OPTION"].includes(one.tagName)) continue;
    const style = getComputedStyle(one);
    const colour = rgba(one instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(over(colour, behind(one))), light(behind(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${one.tagName}.${one.className.baseVal ?? one.className} ${ratio.toFixed(2)}`);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_is_behind_it(browser: Any, file: Path, scheme: str) -> None:
    """WCAG AA: 4.5 to 1."""
    seen = Seen(browser, file, color_scheme=scheme)
    seen.page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert seen.page.evaluate(CONTRAST) == []
    seen.context.close()


def test_without_javascript_it_is_a_plain_page(browser: Any, file: Path) -> None:
    seen = Seen(browser, file, java_script_enabled=False)
    assert seen.groups() == [BEST, EVIL, WORST, LATE]
    assert not seen.page.locator("#filters").is_visible()
    assert seen.page.locator("#board-1 th button").first.is_disabled()
    seen.context.close()


@pytest.mark.parametrize(("motion", "behaviour"), [("reduce", "auto"), ("no-preference", "smooth")])
def test_motion_is_asked_for(browser: Any, file: Path, motion: str, behaviour: str) -> None:
    seen = Seen(browser, file, reduced_motion=motion)
    assert seen.page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == behaviour
    seen.context.close()
