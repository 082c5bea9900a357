"""Headless Chromium, for what only a browser can see: pages that are made of their data by scripts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE_SECONDS = 90
WIDTH = 1280

Browser = webdriver.Chrome
Seen = TypeVar("Seen")


@contextmanager
def chromium(profile: Path, height: int = 900) -> Iterator[Browser]:
    """A browser with an empty profile in the folder `profile`, or a skip that says what is missing."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium and chromedriver here; Debian's packages chromium and chromium-driver bring them")
    options = Options()
    options.binary_location = program
    for flag in (
        "--headless=new",
        "--no-sandbox",  # which root, as in containers, cannot have
        "--disable-dev-shm-usage",  # which is small in containers
        "--disable-gpu",
        "--disable-background-networking",
        "--hide-scrollbars",
        f"--window-size={WIDTH},{height}",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, Service(driver))  # with a path given, Selenium downloads none
    try:
        yield browser
    finally:
        browser.quit()


def wait_for(browser: Browser, seen: Callable[[Browser], Seen], what: str) -> Seen:
    """What `seen` gives once it gives something; a page that redraws itself meanwhile is asked again."""
    waiting = WebDriverWait(browser, PATIENCE_SECONDS, ignored_exceptions=[WebDriverException])
    return waiting.until(seen, f"{what}: not in the page within {PATIENCE_SECONDS} s")


def text_of(browser: Browser) -> str:
    """All that the page shows as text."""
    return str(browser.execute_script("return document.body.innerText"))
