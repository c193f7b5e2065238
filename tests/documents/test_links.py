"""Links and anchors of README and the documentation, on GitHub and on the site."""

import inspect
import re

import pytest

import keras_vit
from tests.documents.pages import DOCS, FENCE, PAGES, ROOT, name_of

LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(page):
    """Return the anchors of a page's headings, which GitHub and mkdocs make alike.

    Headings for which they differ are left out, as are repeated ones.
    """
    found = []
    for heading in HEADING.findall(FENCE.sub("", page.read_text())):
        text = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        github = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        mkdocs = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip())
        found += [github] if github == mkdocs else []
    return {anchor for anchor in found if found.count(anchor) == 1}


def links(page):
    return LINK.findall(FENCE.sub("", page.read_text()))


@pytest.mark.any_backend
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links(page):
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        if "://" in link or path.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        # The generated API pages get their anchors from mkdocstrings.
        known = not anchor or anchor.startswith("keras_vit.") or anchor in anchors(target)
        # A page of the site can only link to files of the site.
        inside = page == ROOT / "README.md" or target.is_relative_to(DOCS)
        if not (target.is_file() and known and inside):
            broken.append(link)
    assert broken == []


@pytest.mark.any_backend
def test_external_links_are_complete_addresses():
    external = {link for page in PAGES for link in links(page) if "://" in link}
    assert [
        link for link in external if not re.match(r"https://[\w.-]+\.\w+", link)
    ] == []


@pytest.mark.any_backend
def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = re.findall(r"([\w/]+\.md)$", navigation, re.MULTILINE)
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(named) == sorted(pages)


@pytest.mark.any_backend
def test_every_public_package_has_an_api_page():
    pages = "".join(page.read_text() for page in DOCS.glob("api/*.md"))
    named = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    packages = {
        f"keras_vit.{name}"
        for name in keras_vit.__all__
        if inspect.ismodule(getattr(keras_vit, name))
    }
    modules = {f"keras_vit.{name}" for name in ("api", "convert", "processes")}
    assert named == packages | modules
