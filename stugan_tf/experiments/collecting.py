"""The scores of the runs of a grid: one record for each cell, means over seeds, tables.

A cell whose run has not been started or has not finished is shown as missing.
"""

import csv
import io
import statistics
from typing import NamedTuple

from stugan_tf.errors import InputError
from stugan_tf.evaluation.protocol import check_comparable
from stugan_tf.evaluation.table import METRICS
from stugan_tf.experiments import provenance, runs
from stugan_tf.experiments.grid import CHOICES, Cell
from stugan_tf.tables import markdown

PUBLISHED = ("fid", "inception_score")  # The scores in the paper's tables.
PLACE = ("grid", "model", "line", "point", "seed")


class Result(NamedTuple):
    """A cell and its result.

    Attributes:
        cell: the `Cell`.
        name: name of its folder; '' if it needs a gin file that is missing.
        state: 'done', 'unfinished', 'missing' or 'damaged'.
        records: the records of its evaluations.jsonl, by step.
        made: what made it, see `provenance.made_of`.
        problem: what is damaged, in words; '' unless the state is 'damaged'.
    """

    cell: Cell
    name: str
    state: str
    records: list[dict]
    made: provenance.Made = {}  # noqa: RUF012 - nobody changes it
    problem: str = ""


class Mean(NamedTuple):
    """The mean of a score over seeds.

    Attributes:
        mean: the mean.
        deviation: the sample standard deviation (n - 1); None for a single run.
        count: the number of runs.
    """

    mean: float
    deviation: float | None
    count: int  # type: ignore[assignment]  # tuple.count is not used


def collect(cells, name_of, folder):
    """The `Result` of each cell.

    Args:
        cells: `Cell`s.
        name_of: `cell -> name of its folder`, or None if the name is not known.
        folder: folder of all cells.
    """
    results = []
    for cell in cells:
        name = name_of(cell)
        if name is None or not runs.workdir_of(folder / name).is_dir():
            results.append(Result(cell, name or "", "missing", []))
            continue
        try:
            state = "done" if runs.is_done(folder / name) else "unfinished"
            found = runs.scores_of(folder / name), runs.made(folder / name)
            results.append(Result(cell, name, state, *found))
        except runs.UNREADABLE as error:
            results.append(Result(cell, name, "damaged", [], problem=str(error)))
    return results


def _made(results):
    """{name of a run: what made it} of the finished runs."""
    return {result.name: result.made for result in results if result.state == "done"}


def protocols_of(results):
    """The protocols that all finished runs of a table have in common, by their id.

    Args:
        results: `Result`s of one table.

    Returns:
        {id: protocol}; empty if no run is finished.

    Raises:
        InputError: if finished runs have no protocol in common, or no scores.
    """
    finished = [result for result in results if result.state == "done"]
    for result in finished:
        if not result.records:
            raise InputError(
                f"{result.name} has finished without a score. Add one by `python -m "
                "stugan_tf.evaluate --workdir=...`, or remove its folder and run it again with "
                "train.evaluator."
            )
    known = [{r["protocol"]["id"]: r["protocol"] for r in run.records} for run in finished]
    if not known:
        return {}
    common = {
        key: protocol for key, protocol in known[0].items() if all(key in found for found in known)
    }
    if not common:
        check_comparable({run.name: run.records[-1]["protocol"] for run in finished})
    return common


def score_of(result, protocol_id, choice):
    """The record that stands for a finished run, or None.

    Args:
        result: a `Result`.
        protocol_id: id of the protocol of the scores.
        choice: 'last' is the record of the last scored step, 'best' that of the lowest FID.
    """
    records = [r for r in result.records if r["protocol"]["id"] == protocol_id]
    if result.state != "done" or not records:
        return None
    if choice == "last":
        return records[-1]
    scored = [record for record in records if record.get("fid") is not None]
    return min(scored, key=lambda record: record["fid"], default=None)


def _metrics() -> tuple[str, ...]:
    """The names of all metrics, with the paper's first."""
    return tuple(dict.fromkeys((*PUBLISHED, *METRICS)))


def means(results, protocol_id, choice):
    """{(line, point): ({metric: `Mean`}, number of seeds in the grid)} of one model's results.

    A run that stands for all points has the point None.
    """
    seeds = {}
    for result in results:
        seeds.setdefault((result.cell.line, result.cell.point), []).append(result)
    return {
        place: (_means([score_of(r, protocol_id, choice) for r in found]), len(found))
        for place, found in seeds.items()
    }


def _means(records):
    found = {}
    for metric in _metrics():
        values = [record[metric] for record in records if record and record.get(metric) is not None]
        if values:
            found[metric] = of_numbers(values)
    return found


def of_numbers(values):
    """The `Mean` of numbers, at least one."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Mean(statistics.fmean(values), deviation, len(values))


def as_csv(results: list[Result]) -> str:
    """All runs of a grid as CSV: state and, if finished, scores and their protocol."""
    names = ("step", *_metrics())
    scores = [f"{choice}_{name}" for choice in CHOICES for name in names]
    rows = []
    for result in results:
        row = {**_place(result), "state": result.state, "run": result.name}
        if result.state == "done" and result.records:
            protocol_id = result.records[-1]["protocol"]["id"]
            row["protocol"] = protocol_id
            row |= {name: ", then ".join(values) for name, values in result.made.items()}
            for choice in CHOICES:
                record = score_of(result, protocol_id, choice) or {}
                row |= {f"{choice}_{name}": record.get(name) for name in names}
        rows.append(row)
    return _csv([*PLACE, "state", "run", "protocol", *scores, *provenance.FACTS], rows)


def evaluations_as_csv(results: list[Result]) -> str:
    """All evaluations of all runs, finished or not, as CSV: step, protocol and scores."""
    rows = [
        {**_place(result), **record, "protocol": record["protocol"]["id"]}
        for result in results
        for record in result.records
    ]
    return _csv([*PLACE, "step", "protocol", *_metrics()], rows)


def _place(result):
    return {name: getattr(result.cell, name) for name in PLACE}


def _csv(names, rows):
    file = io.StringIO()
    writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def as_markdown(grid, results, paper, choice, notes):
    """The tables of a grid, one for each model and protocol, with our scores beside the paper's.

    Args:
        grid: a `Grid`.
        results: its `Result`s.
        paper: the result of `paper_results.paper_results`.
        choice: as for `score_of`.
        notes: lines that say how the results were made.
    """
    done = sum(result.state == "done" for result in results)
    parts = [f"# {grid.title}", *notes]
    if grid.claim:
        parts.append(f"The paper: {grid.claim}")
    parts.append(
        f"{done} of {len(results)} runs are done. Ours: FID, and Inception Score if there is one, "
        f"of the {choice} evaluation, mean ± standard deviation over seeds (their number). Paper: "
        "FID, Inception Score."
    )
    for model in dict.fromkeys(result.cell.model for result in results):
        of_model = [result for result in results if result.cell.model == model]
        protocols = protocols_of(of_model)
        provenance.check_same_data(_made(of_model))
        for protocol_id, protocol in protocols.items():
            parts.append(f"## {model}")
            parts.append(_table(of_model, model, protocol_id, paper, choice))
            parts.append(f"Protocol: {summary(protocol)}")
        if not protocols:
            parts.append(f"## {model}\n\nNo run is done yet.")
        differences = provenance.differences(_made(of_model))
        if differences:
            listed = "".join(f"\n- {line}" for line in differences)
            parts.append(f"The runs of {model} were not all made in the same way:\n{listed}")
    damaged = [f"\n- {result.problem}" for result in results if result.problem]
    if damaged:
        parts.append(f"Runs that are left out, because they cannot be read:\n{''.join(damaged)}")
    return "\n\n".join(parts) + "\n"


def _table(results, model, protocol_id, paper, choice):
    found = means(results, protocol_id, choice)
    lines = list(dict.fromkeys(line for line, _ in found))
    points = list(dict.fromkeys(point for _, point in found if point is not None)) or [None]
    header = ["", *(name for p in points for name in (f"{p or ''} ours".strip(), "paper"))]
    keys = {result.cell.line: result.cell.key for result in results}
    rows = []
    for line in lines:
        row = [line]
        for point in points:
            place = (line, point) if (line, point) in found else (line, None)
            row.append(_ours(found.get(place)))
            key = keys[line]
            known = paper.get((model, key, point or "")) or paper.get((model, key, ""), {})
            row.append(_numbers(known.get(name) for name in PUBLISHED))
        rows.append(row)
    return markdown(header, rows)


def _ours(found):
    if found is None:
        return ""  # The grid does not have this cell.
    scores, wanted = found
    if not scores:
        return f"missing (0 of {wanted})"
    texts = [in_words(scores[name]) for name in PUBLISHED if name in scores]
    count = max(score.count for score in scores.values())
    of_wanted = f" of {wanted}" if count < wanted else ""
    return f"{', '.join(texts)} ({count}{of_wanted})"


def in_words(score):
    """A `Mean` as text, with its deviation if it has one."""
    text = f"{score.mean:.2f}"
    return text if score.deviation is None else f"{text} ± {score.deviation:.2f}"


def _numbers(values):
    return ", ".join(f"{value:.2f}" for value in values if value is not None)


def summary(protocol: dict) -> str:
    """A protocol in one line."""
    extractor, generated, real = (
        found if isinstance(found := protocol.get(name), dict) else {}
        for name in ("extractor", "generated", "real")
    )
    origin = real.get("file") or real.get("source") or "real images"
    return (
        f"`{protocol['id']}`: {extractor.get('name', 'unknown')}, weights "
        f"{extractor.get('sha256', 'unknown')}; {generated.get('num_images', 'unknown')} images "
        f"of the {generated.get('weights', 'unknown')} generator, batch norm "
        f"{generated.get('batch_norm', 'unknown')}; against {origin}."
    )
