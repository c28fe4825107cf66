"""Links of a repository, made links of the site: one text serves a code host and mkdocs.

Pages link as files do. What lies outside of ``docs/`` is a page of the site where ``PAGES`` says so; another
file that a page links to is copied into the site as it is.
"""

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "clients/python/README.md": "clients/python.md",
    "clients/typescript/README.md": "clients/typescript.md",
}
FILES = "repository"  # the site's folder of copies
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that lie outside of ``docs/``."""
    for source, address in PAGES.items():
        files.append(File.generated(config, address, abs_src_path=str(ROOT / source)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page whose links lead to the site's pages and copies."""
    folder = Path(str(page.file.abs_src_path)).parent

    def of_site(link: re.Match[str]) -> str:
        file = (folder / link[1]).resolve()
        if not file.is_file():
            return link[1]  # mkdocs says so
        source = file.relative_to(ROOT).as_posix()
        address = PAGES.get(source) or source.removeprefix("docs/")
        if address == source:
            address = f"{FILES}/{source}"
            if not files.get_file_from_path(address):
                files.append(File.generated(config, address, abs_src_path=str(file)))
        return os.path.relpath(address, PurePosixPath(page.file.src_uri).parent)

    return LINK.sub(of_site, markdown)
