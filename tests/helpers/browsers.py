"""A browser for which there is no network but this machine, as a person holds it."""

import contextlib
import shutil

import pytest


@contextlib.contextmanager
def chromium():
    """Yields a browser of Playwright; skips the test if there is no Chromium."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if path is None:
        pytest.skip("There is no Chromium on the path. Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=path,
            # Nothing else resolves, whatever the machine could reach.
            args=["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        yield browser
        browser.close()
