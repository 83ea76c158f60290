"""`evaluations.jsonl` of runs: reading it, adding to it, and tables that mix no protocols."""

import json
import pathlib

from stugan_tf.errors import InputError
from stugan_tf.evaluation.metrics import METRICS
from stugan_tf.evaluation.protocol import check_comparable, describe
from stugan_tf.files import read_json_lines


def read(workdir):
    """The records of a run by step, those of one step in the order of writing.

    Of several with the same step and protocol, the newest counts.
    """
    found = {}
    for record in read_json_lines(pathlib.Path(workdir) / "evaluations.jsonl"):
        found[record["step"], record["protocol"]["id"]] = record
    return sorted(found.values(), key=lambda record: record["step"])


def append(workdir, record):
    """Adds a record in one write, so that it may happen while a training does the same."""
    line = json.dumps(record) + "\n"
    with open(pathlib.Path(workdir) / "evaluations.jsonl", "a", encoding="utf-8") as file:
        file.write(line)


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
        records = [r for r in records if r["protocol"] == protocol]
        best = min(records, key=_cost)
        rows += [(workdir, "newest", records[-1]), (workdir, "best", best)]
    names = [name for name in rows[0][2] if name not in ("step", "time", "protocol")]
    lines = [("run", "which", "step", *names)]
    for workdir, which, record in rows:
        values = [record.get(name) for name in names]
        texts = ["-" if value is None else f"{value:.5g}" for value in values]
        lines.append((workdir, which, str(record["step"]), *texts))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cost(record):
    """FID, or what else comes first; lower is better."""
    names = [name for name in record if name not in ("step", "time", "protocol")]
    name = "fid" if "fid" in record else names[0]
    value = record[name]
    if value is None:
        return float("inf")
    return -value if METRICS.get(name) is max else value
