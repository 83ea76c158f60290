"""`run.json`: what is needed to tell, later and elsewhere, how a run came about."""

import datetime
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys

import stugan_tf
from stugan_tf.errors import InputError
from stugan_tf.files import write_atomically


def record_start(workdir, step, data, resumed=None, **facts):
    """Writes `run.json` at the first start of a run; adds to its `resumes` at later ones.

    Args:
        workdir: The working directory.
        step: The step from which this process goes on.
        data: What is known of the data, with a `fingerprint`: it must be that of the first start,
            because the order of the images resumes by position.
        resumed: What else JSON can hold of this start, if it is a later one.
        **facts: What else JSON can hold of the run: seed, counts.

    Raises:
        InputError: if the data have changed since.
    """
    path = pathlib.Path(workdir) / "run.json"
    if path.exists():
        manifest = json.loads(path.read_text())
        before, now = (known["fingerprint"] for known in (manifest["data"], data))
        if before != now:
            raise InputError(
                f"The data have changed since {workdir} was started: their fingerprint was "
                f"{before} and is {now}. Restore them, or start anew with another --workdir."
            )
        manifest.pop("finished", None)  # What follows may be a step that was lost.
        manifest.pop("failed", None)
        manifest["resumes"].append({"step": step, **process(), **(resumed or {})})
    else:
        manifest = {**process(), "data": data, **facts, "resumes": []}
    write_atomically(path, (json.dumps(manifest, indent=2) + "\n").encode())


def record_end(workdir, step):
    """Notes in `run.json` that the run is over, after `step` steps."""
    _note(workdir, finished={"step": step, "time": _now()})


def record_failure(workdir, reason):
    """Notes in `run.json` that the run failed, and why, in words."""
    _note(workdir, failed={"reason": reason, "time": _now()})


def _note(workdir, **values):
    manifest = read_manifest(workdir) | values
    text = json.dumps(manifest, indent=2) + "\n"
    write_atomically(pathlib.Path(workdir) / "run.json", text.encode())


def read_manifest(workdir):
    """What `run.json` in a folder says; an empty dictionary if no run was started there."""
    path = pathlib.Path(workdir) / "run.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def process():
    """What can be told of this process: time, command, versions, commit, host, devices."""
    import keras  # Here, so that a manifest can be read without them.
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
        "commit": _commit(),
        "host": platform.node(),
        "devices": [
            tf.config.experimental.get_device_details(device).get("device_name", device.name)
            for device in tf.config.list_physical_devices()
        ],
    }


def _commit():
    """The commit of our source, `-dirty` if changed since.

    What is no checkout, as in a container, may be told by STUGAN_TF_COMMIT; else it is None.
    """
    source = pathlib.Path(stugan_tf.__file__).parents[1]
    if not (source / ".git").exists():  # a checkout further up may be somebody else's
        return os.environ.get("STUGAN_TF_COMMIT") or None
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(describe, cwd=source, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
