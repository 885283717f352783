"""Build the documentation as a site: `just docs`, or `sphinx-build -W docs site`."""

from importlib.metadata import version as _version

from pygments.lexers.data import JsonLexer
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

project = "odw-engine"
author = "the odw-engine contributors"
copyright = author  # noqa: A001 - the name that Sphinx reads
version = release = _version("odw-engine")

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["images"]
html_theme = "furo"
html_title = f"odw-engine {version}"
html_copy_source = False
html_show_sphinx = False
# headings that other pages link to, as GitHub names them
myst_heading_anchors = 4
myst_enable_extensions = ["strikethrough"]


def setup(app: Sphinx) -> None:
    """Name formats that Pygments does not know by these names."""
    app.add_lexer("jsonl", JsonLexer)
    app.add_lexer("csv", TextLexer)
