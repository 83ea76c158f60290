"""Trains a GAN: `python -m stugan_tf.train --gin_file=F [--gin_file=F2 ...] [--workdir=DIR]`.

`--data=FOLDER` trains on images of your own; a configuration that fits them is chosen.

The same command started again with the same --workdir resumes. Without one, the run gets a new
folder, such as `runs/00007-sngan_cifar10-stu`. Exit codes: 0 done, 1 bad input or failed run, 128 +
the number of the signal that asked the run to save and stop.
"""

import contextlib
import pathlib
import shlex
import sys
from collections.abc import Sequence

from absl import flags

from stugan_tf import command, config
from stugan_tf.choices import STRATEGIES
from stugan_tf.errors import InputError
from stugan_tf.files import check_folder, local_path

RUNS = pathlib.Path("runs")  # Holds the workdirs of runs that were given none.

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(command)  # For --help.
flags.DEFINE_string(
    "workdir",
    None,
    "Folder of everything the run writes; a run that is there is resumed. By default a new, "
    f"numbered folder in {RUNS}/.",
)
flags.DEFINE_string(
    "data",
    None,
    "Folder of images to train on; its sub-folders, if any, are the classes. A configuration is "
    "chosen by them; --gin_file and --gin_param override it.",
)
flags.DEFINE_string("strategy", "auto", f"Devices to train on: {', '.join(STRATEGIES)}.")
flags.DEFINE_string(
    "shared",
    None,
    "Folder of pre-trainings, for methods that need one: runs that need the same one share it.",
)
flags.DEFINE_string(
    "init_from",
    None,
    "A run or an exported generator that a new run starts from: its weights, masks and average. "
    "The data and their classes may be others.",
)
flags.DEFINE_string("init_checkpoint", "latest", "Of --init_from: latest, best or a step.")
flags.DEFINE_bool("dry_run", False, "Check everything, print the plan, and stop.")


def _check_flags() -> None:
    if not FLAGS.gin_file and not FLAGS.data:
        raise InputError(
            "--gin_file is missing. Try --gin_file=quickstart.gin; `stugan list` shows the others. "
            "Or give --data, a folder of images of your own."
        )
    if FLAGS.data:
        check_folder(FLAGS.data, "--data")
    if not FLAGS.workdir and FLAGS.strategy == "multi_worker":
        raise InputError(
            "--workdir is missing: all workers of --strategy=multi_worker need the same folder."
        )
    _folders()
    if FLAGS["init_checkpoint"].present and not FLAGS.init_from:
        raise InputError("--init_checkpoint chooses a checkpoint of --init_from, which is missing.")
    if FLAGS.shared and FLAGS.strategy == "multi_worker":
        raise InputError("--shared is for one process: leave it out, or choose another --strategy.")


def _folders() -> tuple[pathlib.Path | None, pathlib.Path | None]:
    """The folders --workdir and --shared."""
    workdir = local_path(FLAGS.workdir, "--workdir") if FLAGS.workdir else None
    return workdir, local_path(FLAGS.shared, "--shared") if FLAGS.shared else None


with command.late_imports(__name__, _check_flags):
    from stugan_tf import models  # noqa: F401 - registers them with gin
    from stugan_tf.adapters.host_memory import reuse_freed_memory
    from stugan_tf.data import Source, data
    from stugan_tf.evaluation import evaluator  # noqa: F401 - registers it with gin
    from stugan_tf.methods.method import chosen_method
    from stugan_tf.methods.phases import BuiltTraining
    from stugan_tf.runs.ending import picture_and_scores
    from stugan_tf.runs.interruption import Interrupted
    from stugan_tf.runs.loop import Training
    from stugan_tf.runs.own_configuration import own_configuration
    from stugan_tf.runs.warm_start import WarmStart
    from stugan_tf.runs.workdir import numbered
    from stugan_tf.training.strategies import create_strategy, is_chief


def main(_: list[str]) -> None:
    """Builds, checks, prints the plan, trains."""
    workdir, shared = _folders()
    files, bindings = FLAGS.gin_file, FLAGS.gin_param
    if FLAGS.data:
        chosen = own_configuration(FLAGS.data, files, bindings)
        print(chosen, flush=True)
        files, bindings = chosen.files, chosen.bindings
    config.parse_gin(files, bindings)
    strategy = create_strategy(FLAGS.strategy)  # First, because it may choose devices.
    reuse_freed_memory()
    method = chosen_method(config.value_of)
    if FLAGS.init_from:
        start = WarmStart(FLAGS.init_from, FLAGS.init_checkpoint)
        if workdir is None or not start.has_begun(workdir):
            method = method.starting_from(start)

    where = ""

    @contextlib.contextmanager
    def opened(phase):
        with config.part(phase.settings):
            source = data()
            # First, because building the networks takes longer.
            _look_at(source, files, bindings)
            print(source.inspection, "", "building the networks", sep="\n", flush=True)
            training = Training(source, strategy)
            config.check_all_used()
            training.check_trackers()
            method.check(training)
            print("", method.describe(phase, training), sep="\n")
            if training.scoring or training.unscored:
                print(training.scoring or training.unscored)
            print(where, flush=True)
            yield BuiltTraining(
                training, config.operative_config(), config.operative_config(whole=True)
            )

    if FLAGS.dry_run:
        with opened(method.phases[0]):
            return
    with (
        numbered(RUNS, _name(files))
        if workdir is None
        else contextlib.nullcontext(workdir) as folder
    ):
        where = f"workdir: {folder}\nto resume: {_resuming(folder)}\n"
        try:
            method.run(folder, opened, shared)
        except Interrupted as interrupted:
            print(interrupted, file=sys.stderr)
            sys.exit(interrupted.exit_code)
        if is_chief(strategy):
            print("", _ending(folder), sep="\n")


def _look_at(source: Source, files: Sequence[str], bindings: Sequence[str]) -> None:
    """Raises InputError if the data cannot be read, and offers the plan if that is possible."""
    try:
        source.inspection  # noqa: B018 - it reads the data
    except InputError as error:
        arguments = [f"--gin_file={file}" for file in files]
        arguments += [f"--gin_param={binding}" for binding in bindings]
        if not FLAGS.dry_run or not _is_known(source):
            raise
        raise InputError(
            f"{error} The plan needs no data: {shlex.join(['stugan', 'report', *arguments])}"
        ) from error


def _is_known(source: Source) -> bool:
    """Whether the shape and the classes of images are known without the images."""
    try:
        return bool(source.image_shape and source.num_classes)
    except (InputError, OSError):
        return False


def _name(files: Sequence[str]) -> str:
    """A name for a new workdir, from the data and the gin files: such as sngan_cifar10-stu."""
    data = [pathlib.Path(FLAGS.data).absolute().name] if FLAGS.data else []
    return "-".join([*data, *(pathlib.Path(file).stem for file in files)])[:100]


def _resuming(workdir: pathlib.Path) -> str:
    """The command that resumes a run."""
    arguments = sys.argv[1:] if FLAGS.workdir else [*sys.argv[1:], f"--workdir={workdir}"]
    return shlex.join([*command.started_as("train"), *arguments])


def _ending(workdir: pathlib.Path) -> str:
    """The picture and the scores of a finished run, and what can be done with it."""
    next_commands: tuple[tuple[str, str, list[str]], ...] = (
        ("its curves", "report", []),
        ("its images", "sample", ["--output=images.png"]),
        ("a page that draws in any browser", "export", ["--format=html", "--output=exported"]),
    )
    lines = [picture_and_scores(workdir), "next:"]
    for what, name, flags_of_it in next_commands:
        words = [*command.started_as(name), f"--workdir={workdir}", *flags_of_it]
        lines.append(f"    {shlex.join(words)}    # {what}")
    return "\n".join(filter(None, lines))


if __name__ == "__main__":
    command.run(main)
