"""The tutorials in docs/tutorials: they run. What is stored of notebooks is small."""

import pathlib

import pytest

from tests.helpers import notebooks, pages

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "tutorials"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
MOST_BYTES = 200_000
# A page that goes on with what another has made follows it.
READ_TOGETHER = [
    ("first_gan.md", "ship.md"),
    ("own_images.md",),
    ("own_model.md",),
    ("own_criterion.md",),
]


@pytest.mark.ci
@pytest.mark.parametrize("names", READ_TOGETHER, ids=" ".join)
def test_a_tutorial_runs_and_prints_what_it_shows(names, tmp_path, monkeypatch):
    for name in names:
        pages.run(FOLDER / name, tmp_path, monkeypatch)


def test_each_tutorial_is_run():
    names = {path.name for path in FOLDER.glob("*.md")} - {"README.md"}
    assert names == {name for together in READ_TOGETHER for name in together}


def test_a_page_that_shows_something_else_than_is_printed_fails(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text('```ini title="a.gin"\nx = 1\n```\n```python\nprint("12 files")\n```\n')
    page.write_text(page.read_text() + "```text\n11 files\n```\n")
    pages.run(page, tmp_path, monkeypatch)
    assert (tmp_path / "a.gin").read_text() == "x = 1\n"
    page.write_text(page.read_text().replace("11 files", "11 folders"))
    with pytest.raises(AssertionError, match="folders"):
        pages.run(page, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_was_run_from_its_beginning_and_is_small(name):
    path = FOLDER / name
    assert path.stat().st_size < MOST_BYTES
    cells = notebooks.code_cells(notebooks.read(path))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell["outputs"] for cell in cells)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_prints_what_is_stored_of_it(name):
    stored = notebooks.read(FOLDER / name)
    again = notebooks.execute(notebooks.read(FOLDER / name))
    kinds = [
        [[output["output_type"] for output in cell["outputs"]] for cell in notebooks.code_cells(n)]
        for n in (stored, again)
    ]
    assert kinds[0] == kinds[1]


def test_a_cell_that_fails_ends_the_notebook_and_the_last_value_is_kept():
    def notebook(*sources):
        return {"cells": [{"cell_type": "code", "source": [source]} for source in sources]}

    run = notebooks.execute(notebook("x = 2\nprint(x)\n", "x + 1"))
    first, second = notebooks.code_cells(run)
    assert first["outputs"][0]["text"] == ["2\n"]
    assert second["outputs"][0]["data"] == {"text/plain": ["3"]}
    with pytest.raises(ZeroDivisionError):
        notebooks.execute(notebook("1 / 0"))
