"""What the paper reports, from `paper_results.csv`: fidelity.md, sections 7.1 to 7.5; ADAPT's: 5.1.

A row of the file is one entry of one table. Models and columns have the names that our grids give
them; `key` is that of the grid's `Line`. An empty column stands for all of them.
"""

import csv
import pathlib

PATH = pathlib.Path(__file__).with_name("paper_results.csv")
SCORES = ("fid", "inception_score", "training", "testing")


def paper_results():
    """{(model, key, column): {score: number}}; dense training has the column ''."""
    results = {}
    with open(PATH, newline="", encoding="utf-8") as file:
        for entry in csv.DictReader(file):
            place = entry["model"], entry["key"], entry["column"]
            found = {name: float(entry[name]) for name in SCORES if entry[name]}
            results.setdefault(place, {}).update(found)
    return results
