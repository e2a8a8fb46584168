"""Of a built site: python tests/docs/built_site.py FOLDER. Every link within it leads to a page and a place on it, and
what a newcomer comes for is at most two clicks from the start."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

CLICKS = 2
JOBS = {
    "classify recordings of one's own": "training.html",
}


class Page(HTMLParser):
    """The places of a page that links can lead to, and its links."""

    def __init__(self, path):
        super().__init__()
        self.places, self.links = {""}, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.places |= {attrs[name] for name in ("id", "name") if attrs.get(name)}
        self.links += [attrs[name] for name in ("href", "src") if attrs.get(name)]


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
    """Return what is wrong, a list of str, and the number of clicks to each job."""
    folder = folder.resolve()
    pages = {path.relative_to(folder).as_posix(): Page(path) for path in sorted(folder.rglob("*.html"))}
    wrong, leads = [], {}
    for name, page in pages.items():
        found = {within(folder, folder / name, link) for link in page.links} - {None}
        leads[name] = {target for target, _ in found}
        for target, place in sorted(found):
            if not (folder / target).exists():
                wrong.append(f"{name}: no file {target}")
            elif target in pages and place not in pages[target].places:
                wrong.append(f"{name}: no place #{place} in {target}")
    clicks, reached, edge = {}, {"index.html"}, {"index.html"}
    for number in range(CLICKS + 1):
        clicks |= {job: number for job, page in jobs.items() if page in edge and job not in clicks}
        edge = {target for name in edge for target in leads.get(name, ())} - reached
        reached |= edge
    wrong += [f"{job}: {page} is more than {CLICKS} clicks away" for job, page in jobs.items() if job not in clicks]
    return wrong, clicks


def main(folder):
    wrong, clicks = check(Path(folder), JOBS)
    for job, number in clicks.items():
        print(f"{number} clicks: {job}")
    print("\n".join(wrong) or "all links lead somewhere")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
