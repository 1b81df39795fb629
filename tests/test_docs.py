"""The examples of the documents run, and what their pictures show is so."""

import doctest
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from tests.checks import assert_same_numbers

DOCS = Path(__file__).resolve().parent.parent / "docs"


def examples(text, name):
    """The doctest of a page, its fences blanked so that they end an output."""
    return doctest.DocTestParser().get_doctest(re.sub(r"^```.*$", "", text, flags=re.M), {}, name, name, 0)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_examples_of_pages_run(page):
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    report = []
    runner.run(examples(page.read_text(), page.name), out=report.append)
    assert not runner.failures, "".join(report)


def test_a_wrong_example_is_noticed():
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(examples("text\n```python\n>>> 1 + 1\n3\n```\nmore\n", "page"), out=lambda line: None)
    assert (runner.tries, runner.failures) == (1, 1)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_pictures_of_pages_exist_and_are_small(page):
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text()):
        assert (DOCS / name).stat().st_size < 100_000


@pytest.fixture(scope="module")
def pictures():
    spec = importlib.util.spec_from_file_location("make_pictures", DOCS / "make_pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_convolution_is_equivariant(pictures):
    image = pictures.drawing()
    for pixels in range(-5, 6):
        assert_same_numbers(pictures.edges(pictures.move(image, pixels)), pictures.move(pictures.edges(image), pixels))


def test_pooling_is_partially_invariant(pictures):
    """A move by a pixel changes less of what larger windows see, and nothing of what one window over all sees."""
    changes = [pictures.changes(window, [1])[0] for window in (1, 4, 8, pictures.SIZE)]
    assert changes == sorted(changes, reverse=True)
    assert changes[0] > 0.5
    assert 0 < changes[2] < 0.5
    assert changes[3] == 0
    # Moves by whole windows move the pooled values.
    whole = pictures.WINDOW
    before, after = (
        np.abs(pictures.fastconv.max_pool2d(pictures.edges(pictures.move(pictures.drawing(), pixels)), whole))
        for pixels in (0, whole)
    )
    assert_same_numbers(after, np.roll(before, 1, axis=3))


def test_readme_shows_its_picture_and_its_measured_table():
    """Both are made by `make readme`; neither may be missing."""
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text):
        assert (DOCS.parent / picture).is_file(), picture
    table = text.split("<!-- measured: begin -->")[1].split("<!-- measured: end -->")[0]
    assert table.count("\n| `") > 10


# -- Edge cases -------------------------------------------------------------------------------------

TESTS = DOCS.parent / "tests"


def named_tests(file):
    return {f"{file.name}::{name}" for name in re.findall(r"^def (test_\w+)\(", file.read_text(), re.M)}


def test_every_row_of_the_edge_cases_names_tests_that_exist():
    rows = re.findall(r"^\| (?!case|-)(.*) \| (.*) \| (.*) \|$", (DOCS / "edge-cases.md").read_text(), re.M)
    assert len(rows) > 50
    existing = {name for file in TESTS.glob("test_*.py") for name in named_tests(file)}
    for case, _, tests in rows:
        named = set(re.findall(r"`(.+?)`", tests))
        assert named, case
        assert named <= existing, f"{case}: {named - existing}"


def test_every_test_of_an_edge_case_is_in_the_table():
    page = (DOCS / "edge-cases.md").read_text()
    for file in TESTS.glob("test_edge_*.py"):
        missing = {name for name in named_tests(file) if f"`{name}`" not in page}
        assert not missing, f"{missing} holds no row of docs/edge-cases.md, or another file is its place"
