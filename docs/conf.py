"""Settings of Sphinx: ``sphinx-build -W docs docs/_build/html`` makes the pages of this folder.

It needs the extra ``docs``. ``-W`` makes every warning an error.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import regmask_sk

project = "regmask_sk"
author = "regmask_sk developers"
version = release = regmask_sk.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_templates", "sg_execution_times.rst"]
templates_path = ["_templates"]

# Pages are Markdown that also reads well where the repository is browsed.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # the anchors that links between pages use

autosummary_generate = True
autodoc_typehints = "none"  # the types are in the docstrings, with shapes and units
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
# Names of types in docstrings are words of English as often as names of objects.
numpydoc_xref_param_type = False

html_theme = "furo"
html_title = f"regmask_sk {version}"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": str(Path(__file__).parents[1] / "examples" / "gallery"),
    "gallery_dirs": "gallery",
    "filename_pattern": "plot_",
    "download_all_examples": False,
    "show_memory": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "within_subsection_order": "FileNameSortKey",
    "copyfile_regex": "",
}

# Sphinx knows only pages below its own folder. The two at the top of the repository are copied
# below it, and links from either side changed to suit.
_TOP_PAGES = ("README.md", "CHANGELOG.md")
_HERE = Path(__file__).parent


def copy_top_pages(app: Any) -> None:
    """Write the pages of the top folder below the documentation's."""
    folder = _HERE / "generated"
    folder.mkdir(exist_ok=True)
    for name in _TOP_PAGES:
        text = (_HERE.parent / name).read_text()
        text = re.sub(r"\]\((?!https?:|#)", "](../../", text)
        for page in _TOP_PAGES:
            text = text.replace(f"](../../{page}", f"]({page}")
        (folder / name).write_text(text.replace("](../../docs/", "](../"))


def link_to_copies(app: Any, name: str, source: list[str]) -> None:
    """Send links to the top pages to their copies."""
    for page in _TOP_PAGES:
        source[0] = source[0].replace(f"](../{page}", f"](generated/{page}")


def setup(app: Any) -> None:
    """Connect both to Sphinx."""
    app.connect("config-inited", lambda app, config: copy_top_pages(app))
    app.connect("source-read", link_to_copies)
