"""The documentation site: it builds without a warning, loads nothing from elsewhere, and can be searched."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

for library in ("sphinx", "furo", "myst_parser"):
    pytest.importorskip(library, reason="the site needs pip install '.[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it; a warning, such as of a link that leads nowhere, fails the build."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "docs", str(out)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return out


def test_every_page_is_there_and_in_the_search(site: Path) -> None:
    """Each page of docs/ becomes one, named in the index that the search box reads from the disk."""
    index = (site / "searchindex.js").read_text()
    pages = [file.relative_to(ROOT / "docs").with_suffix("") for file in (ROOT / "docs").rglob("*.md")]
    for page in pages:
        assert (site / f"{page}.html").exists(), page
        assert f'"{page}"' in index, page
    for word in ("certif", "max_sampl", "tensor"):
        assert word in index


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """No page has a script, a style, a font or a picture of another address."""
    loads = re.compile(
        r"<(?:script|img|iframe|source)[^>]*\ssrc=\"(?:https?:)?//|<link[^>]*\shref=\"(?:https?:)?//"
    )
    for file in site.rglob("*.html"):
        assert not loads.search(file.read_text()), file
    for style in site.rglob("*.css"):
        assert not re.search(r"@import\s|url\(\s*[\"']?(?:https?:)?//", style.read_text()), style


def test_links_out_of_the_docs_lead_to_pages(site: Path) -> None:
    """README's links to pages, and a page's link to a pipeline's README, are links between pages."""
    assert 'href="guide/own-pipeline.html"' in (site / "index.html").read_text()
    assert 'href="../families/rag.html"' in (site / "guide/rag.html").read_text()
