"""The page of settings says what the service takes."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_settings_is_of_this_version() -> None:
    page = runpy.run_path(str(DOCS / "settings_page.py"))["page"]()
    assert (DOCS / "settings.md").read_text() == page, "run `python docs/settings_page.py`"
