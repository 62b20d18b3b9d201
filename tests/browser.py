"""A real Chromium without a window: opens a page, waits until it is drawn, takes its picture.

python tests/browser.py URL PICTURE.png [TEXT ...]
"""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 1400, 1000
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


def find_chromium() -> tuple[str, str] | None:
    """The paths of a Chromium and of its driver; None where one of them is missing."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextmanager
def _chromium() -> Iterator[Any]:
    """A fresh browser that writes down what it asks for and what goes wrong.

    Raises:
        FileNotFoundError: there is no Chromium or no driver.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    found = find_chromium()
    if not found:
        raise FileNotFoundError("no Chromium with chromedriver; fix: apt-get install chromium chromium-driver")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = Options()
        options.binary_location = found[0]
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        for flag in [*FLAGS, f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=Service(found[1]))
        try:
            yield browser
        finally:
            browser.quit()


@dataclass(frozen=True)
class Inspection:
    """What a page did while it opened: the addresses it asked for, the widths of its images, its errors.

    Attributes:
        overflow: pixels by which it is wider than the window.
        ground: the colour behind its text.
    """

    requests: list[str]
    image_widths: list[int]
    errors: list[str]
    overflow: int
    ground: str


def inspect_page(url: str, *, width: int = WIDTH, dark: bool = False) -> Inspection:
    """Open a page in a window of some width and watch it; data inside the page itself is no request."""
    with _chromium() as browser:
        size = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        preferred = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [preferred]})
        browser.get("about:blank")
        browser.get_log("performance")  # what the browser's own first page asked for
        browser.get(url)
        widths = browser.execute_script(
            "return [...document.images].map(image => image.complete && image.naturalWidth)"
        )
        overflow = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
        errors = [entry["message"] for entry in browser.get_log("browser")]
    requests = [address for address in asked if not address.startswith("data:")]
    return Inspection(requests, widths, errors, overflow, ground)


def open_page(
    url: str, wait_for_texts: list[str], screenshot: Path, timeout_seconds: float = 60, click: str = ""
) -> str:
    """Open a page in a fresh browser, wait until it shows all texts and stands still, and save its picture as PNG.

    `click` is the label of something to press first, such as Prefect's tab `Task Runs`. A page that never stands still,
    such as the graph of a running flow, is taken as it is when the time is over.

    Returns:
        The visible text of the page.

    Raises:
        FileNotFoundError: there is no Chromium or no driver.
        TimeoutError: a text did not appear; the picture is saved all the same.
    """
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.common.by import By

    with _chromium() as browser:
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(url)
        deadline = time.monotonic() + timeout_seconds
        pressed = not click
        text, picture, before = "", b"", None
        while time.monotonic() < deadline:
            try:
                text = browser.find_element(By.TAG_NAME, "body").text
                picture = browser.get_screenshot_as_png()
                if not pressed:
                    labels = browser.find_elements(By.XPATH, f"//*[text()[normalize-space()='{click}']]")
                    next(label for label in labels if label.is_displayed()).click()
                    pressed = True
                    continue
            except (StopIteration, WebDriverException):
                time.sleep(0.3)  # not there yet, or just replaced
                continue
            if all(wanted in text for wanted in wait_for_texts):
                if picture == before:
                    break
                before = picture
            time.sleep(1.5)
        if picture:
            screenshot.parent.mkdir(parents=True, exist_ok=True)
            screenshot.write_bytes(picture)
    missing = [wanted for wanted in wait_for_texts if wanted not in text] + ([] if pressed else [click])
    if missing:
        raise TimeoutError(f"{url}: {missing} not shown within {timeout_seconds:g} s; the page says: {text[:2000]!r}")
    return text


if __name__ == "__main__":
    print(open_page(sys.argv[1], sys.argv[3:], Path(sys.argv[2])))
