"""What made the runs of a table: code, versions, data, hardware; and in what the runs differ.

Each run.json records it at every start. Runs on different data never share a table. If runs differ
in commit, versions, number of threads or device, the table says so.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from stugan_tf.errors import InputError
from stugan_tf.runs.manifest import is_on_cpu, starts_of

# {name: how messages call it}
FACTS = {
    "data": "data",
    "commit": "commit",
    "stugan_tf": "version of stugan_tf",
    "tensorflow": "TensorFlow",
    "keras": "Keras",
    "devices": "devices",
    "threads": "CPU threads",
}
_MOST_NAMES = 3  # Runs that a line names.

Made = dict[str, tuple[str, ...]]


def made_of(manifests: Iterable[dict[str, Any]]) -> Made:
    """What made a run.

    Args:
        manifests: what `read_manifest` reads of the run, one for each phase.

    Returns:
        {name of `FACTS`: its values, in the order of the starts}, without what is not known.
    """
    found: dict[str, list[str]] = {}
    for manifest in manifests:
        for start in starts_of(manifest):
            for name, value in _facts(start).items():
                values = found.setdefault(name, [])
                if value is not None and value not in values:
                    values.append(value)
    return {name: tuple(values) for name, values in found.items() if values}


def _facts(start: dict[str, Any]) -> dict[str, str | None]:
    """{name: value} of one start of a run."""
    versions = start.get("versions", {})
    devices = sorted({str(device) for device in start.get("devices", ())})
    found = {
        "data": start.get("data", {}).get("fingerprint"),
        "commit": start.get("commit"),
        **{name: versions.get(name) for name in ("stugan_tf", "tensorflow", "keras")},
        "devices": ", ".join(devices) or None,
        # On a GPU the kernels decide how sums are rounded, not the threads.
        "threads": start.get("threads") if is_on_cpu(start) else None,
    }
    return {name: None if value is None else str(value) for name, value in found.items()}


def check_same_data(made: Mapping[str, Made]) -> None:
    """Raises InputError unless all runs were trained on the same data.

    Args:
        made: {name of a run: what made it}.
    """
    groups = _groups(made, "data")
    if len(groups) > 1:
        listed = "\n  ".join(f"{value}: {_names(names)}" for value, names in groups.items())
        raise InputError(
            "The runs were trained on different data. The fingerprints and their runs:\n  "
            f"{listed}\nRemove the folders of the runs on data that you do not want, and start the "
            "command again."
        )


def differences(made: Mapping[str, Made]) -> list[str]:
    """A line for each fact in which runs differ, or that changed during a run.

    Args:
        made: {name of a run: what made it}.
    """
    lines = []
    for name, label in FACTS.items():
        groups = _groups(made, name)
        if len(groups) > 1 or any(len(found.get(name, ())) > 1 for found in made.values()):
            listed = "; ".join(f"{value} ({_names(names)})" for value, names in groups.items())
            lines.append(f"{label}: {listed}")
    return lines


def _groups(made: Mapping[str, Made], name: str) -> dict[str, list[str]]:
    """{value as text: names of the runs that have it}; runs where it is not known are left out."""
    groups: dict[str, list[str]] = {}
    for run, found in made.items():
        if name in found:
            groups.setdefault(", then ".join(found[name]), []).append(run)
    return groups


def _names(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
