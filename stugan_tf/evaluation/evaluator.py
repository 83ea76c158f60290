"""Scores a generator: draws images, extracts features, compares them with real images."""

import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import gin
import numpy as np
import tensorflow as tf

from stugan_tf.arithmetic import tensor_float_32
from stugan_tf.checks import (
    check_above_zero,
    check_function,
    check_instance,
    check_positive,
    check_seed,
)
from stugan_tf.choices import BATCH_NORMS
from stugan_tf.data import Source
from stugan_tf.errors import InputError
from stugan_tf.evaluation.extraction import Extraction
from stugan_tf.evaluation.extractors import Extractor, tfhub_inception
from stugan_tf.evaluation.neighbors import Neighbors, find_neighbors
from stugan_tf.evaluation.protocol import protocol_id
from stugan_tf.evaluation.sampling import (
    Generates,
    Sampler,
    check_range,
    numbered_inputs,
)
from stugan_tf.evaluation.statistics import (
    Collector,
    Statistics,
    real_statistics,
    ttur_statistics,
)
from stugan_tf.evaluation.table import BUILT_IN, METRICS, Comparison, Sizes
from stugan_tf.images import to_uint8
from stugan_tf.progress import ProgressBar
from stugan_tf.randomness import Purpose, fold
from stugan_tf.signatures import ImageShape, Seed

BLOCK = 100  # Latents that share random numbers, whatever the batch size.


class Inputs(Protocol):
    """What a generator takes and makes; `serving.interface.Interface` is one."""

    @property
    def latent_dim(self) -> int:
        """Length of a latent vector."""

    @property
    def num_classes(self) -> int:
        """Labels are integers below it."""

    @property
    def image_shape(self) -> ImageShape:
        """(H, W, C)."""


@gin.configurable(denylist=["source", "strategy"])
class Evaluator:
    """Scores generators by one protocol: `Evaluator(source, strategy)(gan)`.

    Attributes:
        truncation: where latents are cut off, or None; may be set again.
        metrics: {name of a metric: `min` or `max`}, which of its values is the best.
        protocol: everything that scores depend on besides the generator, see
            `evaluation.protocol`; it needs the statistics of real images, see `prepare`.
    """

    def __init__(
        self,
        source: Source,
        strategy: tf.distribute.Strategy,
        extractor: Callable[[], Extractor] = tfhub_inception,
        metrics: Sequence[str] = BUILT_IN,
        num_images: int = 50_000,
        real: Source | None = None,
        statistics: str | os.PathLike[str] | None = None,
        num_kept: int = 10_000,
        num_splits: int = 10,
        batch_size: int = 100,
        weights: str = "averaged",
        batch_norm: str = "inference",
        truncation: float | None = None,
        repeats: int = 1,
        seed: int = 0,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        """Loads the extractor and checks everything that can be checked before sampling.

        Args:
            source: the data of the training.
            strategy: the strategy that generators are made for.
            extractor: makes the extractor, see `evaluation.extractors`.
            metrics: names from the table of metrics, see `evaluation.table`.
            num_images: number of images to generate.
            real: a source of real images, all of which count; None means `source`.
            statistics: path of an .npz file with `mu` and `sigma` of real images, or None.
            num_kept: number of real and of generated images whose features are kept, for metrics
                that need features.
            num_splits: number of parts of the Inception Score.
            batch_size: number of images that one device generates and extracts from at once. It
                changes which images are scored only if batch norm uses batch statistics.
            weights: 'averaged' or 'live'.
            batch_norm: 'inference', 'batch' or 'standing', see `Sampler`.
            truncation: where latents are cut off, see `randomness.draw_latents`; None for nowhere.
            repeats: how often images are generated; scores are means over the repeats, and
                `*_repeat_std` their deviation.
            seed: seed of latents and labels.
            cache_dir: folder for statistics of real images; by default in the user's cache.

        Raises:
            InputError: if an argument is invalid, the extractor cannot be loaded, or there are too
                few images for a metric.
        """
        for name, number in {
            "num_images": num_images,
            "num_kept": num_kept,
            "num_splits": num_splits,
            "batch_size": batch_size,
            "repeats": repeats,
        }.items():
            check_positive(f"Evaluator.{name}", number)
        check_seed("Evaluator.seed", seed)
        if truncation is not None:
            check_above_zero("Evaluator.truncation", truncation)
        _check_choice("Evaluator.weights", weights, ("averaged", "live"))
        _check_choice("Evaluator.batch_norm", batch_norm, BATCH_NORMS)
        _check_metrics(metrics)
        if real is not None:
            check_instance("Evaluator.real", real, Source)
        self._metrics = [metric for name, metric in METRICS.items() if name in metrics]
        self.metrics = {metric.name: metric.best for metric in self._metrics}
        self._source = source if real is None else real
        self._shape = source.image_shape
        self._strategy = strategy
        self._num_images = num_images
        self._num_kept = num_kept if self._need("features") else 0
        self._num_splits = num_splits
        self._batch_size = batch_size
        self._weights = weights
        self._batch_norm = batch_norm
        self.truncation = truncation
        self._repeats = repeats
        self._seed = seed
        self._cache_dir = cache_dir
        self._statistics: Statistics | None = ttur_statistics(statistics) if statistics else None
        self._is_published = self._statistics is not None
        self._extraction = Extraction(_made(extractor, strategy), strategy, batch_size)
        # Samplers of the GANs that are still in use.
        self._samplers: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._check()

    def _need(self, what: str) -> list[str]:
        """Names of the metrics that need `what`, one of the table's `NEEDS`."""
        return [metric.name for metric in self._metrics if what in metric.needs]

    @property
    def _sizes(self) -> Sizes:
        return Sizes(
            num_images=self._num_images,
            num_features=self._extraction.extractor.num_features,
            num_real=None if self._is_published else self._source.num_images,
            num_splits=self._num_splits,
            num_kept=self._num_kept,
        )

    def _check(self):
        """Raises InputError if extractor, images or statistics lack something a metric needs."""
        for shape in {self._shape, self._source.image_shape}:
            self._extraction(np.zeros([1, *shape], np.uint8))
        extractor = self._extraction.extractor
        of_logits = self._need("logits")
        if of_logits and extractor.num_logits is None:
            raise InputError(
                f"The extractor {extractor.name} gives no logits, which {', '.join(of_logits)} "
                "needs. Name its logits, or leave that out of Evaluator.metrics."
            )
        if self._is_published:
            self._check_published(extractor)
        self._check_kept()
        for metric in self._metrics:
            metric.check(self._sizes)

    def _check_published(self, extractor):
        """Raises InputError unless published statistics fit the extractor and the metrics."""
        real = self._statistics
        if len(real.mean) != extractor.num_features:
            raise InputError(
                f"Evaluator.statistics has {len(real.mean)} features, but {extractor.name} "
                f"gives {extractor.num_features}: they come from another extractor."
            )
        missing = self._need("features")
        if missing:
            others = tuple(name for name, one in METRICS.items() if "features" not in one.needs)
            raise InputError(
                f"Evaluator.statistics holds a mean and a covariance, from which "
                f"{', '.join(sorted(missing))} cannot be computed. Set Evaluator.metrics = "
                f"{others}, or leave out Evaluator.statistics to compute them from the real images."
            )

    def _check_kept(self):
        """Raises InputError if there are too few features for a metric."""
        wanted = self._need("features")
        if not wanted:
            return
        least = max(METRICS[name].least for name in wanted)
        for what, number in {
            "Evaluator.num_images": self._num_images,
            "Evaluator.num_kept": self._num_kept,
            "the number of real images": self._source.num_images,
        }.items():
            if number < least:
                raise InputError(
                    f"{what}: {number} images are too few for {', '.join(sorted(wanted))}, which "
                    f"need the features of at least {least}. Use more, or choose other metrics."
                )

    def __str__(self) -> str:
        known = self._statistics.protocol if self._statistics else {}
        text = (
            f"{', '.join(self.metrics)} by {self._extraction.extractor.name}: {self._num_images:,} "
            f"images of the {self._weights} generator against "
            f"{known.get('file', self._source.name)}"
        )
        left_out = [name for name in METRICS if name not in self.metrics]
        return f"{text}; Evaluator.metrics leaves out {', '.join(left_out)}" if left_out else text

    @property
    def source(self) -> Source:
        """The real images."""
        return self._source

    @property
    def extraction(self) -> Extraction:
        """The `Extraction` that computes features and logits."""
        return self._extraction

    def prepare(self, compute: Callable[..., Statistics] = real_statistics) -> None:
        """Computes or reads the statistics of real images; the first time it may take long.

        Args:
            compute: a function with the arguments and the result of `real_statistics`.
        """
        if self._statistics is None and (self._need("moments") or self._need("features")):
            self._statistics = compute(
                self._source, self._extraction, self._num_kept, self._cache_dir
            )

    @property
    def _block(self) -> int:
        """Number of latents that share random numbers; the batches of batch statistics."""
        return BLOCK if self._batch_norm == "inference" else self._batch_size

    @property
    def protocol(self) -> dict[str, Any]:
        """See the class."""
        return self._protocol(
            {"weights": self._weights, "batch_norm": self._batch_norm, "block": self._block}
        )

    def _protocol(self, generator: dict[str, Any]) -> dict[str, Any]:
        """The protocol, with what it says of the generator and its inputs."""
        self.prepare()
        generated = {
            "num_images": self._num_images,
            "truncation": self.truncation,
            "seed": self._seed,
            "repeats": self._repeats,
            **generator,
        }
        protocol = {"extractor": self._extraction.extractor.protocol, "generated": generated}
        if self._statistics is not None:
            protocol["real"] = self._statistics.protocol
        matter = {name for metric in self._metrics for name in metric.settings}
        protocol |= {name: n for name, n in self._sizes._asdict().items() if name in matter}
        return {**protocol, "id": protocol_id(protocol)}

    def __call__(self, gan: Generates) -> dict[str, Any]:
        """Scores the generator of a GAN and leaves it as it was.

        Args:
            gan: a `training.gan.GAN` made inside the strategy's scope.

        Returns:
            {column: float or None} of all metrics, such as `fid`, `inception_score`,
            `inception_score_std` (over parts) and `kid_std` (standard error), and `protocol`.
        """

        def draw(seed: Seed) -> Iterator[np.ndarray]:
            return self._sampler(gan).batches(self._num_images, seed)

        return {**self._scores(draw), "protocol": self.protocol}

    def score_exported(
        self, compute: Callable[[np.ndarray, np.ndarray], np.ndarray], interface: Inputs
    ) -> dict[str, Any]:
        """Scores a generator that has no GAN any more, such as one that was exported.

        It gets the latents and labels that the averaged generator of a GAN would get. Its weights,
        their precision and its batch norm are as they were exported, and not part of the protocol.

        Args:
            compute: `(latents [B, latent_dim], labels [B]) -> images`, float32 [B, H, W, C] in
                [-1, 1].
            interface: has `latent_dim`, `num_classes` and `image_shape`.

        Returns:
            As from a call.

        Raises:
            InputError: if its images have another shape than those of the training.
        """
        if tuple(interface.image_shape) != tuple(self._shape):
            raise InputError(
                f"The generator makes images {tuple(interface.image_shape)}, but the run's are "
                f"{tuple(self._shape)}. Score it by a run on such images."
            )

        def draw(seed: Seed) -> Iterator[np.ndarray]:
            latents, labels = numbered_inputs(
                self._num_images,
                interface.latent_dim,
                interface.num_classes,
                seed,
                self.truncation,
                BLOCK,
            )
            for first in range(0, self._num_images, self._extraction.batch_size):
                some = slice(first, first + self._extraction.batch_size)
                images = np.nan_to_num(compute(latents[some], labels[some]), nan=np.inf)
                check_range(np.array([[images.min(), images.max()]]))
                yield to_uint8(images)

        return {
            **self._scores(draw),
            "protocol": self._protocol({"weights": "as exported", "block": BLOCK}),
        }

    def _scores(self, draw):
        """Scores of the images that `draw` yields for the seed of each repeat."""
        self.prepare()
        with tensor_float_32(False):  # for the generator; an `Extraction` sees to itself
            results = [
                self._score(draw(self._sampling_seed(repeat))) for repeat in range(self._repeats)
            ]
        scores = {name: _mean([result[name] for result in results]) for name in results[0]}
        if self._repeats > 1:
            for name in self.metrics:
                values = [result[name] for result in results]
                scores[f"{name}_repeat_std"] = _deviation(values)
        return scores

    def _score(self, batches):
        """Scores one set of generated images, uint8 [B, H, W, C] each."""
        sizes = self._sizes
        collector = None
        if any(metric.compute for metric in self._metrics):
            collector = Collector(sizes.num_images, sizes.num_features, sizes.num_kept)
        streams = {one.name: one.stream(sizes) for one in self._metrics if one.stream}
        with ProgressBar(self._num_images, "image", "generated images") as progress:
            for images in batches:
                features, logits = self._extraction(images)
                if collector:
                    collector.update(features)
                for stream in streams.values():
                    stream.update(logits)
                progress.advance(len(images))
        generated = collector.statistics({}) if collector else None
        images = Comparison(self.metrics, self._statistics, generated)
        scores = {}
        for metric in self._metrics:
            stream = streams.get(metric.name)
            scores |= metric.named(stream.result() if stream else metric.compute(images))
        return scores

    def _sampling_seed(self, repeat: int = 0) -> Seed:
        return fold((self._seed, 0), Purpose.EVALUATION, repeat)

    def _sampler(self, gan: Generates) -> Sampler:
        """The sampler of a GAN, made once."""
        sampler, truncation = self._samplers.get(gan, (None, None))
        if sampler is None or truncation != self.truncation:  # Each new one is compiled.
            sampler = Sampler(
                weakref.proxy(gan),  # The kept sampler must not keep its GAN alive.
                self._strategy,
                self._batch_size,
                self._weights == "averaged",
                self._batch_norm,
                self.truncation,
                self._block,
            )
            self._samplers[gan] = sampler, self.truncation
        return sampler

    def neighbors(self, gan: Generates, num_images: int, num_neighbors: int = 7) -> Neighbors:
        """Finds the real images most like generated ones: does the generator copy them?

        Args:
            gan: a `training.gan.GAN` made inside the strategy's scope.
            num_images: number of images to generate.
            num_neighbors: number of real images to find for each, among all real images.

        Raises:
            InputError: if the real images of `Evaluator.real` have another shape.
        """
        if self._source.image_shape != self._shape:
            raise InputError(
                f"Generated images {self._shape} cannot be shown beside the real ones of "
                f"Evaluator.real, {self._source.image_shape}. Leave Evaluator.real out."
            )
        batches = self._sampler(gan).batches(num_images, self._sampling_seed())
        with tensor_float_32(False):  # They are the images that are scored.
            images = np.concatenate(list(batches))
        return find_neighbors(images, self._source, self._extraction, num_neighbors)


def _made(extractor, strategy):
    """The extractor that a function makes in a strategy's scope; InputError if it makes none."""
    check_function("Evaluator.extractor", extractor)
    if isinstance(extractor, Extractor):  # It can be called, too.
        raise InputError(
            "Evaluator.extractor must be a function, got an extractor. Write the reference without "
            "parentheses: `Evaluator.extractor = @digits_classifier`."
        )
    with strategy.scope():
        made = extractor()
    if not all(hasattr(made, name) for name in ("protocol", "num_features", "num_logits")):
        raise InputError(
            "Evaluator.extractor must be a function that makes an extractor, such as "
            f"@tfhub_inception or @digits_classifier, but got a {type(made).__name__}."
        )
    return made


def _mean(values):
    """The mean of numbers; None if one of them is None."""
    return None if None in values else float(np.mean(values))


def _deviation(values):
    """The standard deviation of numbers, with divisor n - 1; None if one of them is None."""
    return None if None in values else float(np.std(values, ddof=1))


def _check_metrics(metrics):
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        raise InputError(
            f"Evaluator.metrics must be a list of names, got {metrics!r}. Write "
            "Evaluator.metrics = ['fid'] for a single one."
        )
    if not metrics:
        raise InputError(f"Evaluator.metrics is empty. Choose from {', '.join(METRICS)}.")
    for metric in metrics:
        if metric not in tuple(METRICS):
            raise InputError(
                f"Evaluator.metrics: {metric!r} is not one of {', '.join(METRICS)}. If it is a "
                "metric of your own, import the module that registers it, in a gin file."
            )


def _check_choice(name, value, choices):
    if value not in tuple(choices):
        raise InputError(f"{name}: {value!r} is not one of {', '.join(choices)}.")
