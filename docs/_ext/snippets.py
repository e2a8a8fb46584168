"""What the pages show is what their code does: every Python block of a Markdown page runs when the site is built, one
after the other as a reader would run them, and what it prints and draws stands below it. An error ends the build.

Links to an example lead to its page in the gallery.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import download_reference, pending_xref
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransform

PICTURES = "_pictures"  # beside the pages, for the collector of images


def quick(gallery_conf, script_vars):
    """The arguments of an example in the gallery."""
    return ["--quick"]


class RunSnippets(SphinxTransform):
    """Run the Python blocks of a page and show what comes of them."""

    default_priority = 10

    def apply(self, **kwargs):
        if Path(self.env.doc2path(self.env.docname)).suffix != ".md":
            return
        blocks = [b for b in self.document.findall(nodes.literal_block) if b.get("language") == "python"]
        namespace = {"__name__": "__main__"}
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), warnings.catch_warnings():
            for number, block in enumerate(blocks):
                text, figures = self.run(block, namespace, number)
                shown = []
                if text:
                    shown.append(nodes.literal_block(text, text, language="text", classes=["output"]))
                if not followed_by_picture(block):
                    shown += [nodes.image(uri=f"/{name}", alt="drawn by the code above") for name in figures]
                block.parent[block.parent.index(block) + 1 : block.parent.index(block) + 1] = shown

    def run(self, block, namespace, number):
        """(what it printed, names of the pictures that it drew)."""
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(block.astext(), self.env.docname, "exec"), namespace)
        except Exception as error:
            raise ExtensionError(f"{self.env.docname}, line {block.line}: {type(error).__name__}: {error}") from error
        return printed.getvalue().rstrip(), self.draw(number)

    def draw(self, number):
        """Write the open figures of matplotlib to files, close them, and return the files' names in the sources."""
        if "matplotlib.pyplot" not in sys.modules:
            return []
        plt, names = sys.modules["matplotlib.pyplot"], []
        folder = Path(self.env.srcdir, PICTURES)
        folder.mkdir(exist_ok=True)
        for figure in plt.get_fignums():
            name = f"{PICTURES}/{self.env.docname.replace('/', '-')}-{number}-{figure}.png"
            plt.figure(figure).savefig(Path(self.env.srcdir, name), dpi=100, bbox_inches="tight")
            names.append(name)
        plt.close("all")
        return names


def followed_by_picture(block):
    """Whether the document has a picture of its own behind the block."""
    later = block.parent[block.parent.index(block) + 1 :]
    return bool(later) and next(iter(later[0].findall(nodes.image)), None) is not None


class LinkExamples(SphinxTransform):
    """Make a link to a script of docs/examples one to its page."""

    default_priority = 999

    def apply(self, **kwargs):
        for link in list(self.document.findall(download_reference)):
            if found := re.fullmatch(r"(?:\.\./)?(?:docs/)?examples/(\w+)\.py", link["reftarget"]):
                link.replace_self(
                    pending_xref(
                        "", *link.children, refdomain="std", reftype="doc", refexplicit=True, refwarn=True,
                        refdoc=self.env.docname, reftarget=f"/gallery/{found[1]}",
                    )
                )  # fmt: skip


def setup(app):
    os.environ.setdefault("MPLBACKEND", "agg")
    app.add_transform(RunSnippets)
    app.add_transform(LinkExamples)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
