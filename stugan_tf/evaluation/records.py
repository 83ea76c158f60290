"""`evaluations.jsonl` of runs: reading it, adding to it, and tables that mix no protocols."""

import numbers
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from stugan_tf.errors import InputError
from stugan_tf.evaluation.protocol import check_comparable, describe, protocol_id
from stugan_tf.evaluation.table import METRICS
from stugan_tf.files import append_json_line, read_json_lines
from stugan_tf.tables import columns


def read(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the records of a run.

    Among records with the same step and protocol, the newest counts. Lines that are not records
    are skipped. A protocol without an `id`, written by another evaluator, gets one.

    Args:
        workdir: folder of the run.

    Returns:
        Records ordered by step; records of one step are in the order of writing.
    """
    found = {}
    for record in read_json_lines(pathlib.Path(workdir) / "evaluations.jsonl"):
        protocol = record.get("protocol")
        scores = [record[name] for name in METRICS if name in record]
        if isinstance(protocol, dict) and all(map(_is_score, scores)):
            if not isinstance(protocol.get("id"), str):
                protocol["id"] = protocol_id(protocol)
            found[record["step"], protocol["id"]] = record
    return sorted(found.values(), key=lambda record: record["step"])


def append(workdir: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Adds a record; a training may add records, or start again, at the same time."""
    append_json_line(pathlib.Path(workdir) / "evaluations.jsonl", record)


def _is_score(value: Any) -> bool:
    return value is None or (isinstance(value, numbers.Real) and not isinstance(value, bool))


def compare(workdirs: Sequence[str | os.PathLike[str]]) -> str:
    """Tables of the newest and the best scores of runs, one for each protocol that all runs share.

    Args:
        workdirs: folders of runs.

    Returns:
        The tables as text, each below its protocol.

    Raises:
        InputError: if a run has no scores, or the runs share no protocol.
    """
    runs = {str(workdir): read(workdir) for workdir in workdirs}
    for workdir, records in runs.items():
        if not pathlib.Path(workdir).is_dir():
            raise InputError(f"--compare: there is no folder {workdir}.")
        if not records:
            raise InputError(
                f"{workdir} has no scores. Make some by `python -m stugan_tf.evaluate "
                f"--workdir={workdir}`."
            )
    # Protocols of the first run, in the order of its records, that all other runs share.
    protocols = {record["protocol"]["id"]: record["protocol"] for record in runs[str(workdirs[0])]}
    for records in runs.values():
        known = {record["protocol"]["id"] for record in records}
        protocols = {key: protocol for key, protocol in protocols.items() if key in known}
    if not protocols:
        check_comparable({workdir: records[-1]["protocol"] for workdir, records in runs.items()})
    return "\n\n".join(
        f"{_table(runs, protocol)}\n\n{describe(protocol)}" for protocol in protocols.values()
    )


def _table(runs: Mapping[str, list[dict[str, Any]]], protocol: Mapping[str, Any]) -> str:
    rows: list[tuple[str, str, dict[str, Any]]] = []
    for workdir, records in runs.items():
        records = [r for r in records if r["protocol"]["id"] == protocol["id"]]
        best = min(records, key=_cost)
        rows += [(workdir, "newest", records[-1]), (workdir, "best", best)]
    names = list(dict.fromkeys(name for *_, record in rows for name in _scores(record)))
    lines = [("run", "which", "step", *names)]
    for workdir, which, record in rows:
        values = [_scores(record).get(name) for name in names]
        texts = ["-" if value is None else f"{value:.5g}" for value in values]
        lines.append((workdir, which, str(record["step"]), *texts))
    return columns(lines)


def _cost(record: Mapping[str, Any]) -> float:
    """The cost of the first metric of the table that a record has (FID first); lower is better.

    If the record has no metric of the table, the cost is its first number.
    """
    scores = _scores(record)
    name = next((name for name in METRICS if name in scores), next(iter(scores), None))
    value = None if name is None else scores[name]
    if name is None or value is None:
        return float("inf")
    return METRICS[name].cost(value) if name in METRICS else value


def _scores(record: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of a record by name; None for a score that could not be computed."""
    return {
        name: value
        for name, value in record.items()
        if name not in ("step", "time") and _is_score(value)
    }
