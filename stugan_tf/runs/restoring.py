"""What a command that works on a finished or running training reads of its workdir."""

from stugan_tf.errors import InputError


def configuration_file(workdir):
    """The path of the configuration of the run in `workdir`, a `pathlib.Path`.

    Raises:
        InputError: if no run was ever started there.
    """
    file = workdir / "config.gin"
    if not file.is_file():
        raise InputError(f"{workdir} is not the folder of a run: it has no config.gin.")
    return file


def named_steps(workdir, checkpoints, which, several=False):
    """The steps of the checkpoints that a flag names, ascending.

    Args:
        workdir: of the run, for messages.
        checkpoints: its `Checkpoints`.
        which: 'latest', 'best' or a step as text; 'all', too, where it is allowed.
        several: whether it is.

    Raises:
        InputError: if there is none of that name.
    """
    there = checkpoints.steps()
    if not there:
        raise InputError(f"{workdir} has no checkpoint yet. Train it first.")
    if which == "all" and several:
        return there
    if which == "latest":
        return there[-1:]
    if which == "best":
        best = checkpoints.best()
        if best is None:
            raise InputError(
                f"No checkpoint in {workdir} was scored during training, so none is the best. "
                "Train with train.evaluator and train.best_by, or choose a step: "
                f"{', '.join(map(str, there))}."
            )
        return [best]
    if not which.isdecimal() or int(which) not in there:
        names = "neither latest, best nor all, nor" if several else "neither latest nor best, nor"
        raise InputError(
            f"--checkpoint={which} is {names} a step that was kept: {', '.join(map(str, there))}."
        )
    return [int(which)]
