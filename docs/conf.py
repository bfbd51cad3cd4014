"""How Sphinx builds the documentation: `make docs`. Nothing is fetched while it is built, or when it is read."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.domains.python import PyObject

import trx

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "trx"
copyright = "the authors of trx"
version = release = trx.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "pages_above", "settings_table"]
exclude_patterns = ["_build", "_ext", "_static"]

# ---- Markdown -------------------------------------------------------------------------------------------------------

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

# ---- the API, from docstrings ---------------------------------------------------------------------------------------

add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # `DEFAULT_ENV_VARS`, not what is in it
autodoc_typehints_format = "short"
default_role = "py:obj"  # names in a docstring's backticks are links where they can be, and code elsewhere
maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_attr_annotations = True
napoleon_use_ivar = True  # attributes as one list, like arguments
napoleon_use_rtype = False
python_use_unqualified_type_names = True

# ---- the site -------------------------------------------------------------------------------------------------------

html_theme = "furo"
html_title = f"trx {release}"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["width.css"]
html_theme_options = {
    "light_css_variables": {"code-font-size": "77.5%"},
    "dark_css_variables": {"code-font-size": "77.5%"},
}


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-signature", _as_written)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"


def _as_written(
    _app: Sphinx, what: str, name: str, _object: object, _options: object, arguments: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Signatures as the source has them; none for classes whose objects only trx makes."""
    if arguments and what in ("class", "exception") and name != "trx.Launcher":
        return "", None
    if arguments:
        arguments = arguments.replace(repr(trx.DEFAULT_ENV_VARS), "DEFAULT_ENV_VARS").replace("[[~P], ", "[P, ")
        arguments = re.sub(r"\b(k?w?args): ~typing\.~P", r"\1: P.\1", arguments)
    return arguments, returns
