"""`run.json`: what a reader needs to know, later and elsewhere, about how a run was made."""

import datetime
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import stugan_tf
from stugan_tf.cores import num_cores
from stugan_tf.errors import InputError
from stugan_tf.files import is_step, read_json, write_atomically

THREADS = "TF_NUM_INTRAOP_THREADS"


def record_start(
    workdir: str | os.PathLike[str],
    step: int,
    data: dict[str, Any],
    resumed: dict[str, Any] | None = None,
    **facts: Any,
) -> str:
    """Writes `run.json` at the first start of a run; adds to its `resumes` at later starts.

    Args:
        workdir: the workdir.
        step: the step at which this process starts.
        data: facts about the data, with a `fingerprint`. It must be the same at each start,
            because a resumed run finds its images by position.
        resumed: more facts about a later start, as JSON can hold them.
        **facts: more facts about the run, such as seed and counts, as JSON can hold them.

    Returns:
        What now differs from the last start and may change the numbers of the run, in words: with
        it the run need not end with the weights of an uninterrupted one. '' if nothing is known to
        differ.

    Raises:
        InputError: if the data has changed.
    """
    path = pathlib.Path(workdir) / "run.json"
    manifest = read_manifest(workdir)
    here = process()
    changed = ""
    if manifest:
        before, now = (known.get("fingerprint") for known in (manifest.get("data", {}), data))
        if before is not None and before != now:
            raise InputError(
                f"The data has changed since {workdir} was started: its fingerprint was "
                f"{before} and is {now}. Restore it, or start again with another --workdir."
            )
        manifest.pop("finished", None)  # Steps that were lost may follow.
        manifest.pop("failed", None)
        changed = _changed(starts_of(manifest), here)
        if step == 0 and resumed is None:  # It was stopped before its first checkpoint.
            manifest |= facts
        manifest.setdefault("resumes", []).append({"step": step, **here, **(resumed or {})})
    else:
        manifest = {**here, "data": data, **facts, "resumes": []}
    write_atomically(path, (json.dumps(manifest, indent=2) + "\n").encode())
    return changed


def starts_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The facts of the first and of all later starts of a run, by its `run.json`."""
    return [manifest, *manifest.get("resumes", ())]


def threads_of(starts: Iterable[dict[str, Any]]) -> int | None:
    """The CPU threads of the last of these starts that says them; None if none does."""
    known = [start["threads"] for start in starts if is_step(start.get("threads"))]
    return known[-1] if known else None


def is_on_cpu(start: dict[str, Any]) -> bool:
    """Whether no accelerator is among the devices of a start; also if it does not name any."""
    return all(":CPU:" in str(device) for device in start.get("devices", ()))


def _changed(starts: list[dict[str, Any]], here: dict[str, Any]) -> str:
    """What decides the numbers of a run and differs now from its last start, in words."""
    return " ".join(filter(None, (_changed_threads(starts, here), _changed_code(starts[-1], here))))


def _changed_threads(starts: list[dict[str, Any]], here: dict[str, Any]) -> str:
    before = threads_of(starts)
    if before is None or before == here["threads"] or not is_on_cpu(here):
        return ""
    return (
        f"It has computed with {before} CPU threads and goes on with {here['threads']}, so it "
        "rounds some sums differently from an uninterrupted run. To avoid that, stop it and start "
        f"it with {THREADS}={before}."
    )


def _changed_code(last: dict[str, Any], here: dict[str, Any]) -> str:
    before, now = (_code_of(start) for start in (last, here))
    changes = [
        f"{name} {before[name]} before, {now[name]} now"
        for name in before
        if name in now and before[name] != now[name]
    ]
    if not changes:
        return ""
    return (
        f"It goes on with other code ({'; '.join(changes)}), which may compute other numbers: see "
        "CHANGELOG.md."
    )


def _code_of(start: dict[str, Any]) -> dict[str, str]:
    """What is known of the code at a start: versions of packages and our commit, by name."""
    versions = start.get("versions", {})
    known = {name: versions.get(name) for name in ("tensorflow", "keras", "stugan_tf")}
    known["commit"] = start.get("commit")
    return {name: value for name, value in known.items() if isinstance(value, str)}


def record_end(workdir: str | os.PathLike[str], step: int) -> None:
    """Notes in `run.json` that the run has finished, after `step` steps."""
    _note(workdir, finished={"step": step, "time": _now()})


def record_failure(workdir: str | os.PathLike[str], reason: str) -> None:
    """Notes in `run.json` that the run failed, and the reason, in words."""
    _note(workdir, failed={"reason": reason, "time": _now()})


def _note(workdir: str | os.PathLike[str], **values: Any) -> None:
    manifest = read_manifest(workdir) | values
    text = json.dumps(manifest, indent=2) + "\n"
    write_atomically(pathlib.Path(workdir) / "run.json", text.encode())


def read_manifest(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of `run.json` in a folder. Empty if no run was started there.

    Raises:
        InputError: if the file is damaged.
    """
    path = pathlib.Path(workdir) / "run.json"
    try:
        found = read_json(path)
        _check(found)
    except ValueError as error:
        raise InputError(
            f"{path} is damaged: {error}. Copy it back from a backup, or remove it: then the run "
            "goes on with a new one, which no longer says how it was started."
        ) from None
    return found


def _check(found: dict[str, Any]) -> None:
    """Raises ValueError unless what the package reads from a `run.json` has the right form."""
    objects = ("data", "versions", "finished", "failed", "init_from")
    arrays = ("devices", "resumes")
    for names, kind, called in ((objects, dict, "object"), (arrays, list, "array")):
        for name in names:
            if name in found and not isinstance(found[name], kind):
                raise ValueError(f"{name!r} is not a JSON {called}")
    for resume in found.get("resumes", ()):
        if not isinstance(resume, dict):
            raise ValueError("'resumes' holds something other than JSON objects")
        _check(resume)
    if "finished" in found and not is_step(found["finished"].get("step")):
        raise ValueError("'finished' has no 'step'")
    if "failed" in found and not isinstance(found["failed"].get("reason"), str):
        raise ValueError("'failed' has no 'reason'")


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def process() -> dict[str, Any]:
    """Facts about this process: time, command, versions, commit, host, devices."""
    import keras  # Imported here, so that a manifest can be read without TensorFlow.
    import tensorflow as tf

    from stugan_tf.arithmetic import uses_tensor_float_32

    return {
        "time": _now(),
        "command": shlex.join(sys.orig_argv),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "stugan_tf": stugan_tf.__version__,
        },
        "tensor_float_32": uses_tensor_float_32(),
        "commit": _commit(),
        "host": platform.node(),
        "threads": num_threads(),
        "devices": [
            tf.config.experimental.get_device_details(device).get("device_name", device.name)
            for device in tf.config.list_physical_devices()
        ],
    }


def num_threads() -> int:
    """The CPU threads that share one operation of TensorFlow. They decide how sums are rounded."""
    import tensorflow as tf

    chosen = tf.config.threading.get_intra_op_parallelism_threads()
    if not chosen and os.environ.get(THREADS, "").isdecimal():
        chosen = int(os.environ[THREADS])
    return chosen or num_cores()


def _commit() -> str | None:
    """The commit of our source, with `-dirty` if it was changed.

    Outside of a checkout, such as in a container, it is the environment variable STUGAN_TF_COMMIT,
    or None.
    """
    source = pathlib.Path(stugan_tf.__file__).parents[1]
    if not (source / ".git").exists():  # A checkout further up may be of another project.
        return os.environ.get("STUGAN_TF_COMMIT") or None
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(describe, cwd=source, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
