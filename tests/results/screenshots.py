"""The README's pictures of a page: `python -m tests.results.screenshots PAGE.html FOLDER`."""

import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

from tests.results.browsers import chromium, missing

SHOTS = (
    ("report-leaderboard", "light", "#eps=8%2F255", "", 1000),
    ("report-gallery", "dark", "#eps=8%2F255&family=clustering", "#gallery", 760),
)
"""Name, colour scheme, address, the section to scroll to with its first classifier opened, height."""


def main(page: Path, folder: Path) -> None:
    if reason := missing():
        sys.exit(reason)
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for name, scheme, address, section, height in SHOTS:
            view = browser.new_page(viewport={"width": 1280, "height": height}, color_scheme=scheme)
            view.goto(page.resolve().as_uri() + address)
            if section:
                view.locator(f"{section} details:visible").first.evaluate("first => { first.open = true; }")
                view.evaluate("at => document.querySelector(at).scrollIntoView({behavior: 'instant'})", section)
            view.wait_for_timeout(300)
            shot = Image.open(BytesIO(view.screenshot())).convert("RGB")
            path = folder / f"{name}.png"
            shot.quantize(96).save(path, optimize=True)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
