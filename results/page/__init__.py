"""One self-contained HTML page of one or several runs: no request leaves it, and it reads without JavaScript too."""

import base64
import hashlib
from pathlib import Path

from markupsafe import Markup

from results.notes import show_eps
from results.page.content import Page, interval, percent

FOLDER = Path(__file__).parent


def page_html(page: Page) -> str:
    """The page as text; the same runs give the same bytes."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # not needed to read a run

    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    world = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    world.filters |= {"percent": percent, "interval": interval, "eps": show_eps, "distance": show_distance}
    return world.get_template("page.html").render(
        page=page, style=Markup(style), script=Markup(script), policy=_policy(style, script)
    )


def show_distance(distance: float | None, norm: str) -> str:
    """In 1/255 under linf, where that is how people think of it."""
    if distance is None:
        return "–"
    return f"{255 * distance:.2f}/255" if norm == "linf" else f"{distance:.3f}"


def _policy(style: str, script: str) -> str:
    """A content security policy under which the page can load nothing and run nothing but what is in it."""
    allowed = [f"{kind}-src 'sha256-{_digest(text)}'" for kind, text in (("style", style), ("script", script))]
    return "; ".join(["default-src 'none'", "img-src data:", *allowed, "base-uri 'none'", "form-action 'none'"])


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
