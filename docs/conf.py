"""How Sphinx builds the documentation site: `make docs`, offline, with every warning an error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.ext.autodoc import Options

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from sphinx.ext.napoleon.docstring import GoogleDocstring  # noqa: E402

from docs.building import pages  # noqa: E402

project = "AgentTTS"
author = "the AgentTTS developers"
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["building"]

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
default_role = "code"
toc_object_entries_show_parents = "hide"

smartquotes = False  # --db is an option, not a dash

html_theme = "furo"
html_static_path = ["building/static"]
html_css_files = ["site.css"]
html_title = "AgentTTS"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "monokai"

Documented = Literal[
    "module", "class", "exception", "function", "decorator", "method", "property", "attribute", "data", "type"
]


def read_docstring(
    app: Sphinx, what: Documented, name: str, documented: object, options: Options, lines: list[str]
) -> None:
    """Read a docstring in Google's style. A property's is prose, in which a colon marks no type."""
    if what != "property":
        lines[:] = GoogleDocstring(lines, None, None, what, name, documented, options).lines()


def setup(app: Sphinx) -> None:
    """Fill in what is generated, and lead links out of docs/ to the pages of the site."""
    app.connect("source-read", pages.complete)
    app.connect("autodoc-process-docstring", read_docstring)
