"""`evaluations.jsonl` of runs: reading it, adding to it, and tables that mix no protocols."""

import numbers
import os
import pathlib

from stugan_tf.errors import InputError
from stugan_tf.evaluation.protocol import check_comparable, describe, protocol_id
from stugan_tf.evaluation.table import METRICS
from stugan_tf.files import json_line, read_json_lines
from stugan_tf.tables import columns


def read(workdir):
    """The records of a run by step, those of one step in the order of writing.

    Of several with the same step and protocol, the newest counts. Lines that are no records are
    skipped. A protocol without an `id`, of somebody else's evaluator, gets one.
    """
    found = {}
    for record in read_json_lines(pathlib.Path(workdir) / "evaluations.jsonl"):
        protocol = record.get("protocol")
        if isinstance(record.get("step"), int) and isinstance(protocol, dict):
            protocol.setdefault("id", protocol_id(protocol))
            found[record["step"], protocol["id"]] = record
    return sorted(found.values(), key=lambda record: record["step"])


def append(workdir, record):
    """Adds a record in one write, so that it may happen while a training does the same."""
    line = json_line(record).encode()
    with open(pathlib.Path(workdir) / "evaluations.jsonl", "ab+", buffering=0) as file:
        if file.tell() and _last_byte(file) != b"\n":  # A kill tore the line before.
            line = b"\n" + line
        file.write(line)


def _last_byte(file):
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def compare(workdirs):
    """Tables of the newest and the best scores of runs, one for each protocol that all follow.

    Args:
        workdirs: folders of runs.

    Returns:
        The tables as text, each below its protocol.

    Raises:
        InputError: if a run has no scores, or no protocol is common to all.
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
    # Those of the first run in the order of their newest records, which all others know.
    protocols = {record["protocol"]["id"]: record["protocol"] for record in runs[str(workdirs[0])]}
    for records in runs.values():
        known = {record["protocol"]["id"] for record in records}
        protocols = {key: protocol for key, protocol in protocols.items() if key in known}
    if not protocols:
        check_comparable({workdir: records[-1]["protocol"] for workdir, records in runs.items()})
    return "\n\n".join(
        f"{_table(runs, protocol)}\n\n{describe(protocol)}" for protocol in protocols.values()
    )


def _table(runs, protocol):
    rows = []
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


def _cost(record):
    """FID, or the first metric of the table that there is; lower is better.

    Of a record with none of these it is the first number, for want of a better one.
    """
    scores = _scores(record)
    name = next((name for name in METRICS if name in scores), next(iter(scores), None))
    value = scores.get(name)
    if value is None:
        return float("inf")
    return METRICS[name].cost(value) if name in METRICS else value


def _scores(record):
    """What of a record is a number or was none, by name."""
    return {
        name: value
        for name, value in record.items()
        if name not in ("step", "time") and (value is None or isinstance(value, numbers.Real))
    }
