"""The notebooks in docs/tutorials: they run, and what is stored of them is small."""

import pathlib

import pytest

from tests.helpers import notebooks

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "tutorials"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
MOST_BYTES = 200_000


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
