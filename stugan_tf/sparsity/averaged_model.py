"""The average of a network over its training, kept in a copy of the network."""

import keras
import tensorflow as tf

from stugan_tf import signatures
from stugan_tf.layers.kernel_mask import kernel_masks
from stugan_tf.layers.paths import names_of
from stugan_tf.sparsity.averaging import Average


class AveragedModel:
    """A copy of a network that holds the averages of its weights.

    Masked kernels are averaged by `rule` (Eq. 5). All other floats, with batch norm's moving
    statistics, have a plain exponential moving average, as in the authors' code. If `rule` declares
    that untrained variables are not averaged, these are copied. Masks and counters are copied.

    Attributes:
        model: the copy, which is sampled, scored and exported.
        seen: for each masked kernel a bool variable in its shape: the weights that have entered the
            average.
    """

    def __init__(self, original: keras.Model, copy: keras.Model, rule: signatures.Average) -> None:
        """Starts the average at the weights of `original`.

        Args:
            original: a built Keras model.
            copy: a model of the same architecture; only its weights may differ.
            rule: one of `sparsity.averaging`.
        """
        self.model = copy
        self._rule = rule
        layers = list(zip(kernel_masks(copy), kernel_masks(original), strict=True))
        self.seen = [
            tf.Variable(theirs.kernel_mask.value > 0, trainable=False) for _, theirs in layers
        ]
        masked = {
            id(mine.kernel): (theirs.kernel_mask.value, seen)
            for (mine, theirs), seen in zip(layers, self.seen, strict=True)
        }
        copied = {id(mine.kernel_mask) for mine, _ in layers}
        if not Average.of(rule).averages_untrained:
            copied |= {id(mine) for mine in copy.non_trainable_variables}
        self._masked, self._averaged, self._copied = [], [], []
        for mine, theirs in zip(copy.variables, original.variables, strict=True):
            mine.assign(theirs)
            pair = mine.value, theirs.value
            if id(mine) in masked:
                self._masked.append((*pair, *masked[id(mine)]))
            elif id(mine) in copied or not pair[0].dtype.is_floating:
                self._copied.append(pair)
            else:
                self._averaged.append(pair)

    def remask(self) -> None:
        """Adopts masks that were replaced between two trainings.

        Excluded weights become zero. All others count as having entered the average.
        """
        for average, _, mask, seen in self._masked:
            average.assign(mask * average)
            seen.assign(mask > 0)
        for mine, theirs in self._copied:
            mine.assign(theirs)

    def state(self) -> dict[str, tf.Variable]:
        """All variables by unique name: those of the copy, and `seen`."""
        names = names_of(self.model)
        named = dict(zip(names, self.model.variables, strict=True))
        state = {f"averaged/{name}": variable.value for name, variable in named.items()}
        by_variable = {id(variable): name for name, variable in named.items()}
        for layer, seen in zip(kernel_masks(self.model), self.seen, strict=True):
            state[f"averaged_seen/{by_variable[id(layer.kernel)]}"] = seen
        return state

    def update(self, decay: float | tf.Tensor) -> None:
        """Updates the average, after the optimizer and any topology update of the step.

        Args:
            decay: float scalar; 0 sets the average to the live weights.
        """
        for average, weight, mask, seen in self._masked:
            blended, now_seen = self._rule(average, weight, mask, seen, decay)
            average.assign(blended)
            if now_seen is not seen:
                seen.assign(now_seen)
        for average, weight in self._averaged:
            average.assign(decay * average + (1 - decay) * weight)
        for mine, theirs in self._copied:
            mine.assign(theirs)
