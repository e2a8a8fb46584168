"""The site: `sphinx-build -W -j 2 docs docs/_build` runs every snippet and every example, and fails at a warning."""

import sys
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
sys.path.insert(0, str(HERE / "examples"))  # for reporting.py, which the examples share

import cgru  # noqa: E402

project = "cgru"
author = "The cgru developers"
copyright = f"{date.today().year}, {author}"
version = release = cgru.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "reference",
    "snippets",
]
exclude_patterns = ["_build", "examples", "api/examples"]
default_role = "py:obj"  # what docstrings have between backquotes: a link where it is a name of ours
highlight_language = "none"  # of blocks that do not say: equations and commands
smartquotes = False

# -- pages

myst_enable_extensions = ["attrs_inline", "colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]  # the gallery's settings hold functions

html_theme = "furo"
html_title = f"cgru {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b63a5", "color-brand-content": "#0b63a5"},
    "dark_css_variables": {"color-brand-primary": "#6cb8f0", "color-brand-content": "#6cb8f0"},
}
templates_path = ["_templates"]

# -- reference

autodoc_typehints = "none"  # the docstrings name the types
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = True
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# -- gallery

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": "/",
    "within_subsection_order": "ExampleTitleSortKey",
    "ignore_pattern": r"(^|/)reporting\.py$",
    "reset_argv": "snippets.quick",
    "abort_on_example_error": False,
    "backreferences_dir": "api/examples",
    "doc_module": ("cgru",),
    "download_all_examples": False,
    "notebook_extensions": set(),  # a notebook would miss what the examples share
    "show_signature": False,
    "show_memory": False,
    "write_computation_times": False,
    "parallel": True,  # as many as sphinx-build's -j says
    "reset_modules": ("matplotlib",),
}
