"""The reference is written from the package: a page for each public object, in the rooms where it stands.

What is public says the `__all__` of each room, so that a new object has its page without a line here. Of a room that
has none it is what the room defines under a name that does not begin with an underscore.
"""

import importlib
from pathlib import Path

import cgru

# Room and the title of its page. A room that is not there, or whose extra is not installed, is left out.
ROOMS = {
    "cgru.layers": "Layers",
    "cgru.models": "Models",
    "cgru.losses": "Losses",
    "cgru.metrics": "Metrics",
    "cgru.optimizers": "Optimizers",
    "cgru.schedules": "Learning rates",
    "cgru.callbacks": "Callbacks",
    "cgru.initializers": "Initializers",
    "cgru.regularizers": "Regularizers",
    "cgru.constraints": "Constraints",
    "cgru.sklearn": "scikit-learn's estimators",
    "cgru.streams": "Streams",
    "cgru.distributed": "Several processes and machines",
    "cgru.torch": "In a PyTorch model",
    "cgru.convert": "Conversion",
    "cgru.interpret": "Interpretation",
    "cgru.plot": "Pictures",
    "cgru.files": "Files",
    "cgru.quantized": "Small weights",
    "cgru.datasets": "Data sets",
    "cgru.threads": "Threads",
    "cgru.backends": "Backends",
}


def rooms():
    """Yield (room, its module, the full names of its objects): each object once, by the shortest name it has."""
    seen = set()
    for room in ROOMS:
        try:
            module = importlib.import_module(room)
        except ImportError:
            continue
        names = []
        for name in getattr(module, "__all__", None) or own_names(module):
            found = getattr(module, name)
            if not callable(found) or id(found) in seen:
                continue
            seen.add(id(found))
            names.append(f"cgru.{name}" if getattr(cgru, name, None) is found else f"{room}.{name}")
        if names:
            yield room, module, names
    left = [name for name in cgru.__all__ if callable(getattr(cgru, name)) and id(getattr(cgru, name)) not in seen]
    if left:
        raise RuntimeError(f"cgru.__all__: no room of the reference has {', '.join(left)}")


def own_names(module):
    """The names without an underscore of what a module itself defines."""
    return [n for n, o in vars(module).items() if n[0] != "_" and getattr(o, "__module__", None) == module.__name__]


def page(room, module, names):
    """The page of a room: what its module says of itself, and a table of the objects, each with its own page."""
    title = ROOMS[room]
    listed = "\n".join(f"   ~{name}" for name in names)
    return f"""{title}
{"=" * len(title)}

*{room}*

{module.__doc__.strip()}

.. autosummary::
   :toctree: .
   :nosignatures:

{listed}
"""


def write(app, config):
    """Write the pages of the rooms and their index, where they are not as they should be."""
    folder = Path(app.srcdir, "api")
    folder.mkdir(exist_ok=True)
    pages = {room.replace(".", "-"): page(room, module, names) for room, module, names in rooms()}
    listed = "\n".join(f"   {name}" for name in pages)
    pages["index"] = f"""API reference
=============

A page for each object, with the examples of the gallery that use it. What is under ``cgru`` itself is imported with it.

.. toctree::
   :maxdepth: 2

{listed}
"""
    config.autosummary_generate = [f"api/{name}.rst" for name in pages]
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def leave_out(app, what, name, member, skip, options):
    """Leave out what a class has from other packages: it is described there, with links of its own."""
    module = getattr(getattr(member, "fget", None) or member, "__module__", None)
    return True if module and not module.startswith("cgru") else None


def setup(app):
    app.connect("autodoc-skip-member", leave_out)
    app.connect("config-inited", write)  # before Sphinx looks what pages there are
    return {"parallel_read_safe": True, "parallel_write_safe": True}
