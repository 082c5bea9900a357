"""The README's pictures, taken anew: of MLflow's page, and of the report.

    python train.py -m trainable=true,false
    python -m tests.screenshots

They show the latest sweep of the record in `mlruns/`. Needs Debian's chromium and chromium-driver.
"""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path

from tests.browser import Browser, chromium, text_of, wait_for
from tests.conftest import run_command
from tests.serving import free_port, serving

from graft.paths import CHECKOUT, home

IMAGES = CHECKOUT / "docs" / "images"
SETTLING_SECONDS = 2  # a chart is there before its lines have grown to their places


def curves(browser: Browser, ui: str) -> None:
    """The page that `graft compare` names."""
    (page,) = re.findall(r"make ui, then http://127.0.0.1:5000(/\S+)", run_command(["graft", "compare"], home()).stdout)
    browser.get(ui + page)
    wait_for(browser, lambda page: "(step=" in text_of(page), "the curves")
    assistant = "[data-component-id='mlflow.assistant.chat_panel.close']"
    wait_for(browser, lambda page: page.find_element("css selector", assistant), "the assistant").click()
    time.sleep(SETTLING_SECONDS)
    browser.save_screenshot(str(IMAGES / "mlflow-compare.png"))


def report(browser: Browser) -> None:
    """The top of the page that the sweep left, with a folder that is nobody's in the place of this one."""
    (page,) = re.findall(r"^Report +(/\S+)", run_command(["graft", "compare"], home()).stdout, re.MULTILINE)
    shown = Path(tempfile.mkdtemp()) / "report.html"
    shown.write_text(Path(page).read_text().replace(str(home()), "~/graft"))
    browser.get(shown.as_uri())
    browser.set_window_size(1280, 1500)
    browser.save_screenshot(str(IMAGES / "report.png"))


def main() -> None:
    """Takes all of them."""
    IMAGES.mkdir(exist_ok=True)
    port = free_port()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(["make", "ui", f"PORT={port}"], home(), port, Path(folder) / "ui.log"),
        chromium(Path(folder) / "profile", height=720) as browser,
    ):
        curves(browser, f"http://127.0.0.1:{port}")
        report(browser)


if __name__ == "__main__":
    main()
