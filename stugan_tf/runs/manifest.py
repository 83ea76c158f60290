"""`run.json`: what a reader needs to know, later and elsewhere, about how a run was made."""

import datetime
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

import stugan_tf
from stugan_tf.errors import InputError
from stugan_tf.files import write_atomically


def record_start(
    workdir: str | os.PathLike[str],
    step: int,
    data: dict[str, Any],
    resumed: dict[str, Any] | None = None,
    **facts: Any,
) -> None:
    """Writes `run.json` at the first start of a run; adds to its `resumes` at later starts.

    Args:
        workdir: the workdir.
        step: the step at which this process starts.
        data: facts about the data, with a `fingerprint`. It must be the same at each start,
            because a resumed run finds its images by position.
        resumed: more facts about a later start, as JSON can hold them.
        **facts: more facts about the run, such as seed and counts, as JSON can hold them.

    Raises:
        InputError: if the data has changed.
    """
    path = pathlib.Path(workdir) / "run.json"
    if path.exists():
        manifest = json.loads(path.read_text())
        before, now = (known["fingerprint"] for known in (manifest["data"], data))
        if before != now:
            raise InputError(
                f"The data has changed since {workdir} was started: its fingerprint was "
                f"{before} and is {now}. Restore it, or start again with another --workdir."
            )
        manifest.pop("finished", None)  # Steps that were lost may follow.
        manifest.pop("failed", None)
        manifest["resumes"].append({"step": step, **process(), **(resumed or {})})
    else:
        manifest = {**process(), "data": data, **facts, "resumes": []}
    write_atomically(path, (json.dumps(manifest, indent=2) + "\n").encode())


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
    """The content of `run.json` in a folder. Empty if no run was started there."""
    path = pathlib.Path(workdir) / "run.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def process() -> dict[str, Any]:
    """Facts about this process: time, command, versions, commit, host, devices."""
    import keras  # Imported here, so that a manifest can be read without TensorFlow.
    import tensorflow as tf

    return {
        "time": _now(),
        "command": shlex.join(sys.orig_argv),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "stugan_tf": stugan_tf.__version__,
        },
        "tensor_float_32": tf.config.experimental.tensor_float_32_execution_enabled(),
        "commit": _commit(),
        "host": platform.node(),
        "devices": [
            tf.config.experimental.get_device_details(device).get("device_name", device.name)
            for device in tf.config.list_physical_devices()
        ],
    }


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
