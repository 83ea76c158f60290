"""Prune and fine-tune (PF, Sec. 3.2): train densely, prune once by magnitude, train on.

As in the authors' code, the raw weights are pruned, not the averaged ones. All other state
continues from the checkpoint: Adam's moments and its clock, the average (with zeros outside the
masks), statistics of batch norm, singular vectors. The fine-tuning is as long as the dense training
and draws the same random numbers.
"""

from collections.abc import Callable

import gin
import tensorflow as tf

from stugan_tf.checks import check_fraction
from stugan_tf.errors import InputError
from stugan_tf.layers.kernel_mask import kernel_masks
from stugan_tf.methods.masking import prune
from stugan_tf.methods.phases import Phase, Phases
from stugan_tf.methods.pretraining import DENSE, dense_phase
from stugan_tf.sparsity.magnitude_pruning import check_pruning, prune_jointly

STARTS = ("latest", "best")


@gin.configurable(denylist=["sparsities"])
def prune_and_finetune(
    sparsities: dict[str, float],
    pruning: Callable[..., list[tf.Tensor]] = prune_jointly,
    start_from: str = "latest",
) -> Phases:
    """Dense training, then pruning and fine-tuning.

    Args:
        sparsities: the configured s_G and s_D, by the name of the network. If s_D is 0, the
            discriminator stays dense ("pruning G"); else it is pruned by itself ("pruning G & D").
        pruning: `(kernels, sparsity) -> masks`, such as those in `sparsity.magnitude_pruning`.
        start_from: 'latest' or 'best', the checkpoint of the dense training that is pruned. For
            BigGAN the authors take the best.

    Raises:
        InputError: if an argument is wrong.
    """
    for name, sparsity in sparsities.items():
        check_fraction(f"GAN.{name}_sparsity", sparsity, "Write 0.9 to prune to 90% zeros.")
    if not sparsities["generator"]:
        raise InputError(
            "prune_and_finetune prunes the generator, but GAN.generator_sparsity is 0. Set it to "
            "the fraction of zeros that you want, such as 0.9."
        )
    check_pruning("prune_and_finetune.pruning", pruning)
    if start_from not in STARTS:
        raise InputError(
            f"prune_and_finetune.start_from must be one of {', '.join(STARTS)}, got {start_from!r}."
        )
    pruned = {name: sparsity for name, sparsity in sparsities.items() if sparsity}

    def begin(training, parent):
        parent.restore(training)
        masks = {}
        for name, sparsity in pruned.items():
            layers = kernel_masks(training.gan.networks[name])
            masks[name] = pruning([layer.kernel.value for layer in layers], sparsity)
        prune(training, masks)
        return {"pruning": pruning.__name__, "sparsities": pruned}

    wanted = " and ".join(f"{name} to {sparsity:.2%}" for name, sparsity in pruned.items())
    finetuning = Phase(
        name="finetune",
        about=f"{start_from} checkpoint of dense, {pruning.__name__} ({wanted} zeros), trained on",
        begin=begin,
        # The phase counts its steps from 1, but the average goes on: it does not start again.
        settings={**DENSE, "Algorithm.average_start": 0},
        start_from=start_from,
    )
    return Phases("prune_and_finetune", [dense_phase(), finetuning])
