"""Scores of a generator: draws images, extracts features, compares them with real ones."""

import functools
from collections.abc import Iterable

import gin
import numpy as np

from stugan_tf.checks import (
    check_above_zero,
    check_function,
    check_instance,
    check_natural,
    check_positive,
)
from stugan_tf.data import Source
from stugan_tf.errors import InputError
from stugan_tf.evaluation.extraction import Extraction
from stugan_tf.evaluation.extractors import Extractor, tfhub_inception
from stugan_tf.evaluation.metrics import (
    METRICS,
    InceptionScore,
    check_blocks,
    check_enough,
    frechet_distance,
    kernel_distance,
    neighborhood_scores,
)
from stugan_tf.evaluation.neighbors import find_neighbors
from stugan_tf.evaluation.protocol import protocol_id
from stugan_tf.evaluation.sampling import BATCH_NORMS, Sampler
from stugan_tf.evaluation.statistics import Collector, real_statistics, ttur_statistics
from stugan_tf.progress import ProgressBar
from stugan_tf.randomness import Purpose, fold

# What a mean, a covariance and logits do not suffice for.
NEED_FEATURES = frozenset(METRICS) - {"fid", "inception_score"}
PRECISION_NEIGHBORS, DENSITY_NEIGHBORS = 3, 5  # as in the papers
_LEAST_KEPT = {  # A vector has one neighbour less than there are vectors.
    "kid": 2,
    **dict.fromkeys(("precision", "recall"), PRECISION_NEIGHBORS + 1),
    **dict.fromkeys(("density", "coverage"), DENSITY_NEIGHBORS + 1),
}


@gin.configurable(denylist=["source", "strategy"])
class Evaluator:
    """Scores generators by one protocol: `Evaluator(source, strategy)(gan)`.

    Attributes:
        truncation: as given; may be set anew.
        metrics: names of the scores, each with `min` or `max`: which of its values is the best.
        protocol: what the scores depend on besides the generator, see `evaluation.protocol`; known
            after `prepare`.
    """

    def __init__(
        self,
        source,
        strategy,
        extractor=tfhub_inception,
        metrics=tuple(METRICS),
        num_images=50_000,
        real=None,
        statistics=None,
        num_kept=10_000,
        num_splits=10,
        batch_size=100,
        weights="averaged",
        batch_norm="inference",
        truncation=None,
        repeats=1,
        seed=0,
        cache_dir=None,
    ):
        """Loads the extractor and checks everything that can be checked before sampling.

        Args:
            source: the data of the training.
            strategy: the `tf.distribute.Strategy` that generators are made for.
            extractor: `() -> Extractor`, see `evaluation.extractors`.
            metrics: names from `METRICS`.
            num_images: how many to generate.
            real: a source of real images; None is that of the training. Every image counts.
            statistics: path of an .npz file with `mu` and `sigma` of real images, instead.
            num_kept: features kept of real and of generated images for KID, precision, recall,
                density and coverage.
            num_splits: of the Inception Score.
            batch_size: images that one device generates and extracts from at once.
            weights: 'averaged' or 'live'.
            batch_norm: 'inference', 'batch' or 'standing', see `Sampler`.
            truncation: of latents, see `randomness.draw_latents`; None is none.
            repeats: how often to generate anew; scores are means, `*_repeat_std` their deviation.
            seed: of latents and labels.
            cache_dir: folder for statistics of real images; by default in the user's cache.
        """
        check_function("Evaluator.extractor", extractor)
        if isinstance(extractor, Extractor):  # It can be called, too.
            raise InputError(
                "Evaluator.extractor must be a function, got an extractor. Write the reference "
                "without parentheses: `Evaluator.extractor = @digits_classifier`."
            )
        check_positive("Evaluator.num_images", num_images)
        check_positive("Evaluator.num_kept", num_kept)
        check_positive("Evaluator.num_splits", num_splits)
        check_positive("Evaluator.batch_size", batch_size)
        check_positive("Evaluator.repeats", repeats)
        check_natural("Evaluator.seed", seed)
        if truncation is not None:
            check_above_zero("Evaluator.truncation", truncation)
        _check_choice("Evaluator.weights", weights, ("averaged", "live"))
        _check_choice("Evaluator.batch_norm", batch_norm, BATCH_NORMS)
        _check_metrics(metrics)
        if real is not None:
            check_instance("Evaluator.real", real, Source)
        self.metrics = {name: best for name, best in METRICS.items() if name in metrics}
        self._source = source if real is None else real
        self._shape = source.image_shape
        self._strategy = strategy
        self._num_images = num_images
        self._num_kept = num_kept if NEED_FEATURES & self.metrics.keys() else 0
        self._num_splits = num_splits
        self._batch_size = batch_size
        self._weights = weights
        self._batch_norm = batch_norm
        self.truncation = truncation
        self._repeats = repeats
        self._seed = seed
        self._cache_dir = cache_dir
        self._statistics = ttur_statistics(statistics) if statistics else None
        with strategy.scope():
            made = extractor()
        if not all(hasattr(made, name) for name in ("protocol", "num_features", "num_logits")):
            raise InputError(
                "Evaluator.extractor must be a function that makes an extractor, such as "
                f"@tfhub_inception or @digits_classifier, but got a {type(made).__name__}."
            )
        self._extraction = Extraction(made, strategy, batch_size)
        self._check()

    def _check(self):
        for shape in {self._shape, self._source.image_shape}:
            self._extraction(np.zeros([1, *shape], np.uint8))
        extractor, real = self._extraction.extractor, self._statistics
        if "inception_score" in self.metrics and extractor.num_logits is None:
            raise InputError(
                f"The extractor {extractor.name} gives no logits, which the Inception Score is "
                "made of. Name its logits, or leave 'inception_score' out of Evaluator.metrics."
            )
        if real is not None:
            if len(real.mean) != extractor.num_features:
                raise InputError(
                    f"Evaluator.statistics has {len(real.mean)} features, but {extractor.name} "
                    f"gives {extractor.num_features}: they are of another extractor."
                )
            missing = NEED_FEATURES & self.metrics.keys()
            if missing:
                raise InputError(
                    f"Evaluator.statistics holds a mean and a covariance, from which "
                    f"{', '.join(sorted(missing))} cannot be computed. Set Evaluator.metrics = "
                    "('fid', 'inception_score'), or leave Evaluator.statistics out to compute them "
                    "from the real images."
                )
        if "inception_score" in self.metrics:
            InceptionScore(self._num_images, self._num_splits)
        if "fid" in self.metrics:
            numbers = {"Evaluator.num_images": self._num_images}
            if real is None:
                numbers["the number of real images"] = self._source.num_images
            for what, number in numbers.items():
                check_enough(number, extractor.num_features, what)
        if NEED_FEATURES & self.metrics.keys():
            self._check_kept()

    def _check_kept(self):
        """Distances of single features need some of them."""
        wanted = NEED_FEATURES & self.metrics.keys()
        numbers = {
            "Evaluator.num_images": self._num_images,
            "Evaluator.num_kept": self._num_kept,
            "the number of real images": self._source.num_images,
        }
        least = max(_LEAST_KEPT[name] for name in wanted)
        for what, number in numbers.items():
            if number < least:
                raise InputError(
                    f"{what}: {number} images are too few for {', '.join(sorted(wanted))}, which "
                    f"need the features of at least {least}. Use more, or choose other metrics."
                )
        if "kid" in wanted:
            kept = min(self._num_kept, self._source.num_images)
            check_blocks(kept, min(self._num_kept, self._num_images))

    def __str__(self):
        known = self._statistics.protocol if self._statistics else {}
        return (
            f"{', '.join(self.metrics)} by {self._extraction.extractor.name}: {self._num_images:,} "
            f"images of the {self._weights} generator against "
            f"{known.get('file', self._source.name)}"
        )

    @property
    def source(self):
        """The real images that are compared with."""
        return self._source

    @property
    def extraction(self):
        """The `Extraction` that scores are made by."""
        return self._extraction

    def prepare(self, compute=real_statistics):
        """Computes or reads the statistics of real images, which may take long the first time.

        Args:
            compute: what does it, with the arguments and the result of `real_statistics`.
        """
        if self._statistics is None and self.metrics.keys() != {"inception_score"}:
            self._statistics = compute(
                self._source, self._extraction, self._num_kept, self._cache_dir
            )

    @property
    def protocol(self):
        """See the class."""
        self.prepare()
        generated = {
            "num_images": self._num_images,
            "weights": self._weights,
            "batch_norm": self._batch_norm,
            "truncation": self.truncation,
            "seed": self._seed,
            "repeats": self._repeats,
        }
        if self._batch_norm != "inference":
            generated["batch_size"] = self._batch_size
        protocol = {"extractor": self._extraction.extractor.protocol, "generated": generated}
        if self._statistics is not None:
            protocol["real"] = self._statistics.protocol
        if "inception_score" in self.metrics:
            protocol["num_splits"] = self._num_splits
        if self._num_kept:
            protocol["num_kept"] = self._num_kept
        return {**protocol, "id": protocol_id(protocol)}

    def __call__(self, gan):
        """Scores a GAN's generator, which is left as it was.

        Args:
            gan: a `training.gan.GAN` made inside the strategy's scope.

        Returns:
            The metrics as floats by name, with `inception_score_std` (over splits) and `kid_std`
            (standard error), and `protocol`.
        """
        self.prepare()
        results = [self._score(gan, repeat) for repeat in range(self._repeats)]
        scores = {name: _mean([result[name] for result in results]) for name in results[0]}
        if self._repeats > 1:
            for name in self.metrics:
                deviation = np.std([result[name] for result in results], ddof=1)
                scores[f"{name}_repeat_std"] = float(deviation)
        return {**scores, "protocol": self.protocol}

    def _score(self, gan, repeat):
        """The metrics of one set of generated images."""
        extractor = self._extraction.extractor
        collector = Collector(self._num_images, extractor.num_features, self._num_kept)
        inception_score = None
        if "inception_score" in self.metrics:
            inception_score = InceptionScore(self._num_images, self._num_splits)
        with ProgressBar(self._num_images, "image", "generated images") as progress:
            for images in self._samples(gan, self._num_images, repeat):
                features, logits = self._extraction(images)
                collector.update(features)
                if inception_score:
                    inception_score.update(logits)
                progress.advance(len(images))
        scores = self._compare(collector)
        if inception_score:
            mean, deviation = inception_score.result()
            scores |= {"inception_score": mean, "inception_score_std": deviation}
        return scores

    def _samples(self, gan, num_images, repeat=0):
        """Generated images, uint8 [B, H, W, C] at a time."""
        sampler = _sampler(
            gan,
            self._strategy,
            self._batch_size,
            self._weights == "averaged",
            self._batch_norm,
            self.truncation,
        )
        return sampler.batches(num_images, fold((self._seed, 0), Purpose.EVALUATION, repeat))

    def neighbors(self, gan, num_images, num_neighbors=7):
        """Real images most like generated ones, to see whether the generator remembers them.

        Args:
            gan: as for a call.
            num_images: how many to generate.
            num_neighbors: how many real ones to find for each, among all.

        Returns:
            `Neighbors`.
        """
        if self._source.image_shape != self._shape:
            raise InputError(
                f"Generated images {self._shape} cannot be shown beside the real ones of "
                f"Evaluator.real, {self._source.image_shape}. Leave Evaluator.real out."
            )
        images = np.concatenate(list(self._samples(gan, num_images)))
        return find_neighbors(images, self._source, self._extraction, num_neighbors)

    def _compare(self, collector):
        """All metrics that take real images."""
        wanted, real = self.metrics.keys(), self._statistics
        if wanted == {"inception_score"}:
            return {}
        generated = collector.statistics({})
        scores = {}
        if "fid" in wanted:
            scores["fid"] = frechet_distance(
                real.mean, real.covariance, generated.mean, generated.covariance
            )
        if "kid" in wanted:
            scores["kid"], scores["kid_std"] = kernel_distance(real.features, generated.features)
        precision = {"precision", "recall"} & wanted
        density = {"density", "coverage"} & wanted
        if precision or density:
            found = neighborhood_scores(
                real.features,
                generated.features,
                precision_neighbors=PRECISION_NEIGHBORS if precision else None,
                density_neighbors=DENSITY_NEIGHBORS if density else None,
            )
            scores |= {name: value for name, value in found.items() if name in wanted}
        return scores


def _mean(values):
    """Of numbers; None if one is not known."""
    return None if None in values else float(np.mean(values))


@functools.lru_cache(maxsize=1)  # A second evaluation shall not compile anew.
def _sampler(gan, *settings):
    return Sampler(gan, *settings)


def _check_metrics(metrics):
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        raise InputError(
            f"Evaluator.metrics must be a list of names, got {metrics!r}. Write "
            "Evaluator.metrics = ['fid'] for a single one."
        )
    if not metrics:
        raise InputError(f"Evaluator.metrics is empty. Choose from {', '.join(METRICS)}.")
    for metric in metrics:
        _check_choice("Evaluator.metrics", metric, METRICS)


def _check_choice(name, value, choices):
    if value not in tuple(choices):
        raise InputError(f"{name}: {value!r} is none of {', '.join(choices)}.")
