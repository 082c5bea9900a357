"""The page as a reader opens it: from a file, on a phone, in Chromium."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium.webdriver.common.by import By
from tests.browser import Browser, chromium
from tests.report.conftest import Records, Sweep
from tests.report.test_report import HOSTILE, varied


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def sweep(records: Records) -> Sweep:
    made = records.sweep(varied(), name=f"sweep {HOSTILE}")
    made.report()
    return made


@pytest.mark.parametrize("width", [380, 1200])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_is_whole_at_every_width(browser: Browser, sweep: Sweep, width: int, theme: str) -> None:
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    themed = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", themed)
    browser.get((sweep.folder / "report" / "report.html").as_uri())
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    figures = browser.find_elements(By.CSS_SELECTOR, "figure svg")
    assert len(figures) >= 8
    for figure in figures:
        assert 250 <= figure.size["width"] <= width
        assert figure.size["height"] > 100
    smallest = min(
        float(browser.execute_script("return arguments[0].getBoundingClientRect().height", text))
        for figure in figures
        for text in figure.find_elements(By.TAG_NAME, "text")[:3]
    )
    assert smallest >= 7, "letters in the figures have to be readable"
    ink = browser.execute_script("return getComputedStyle(document.body).color")
    label = browser.find_element(By.CSS_SELECTOR, "#figure-curves text")
    assert browser.execute_script("return getComputedStyle(arguments[0]).fill", label) == ink


def test_the_links_of_the_table_lead_to_the_runs(browser: Browser, sweep: Sweep) -> None:
    browser.get((sweep.folder / "report" / "report.html").as_uri())
    links = {link.get_attribute("href") for link in browser.find_elements(By.CSS_SELECTOR, "#trials a")}
    base = f"http://127.0.0.1:5000/#/experiments/{sweep.store.experiment_id}/runs/"
    assert links == {base + run for run in sweep.runs}


def test_nothing_is_fetched(browser: Browser, sweep: Sweep) -> None:
    browser.get((sweep.folder / "report" / "report.html").as_uri())
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
