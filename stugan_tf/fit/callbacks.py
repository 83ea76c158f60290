"""Callbacks for `SparseGAN.fit`: sample grids and scores. Keras' own write checkpoints."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras

from stugan_tf.checks import check_function, check_positive
from stugan_tf.errors import InputError
from stugan_tf.fit.gan import SparseGAN
from stugan_tf.images import write_png
from stugan_tf.training.samples import Samples


class _OfGAN(keras.callbacks.Callback):
    """Acts at the end of every so many epochs, and of the last, of a `SparseGAN`."""

    def __init__(self, every: int) -> None:
        super().__init__()
        check_positive(f"{type(self).__name__}.every", every)
        self._every = every

    def set_model(self, model: keras.Model) -> None:
        """Refuses other models."""
        if not isinstance(model, SparseGAN):
            raise InputError(
                f"{type(self).__name__} is for a SparseGAN, got a {type(model).__name__}."
            )
        super().set_model(model)

    def _is_due(self, epoch: int) -> bool:
        number = epoch + 1
        return number % self._every == 0 or number == self.params.get("epochs")


class SampleGrid(_OfGAN):
    """Writes grids of images of the averaged generator, always of the same latents.

    The grid of a conditional GAN of at most 16 classes has one row for each class.
    """

    def __init__(self, path: str | os.PathLike[str], every: int = 1, num_samples: int = 64) -> None:
        """Keeps the settings.

        Args:
            path: folder of the pictures `epoch_NNNN.png`; made if needed.
            every: epochs between grids. The last epoch has one, too.
            num_samples: the most images in a grid.

        Raises:
            InputError: if a number is not positive.
        """
        super().__init__(every)
        check_positive("SampleGrid.num_samples", num_samples)
        self._path = pathlib.Path(path)
        self._num_samples = num_samples

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Makes the folder, so that a bad path shows before step 1."""
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"The folder {self._path} of SampleGrid cannot be made: {error.strerror}. Choose "
                "another path."
            ) from error
        self._samples = Samples(self.model.gan, self._num_samples, self.model.seed)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes a grid."""
        if self._is_due(epoch):
            write_png(self._path / f"epoch_{epoch + 1:04d}.png", self._samples.grid())


class Score(_OfGAN):
    """Puts the scores of an evaluator, such as `fid`, into the logs.

    In the list of callbacks it comes before those that need the scores, such as
    `ModelCheckpoint(..., monitor="fid")`.
    """

    def __init__(self, evaluator: Callable[..., dict[str, Any]], every: int = 1) -> None:
        """Keeps the evaluator.

        Args:
            evaluator: an `st.Evaluator`, or a function `gan -> {name: number}`, where `gan` is the
                `GAN` of the model.
            every: epochs between scores. The last epoch has them, too.

        Raises:
            InputError: if `every` is not positive.
        """
        super().__init__(every)
        check_function("Score.evaluator", evaluator)
        self._evaluator = evaluator

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Prepares what the scores compare with, which may take long the first time."""
        prepare = getattr(self._evaluator, "prepare", None)
        if prepare is not None:
            prepare()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Scores the averaged generator, or the one that the evaluator asks for."""
        if logs is not None and self._is_due(epoch):
            scores = self._evaluator(self.model.gan)
            logs |= {name: float(x) for name, x in scores.items() if isinstance(x, (int, float))}
