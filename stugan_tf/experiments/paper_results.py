"""The results in the paper, from `paper_results.csv`: fidelity.md, 7.1 to 7.5, and 5.1 for ADAPT.

A row of the file is one entry of one table. Models and columns have the names that our grids give
them; `key` is the key of the grid's `Line`. An empty column stands for all columns.
"""

import csv
import pathlib

PATH = pathlib.Path(__file__).with_name("paper_results.csv")
SCORES = ("fid", "inception_score", "training", "testing")


def paper_results() -> dict[tuple[str, str, str], dict[str, float]]:
    """{(model, key, column): {score: number}}; dense training has the column ''."""
    results: dict[tuple[str, str, str], dict[str, float]] = {}
    with open(PATH, newline="", encoding="utf-8") as file:
        for entry in csv.DictReader(file):
            place = entry["model"], entry["key"], entry["column"]
            found = {name: float(entry[name]) for name in SCORES if entry[name]}
            results.setdefault(place, {}).update(found)
    return results
