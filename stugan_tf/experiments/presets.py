"""The sizes of the grids: `paper`, `cpu` and `smoke`."""

import dataclasses

from stugan_tf.errors import InputError
from stugan_tf.experiments.grid import Model, Preset
from stugan_tf.files import local_path


def _decaying(
    initial: float, generator_updates: int, discriminator_updates: int
) -> tuple[str, ...]:
    """A learning rate that falls to 0 over the training."""
    return (
        "GAN.generator_optimizer = @generator/MaskedAdam",
        "GAN.discriminator_optimizer = @discriminator/MaskedAdam",
        "MaskedAdam.learning_rate = @linear_decay()",
        f"linear_decay.initial = {initial}",
        f"generator/linear_decay.updates = {generator_updates}",
        f"discriminator/linear_decay.updates = {discriminator_updates}",
    )


def _rescaled(interval: int) -> dict[str, tuple[str, ...]]:
    """Intervals of gradual pruning and ADAPT in short runs, with the proportions of long runs.

    Args:
        interval: number of steps that replace 1000 steps, the Delta T of STU-GAN.
    """
    tenth = max(1, interval // 10)
    window = (f"BalanceRatio.every = {tenth}", f"BalanceRatio.window = {interval // tenth}")
    return {
        "gradual_pruning": (f"GradualPruning.update_interval = {interval}",),
        "adapt": (),
        "adapt_generator": (f"generator/Exploration.update_interval = {interval // 2}",),
        "adapt_relaxed": (f"DensityAdjustment.update_interval = {interval}", *window),
        "adapt_strict": (f"DensityAdjustment.update_interval = {2 * interval}", *window),
    }


# The intervals in the methods' own files apply.
_THEIR_OWN = dict.fromkeys(
    ("gradual_pruning", "adapt_generator", "adapt_relaxed", "adapt_strict"), ()
)


def _setting_of_adapt(total_steps: int) -> tuple[str, ...]:
    return (
        f"Algorithm.total_steps = {total_steps}",
        "Algorithm.generator_position = None",
        "cifar10.flip = True",
    )


def _timed(
    widths: tuple[int, int], total_steps: int, num_scores: int, *bindings: str
) -> tuple[str, ...]:
    """One size of the runs that are compared by time.

    Args:
        widths: of generator and discriminator.
        total_steps: generator steps, as many as take equal time in all sizes.
        num_scores: evaluations, evenly over the run.
        *bindings: more gin bindings.
    """
    return (
        f"sngan_generator.width = {widths[0]}",
        f"sngan_discriminator.width = {widths[1]}",
        f"Algorithm.total_steps = {total_steps}",
        f"train.evaluate_every = {total_steps // num_scores}",
        *bindings,
    )


# All scores have one protocol, during training and at its end, that of the reference code: 50,000
# images of the averaged generator; for BigGAN on CIFAR-10 with the statistics of batches of 256.
PAPER = Preset(
    models={
        "sngan": Model(
            "sngan_cifar10.gin",
            bindings=("train.evaluate_every = 3128",),  # 20 passes over the data.
            intervals=(100, 500, 1000, 2000, 5000, 10000, 20000, 30000, 50000),
            settings={
                **_THEIR_OWN,
                "adapt": _setting_of_adapt(100_000),
                "linear_decay": _decaying(2e-4, 50_048, 250_240),
            },
        ),
        "biggan": Model(
            "biggan_cifar10.gin",
            bindings=(
                "train.evaluate_every = 5000",
                "Evaluator.batch_norm = 'batch'",
                "Evaluator.batch_size = 256",
            ),
            intervals=(100, 500, 1000, 2000, 5000, 10000, 20000, 30000, 50000),
            settings={
                **_THEIR_OWN,
                "gradual_pruning": ("GradualPruning.update_interval = 5000",),
                "adapt": _setting_of_adapt(200_000),
                "linear_decay": _decaying(2e-4, 125_000, 500_000),
            },
        ),
        "imagenet": Model(
            "biggan_imagenet.gin",
            bindings=("train.evaluate_every = 4600",),
            variants={"small_dense": "biggan_imagenet_small_dense.gin"},
        ),
    },
    evaluation=("evaluation/paper.gin",),
    bindings=("train.evaluator = @Evaluator",),
    description="the paper's models, lengths and protocol",
)

CPU = Preset(
    models={
        "sngan": Model(
            "experiments/sngan_cpu.gin",
            intervals=(10, 50, 100, 200, 500, 1000),
            settings={**_rescaled(50), "linear_decay": _decaying(1e-3, 1500, 3000)},
        ),
        "sngan_by_time": Model(
            "experiments/sngan_cpu.gin",
            settings={
                "dense_narrow": _timed((32, 24), 1500, 6),
                "dense_wide": _timed((64, 48), 510, 6),
                "sparse_80": _timed((64, 48), 1020, 6),
                "sparse_90": _timed((64, 48), 1200, 6),
                "sparse_95": _timed((128, 96), 420, 6),
                "short": (),
            },
        ),
        "biggan": Model(
            "experiments/biggan_cpu.gin",
            intervals=(10, 50, 100, 200, 500, 1000),
            settings={**_rescaled(50), "linear_decay": _decaying(2e-4, 2000, 4000)},
        ),
        "imagenet": Model(
            "experiments/imagenet_cpu.gin",
            variants={"small_dense": "experiments/imagenet_cpu_small_dense.gin"},
        ),
    },
    evaluation=("experiments/cpu_evaluation.gin",),
    description="small models for two CPU cores; no rows of the paper",
)

_LOGGED = ("train.log_every = 2", "train.steps_per_execution = 2")
_OF_SMOKE = {**_rescaled(4), "linear_decay": _decaying(2e-4, 12, 24)}

SMOKE = Preset(
    models={
        "sngan": Model("experiments/sngan_smoke.gin", intervals=(2, 5), settings=_OF_SMOKE),
        "sngan_by_time": Model(
            "experiments/sngan_smoke.gin",
            settings={
                "dense_narrow": _timed((8, 8), 12, 2, *_LOGGED),
                "dense_wide": _timed((16, 16), 8, 2, *_LOGGED),
                **dict.fromkeys(("sparse_80", "sparse_90"), _timed((16, 16), 10, 2, *_LOGGED)),
                "sparse_95": _timed((32, 32), 8, 2, *_LOGGED),
                "short": (),
            },
        ),
        "biggan": Model("experiments/biggan_smoke.gin", intervals=(2, 5), settings=_OF_SMOKE),
        "imagenet": Model(
            "experiments/imagenet_smoke.gin",
            variants={"small_dense": "experiments/imagenet_smoke_small_dense.gin"},
        ),
    },
    evaluation=("experiments/smoke_evaluation.gin",),
    generator_sparsities=(0.5, 0.9),
    figure_models=("sngan",),
    seeds=(0,),
    description="a few steps on handwritten digits: the scores mean nothing",
)

# Image sizes of the preset `cpu` on digits, the smallest that these models can make.
DIGIT_SIZES = {"sngan": 16, "sngan_by_time": 16, "biggan": 32, "imagenet": 64}

PRESETS = {"paper": PAPER, "cpu": CPU, "smoke": SMOKE}


def preset(name: str, classifier: str | None = None) -> Preset:
    """The preset of a name.

    Args:
        name: a key of `PRESETS`.
        classifier: path of a SavedModel that scores the preset `cpu` (evaluation/saved_model.gin).
            Without it, that preset trains on digits, for which the package has a classifier.

    Raises:
        InputError: if there is no such preset or classifier.
    """
    if name not in PRESETS:
        raise InputError(f"--preset={name} is not one of {', '.join(PRESETS)}.")
    found = PRESETS[name]
    if classifier is not None:
        if name != "cpu":
            raise InputError(
                f"--classifier is for --preset=cpu. Leave it out: --preset={name} has its own "
                "evaluator."
            )
        if not local_path(classifier, "--classifier").is_dir():
            raise InputError(f"--classifier={classifier}: there is no such folder.")
        return dataclasses.replace(found, bindings=(f"saved_model.path = {classifier!r}",))
    if name == "cpu":
        return dataclasses.replace(
            found,
            models={
                name: dataclasses.replace(
                    model, bindings=(*model.bindings, f"digits.image_size = {DIGIT_SIZES[name]}")
                )
                for name, model in found.models.items()
            },
            evaluation=("experiments/cpu_evaluation_of_digits.gin",),
            description=f"{found.description}; on handwritten digits, for lack of a --classifier",
        )
    return found
