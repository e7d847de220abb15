"""Pictures of the chat page of a running `antimatter serve`: light.png, dark.png and phone.png of a
conversation of two exchanges. The same seed gives the same answers.

Usage: python tools/screenshots.py http://127.0.0.1:8000/ FOLDER [SEED]
"""

import json
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Page, expect, sync_playwright

QUESTIONS = ("Raises an error if the", "The function returns")
LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 800, "height": 640}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 800, "height": 640}},
    "phone": {
        "color_scheme": "light",
        "viewport": {"width": 390, "height": 780},
        "has_touch": True,
        "is_mobile": True,
        "device_scale_factor": 2,
    },
}
# Only what a page needs; Chromium would also look for updates
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


def converse(page: Page, url: str, seed: int) -> None:
    # As the page itself stores them
    key, value = f"antimatter.1.settings:{urlsplit(url).path}", {"seed": seed, "max_tokens": 40}
    item = json.dumps([key, json.dumps(value)])
    page.add_init_script(f"localStorage.setItem(...{item})")
    page.goto(url)
    for question in QUESTIONS:
        page.get_by_label("Your text").fill(question)
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Stop")).to_have_count(0)
        expect(page.locator(".note").last).not_to_be_empty(timeout=120_000)


def main(url: str, folder: Path, seed: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        for name, look in LOOKS.items():
            with browser.new_context(**look) as context:  # type: ignore[arg-type]
                page = context.new_page()
                converse(page, url, seed)
                page.screenshot(path=folder / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
