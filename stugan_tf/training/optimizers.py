"""What a player needs of its optimizer, and any optimizer of Keras as one."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from stugan_tf.adapters.keras_internals import LocalOptimizer, schedule_of
from stugan_tf.adapters.optimizer_internals import Slot, recorded_slots
from stugan_tf.checks import check_above_zero
from stugan_tf.errors import InputError
from stugan_tf.layers.paths import names_of, unique

# Arguments of Keras' optimizers that would do nothing here, or move weights after the masks.
_REFUSED = {
    "gradient_accumulation_steps": "Set Algorithm.accumulation_steps.",
    "loss_scale_factor": "Set train.precision = 'float16', which scales the loss by itself.",
    "use_ema": "The average of the generator is GAN.average.",
    "ema_momentum": "The average of the generator is GAN.average, with Algorithm.average_decay.",
    "ema_overwrite_frequency": "The average of the generator is GAN.average.",
}
_WITHOUT_EFFECT = {"use_ema": False, "ema_momentum": 0.99}  # Keras' defaults, in its configs.


class PlayerOptimizer(LocalOptimizer):
    """An optimizer that updates each replica locally and names its state.

    Attributes:
        moments: 'dense' if the optimizer uses the gradients of inactive weights, else 'active'.
    """

    moments = "dense"
    _slots: list[Slot]

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the slots, and remembers whose they are."""
        if self.built:
            return
        with recorded_slots(self) as slots:
            super().build(variables)
        self.__dict__["_slots"] = slots  # Not by `setattr`: Keras would track them.

    def restart(self, variable: keras.Variable, where: tf.Tensor) -> None:
        """Lets the slots of some weights start again from their initial values.

        Args:
            variable: a variable that the optimizer was built for.
            where: bool in the shape of the variable, whether a weight starts again.
        """
        for slot in self._slots:
            if slot.reference is variable:
                slot.restart(where)

    def check_restarts(self) -> None:
        """Raises InputError if the optimizer has state that `restart` cannot start again."""
        check_restarts(self, self._slots)

    def state(self, model: keras.Model) -> dict[str, tf.Variable]:
        """All variables by unique name, such as `second_moment/block2_c1/kernel`.

        Args:
            model: the model that this optimizer was built for.

        Returns:
            {name: `tf.Variable`}.
        """
        # Keras names a slot by the path of its variable, with other separators.
        prefixes = {
            variable.path.replace("/", "_") + "_": name
            for name, variable in zip(names_of(model), model.variables, strict=True)
        }

        def name_of(variable: keras.Variable) -> str:
            fitting = [prefix for prefix in prefixes if variable.name.startswith(prefix)]
            if not fitting:
                return variable.name
            prefix = max(fitting, key=len)
            return f"{variable.name.removeprefix(prefix)}/{prefixes[prefix]}"

        names = unique(map(name_of, self.variables))
        return {n: variable.value for n, variable in zip(names, self.variables, strict=True)}


def player_optimizer(name: str, optimizer: Any) -> PlayerOptimizer:
    """A copy of an optimizer for a player; call it inside `strategy.scope()`.

    Args:
        name: name of the setting, for messages.
        optimizer: a `MaskedAdam`, or any optimizer of Keras, created in any scope.

    Returns:
        An optimizer of the same class, or of a subclass, with the same arguments.

    Raises:
        InputError: if it is something else, has been used, or has an option that would do nothing.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise InputError(
            f"{name} must be an optimizer such as st.MaskedAdam(2e-4) or "
            f"keras.optimizers.Adam(2e-4, beta_1=0.5), got {optimizer!r}."
        )
    kind = type(optimizer)
    if hasattr(optimizer, "inner_optimizer"):
        raise InputError(
            f"{name} is a {kind.__name__} around another optimizer. Give the inner one: a GAN "
            "scales losses and changes masks by itself."
        )
    if optimizer.built:
        raise InputError(f"{name} has been built for another model. Make a new one.")
    options = optimizer.get_config()
    check_options(kind.__name__, options)
    schedule = schedule_of(optimizer)
    if schedule is not None:  # The object itself: Keras may not know its class.
        options["learning_rate"] = schedule
    if not issubclass(kind, PlayerOptimizer):
        kind = type(kind.__name__, (PlayerOptimizer, kind), {})
    return kind.from_config(options)


def check_restarts(optimizer: keras.optimizers.Optimizer, slots: Sequence[Slot]) -> None:
    """Raises InputError if an optimizer has state that cannot start again weight by weight.

    Args:
        optimizer: an optimizer that is built.
        slots: what was recorded while it was built.
    """
    known = {id(slot.variable) for slot in slots}
    for variable in optimizer.variables:
        if len(variable.shape) and id(variable) not in known:
            raise InputError(
                f"{type(optimizer).__name__} keeps state of the shape {tuple(variable.shape)}, "
                "which does not belong to single weights, so it cannot start again where weights "
                "are dropped or grown. Set slots = 'keep' in the rule, or choose an optimizer such "
                "as SGD or AdamW."
            )


def check_options(kind: str, options: Mapping[str, Any]) -> None:
    """Raises InputError for an option of Keras' optimizers that is wrong or would do nothing.

    Args:
        kind: name of the optimizer.
        options: its options by name; others than Keras' are left alone.
    """
    for name, advice in _REFUSED.items():
        if options.get(name) not in (None, _WITHOUT_EFFECT.get(name)):
            raise InputError(f"{kind}.{name} is not supported, got {options[name]!r}. {advice}")
    for name in ("clipnorm", "global_clipnorm", "clipvalue"):
        if options.get(name) is not None:
            check_above_zero(f"{kind}.{name}", options[name])
    if options.get("weight_decay"):
        check_above_zero(f"{kind}.weight_decay", options["weight_decay"])
