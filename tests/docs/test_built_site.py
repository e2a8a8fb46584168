"""The check of a built site finds what is wrong with one."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture
def built_site():
    spec = importlib.util.spec_from_file_location("built_site", Path(__file__).with_name("built_site.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder, **pages):
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text)


def test_links_and_clicks(built_site, tmp_path):
    write(
        tmp_path,
        index='<a href="far.html">menu</a><article><a href="near.html">near</a></article>',
        near='<article><h1 id="here"></h1><a href="far.html?v=1#there">far</a> <a href="//out/x">out</a></article>',
        far='<article><h1 id="there"></h1><a href="furthest.html">furthest</a></article>',
        furthest='<article><a href="#">top</a></article>',
    )
    assert built_site.check(tmp_path, {"a": "near.html#here", "b": "far.html"}) == ([], {"a": 1, "b": 2})
    wrong, clicks = built_site.check(tmp_path, {"a": "furthest.html", "b": "near.html#nowhere"})
    assert wrong == ["a: furthest.html is more than 2 clicks away", "b: no place #nowhere in near.html"]
    assert clicks == {"b": 1}


def test_links_that_lead_nowhere(built_site, tmp_path):
    write(tmp_path, index='<article><a href="gone.html">gone</a> <a href="#gone"></a> <img src="gone.png"></article>')
    wrong, _ = built_site.check(tmp_path, {})
    gone = ["no file gone.html", "no file gone.png", "no place #gone in index.html"]
    assert sorted(wrong) == [f"index.html: {what}" for what in gone]
