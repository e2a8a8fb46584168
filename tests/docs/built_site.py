"""Of a built site: python tests/docs/built_site.py FOLDER. Every link within it leads to a page and a place on it, and
what a newcomer comes for is at most two clicks from the start."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

CLICKS = 2
JOBS = {
    "classify recordings of one's own": "sequences.html",
    "forecast": "forecasting.html",
    "tag every step": "tags.html",
    "a model of characters": "text.html#a-model-of-characters",
    "sequences to sequences": "seq2seq.html",
    "a stream": "streams.html",
    "bring a PyTorch model with its head": "from_others.html#with-its-head",
    "interpret": "interpretation.html",
    "an error": "errors.html",
}


class Page(HTMLParser):
    """The places of a page that links can lead to, its links, and those in its text, which menus have no part in."""

    def __init__(self, path):
        super().__init__()
        self.places, self.links, self.in_text, self.text = {""}, [], [], False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.text |= tag == "article"
        self.places |= {attrs[name] for name in ("id", "name") if attrs.get(name)}
        found = [attrs[name] for name in ("href", "src") if attrs.get(name)]
        self.links += found
        self.in_text += found if self.text else []

    def handle_endtag(self, tag):
        self.text &= tag != "article"


def within(folder, page, link):
    """(file, place) that a link of a page leads to, relative to the folder; None for one that leads out."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if path.is_dir():
        path /= "index.html"
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path), unquote(parts.fragment)


def check(folder, jobs):
    """Return what is wrong, a list of str, and how many clicks in the text of pages lead to each job."""
    folder = folder.resolve()
    pages = {path.relative_to(folder).as_posix(): Page(path) for path in sorted(folder.rglob("*.html"))}
    wrong = []
    for name, page in pages.items():
        for target, place in sorted({within(folder, folder / name, link) for link in page.links} - {None}):
            if not (folder / target).exists():
                wrong.append(f"{name}: no file {target}")
            elif target in pages and place not in pages[target].places:
                wrong.append(f"{name}: no place #{place} in {target}")
    clicks, reached, edge = {}, {"index.html"}, {"index.html"}
    for number in range(CLICKS + 1):
        clicks |= {job: number for job, place in jobs.items() if urldefrag(place)[0] in edge and job not in clicks}
        edge = {found[0] for name in edge for found in leads(folder, pages, name)} - reached
        reached |= edge
    for job, place in jobs.items():
        page, fragment = urldefrag(place)
        if job not in clicks:
            wrong.append(f"{job}: {page} is more than {CLICKS} clicks away")
        elif fragment not in pages[page].places:
            wrong.append(f"{job}: no place #{fragment} in {page}")
    return wrong, clicks


def leads(folder, pages, name):
    """Where the links in the text of a page lead to."""
    return {within(folder, folder / name, link) for link in pages[name].in_text} - {None} if name in pages else set()


def main(folder):
    wrong, clicks = check(Path(folder), JOBS)
    for job, number in clicks.items():
        print(f"{number} click{'s'[number == 1 :]}: {job}")
    print("\n".join(wrong) or "all links lead somewhere")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
