"""A headless Chromium for what only a browser can tell; `pip install playwright` and Debian's chromium are enough."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")


def missing() -> str:
    """Why there is no browser here, if so."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed (extra: browser)"
    return "" if _executable() else f"none of {', '.join(NAMES)} is on the PATH"


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_executable())
        try:
            yield browser
        finally:
            browser.close()


def _executable() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path), None)
