"""A generator: one way to draw from it, the same as that of `stugan_tf.serving.load`."""

import ctypes
import os

import numpy as np
import numpy.typing as npt

from stugan_runtime.library import Description, Options, WrongArgumentError, call, library

MAX_IMAGES = 2**20  # STUGAN_MAX_IMAGES
PRECISIONS = {"float32": 0, "float16": 1, "auto": 2}  # stugan_precision


def load(
    path: str | os.PathLike[str], num_threads: int | None = None, precision: str = "auto"
) -> "Generator":
    """Loads the generator in a sparse file.

        generator = load("generator.safetensors")
        images = generator(16, seed=1)               # uint8 [16, H, W, C]

    Files may come from anybody: a file that is not right is refused.

    Args:
        path: path of a `.safetensors` file that `stugan_tf.export --format=sparse` wrote.
        num_threads: how many threads make images; by default one for each processor. Images do
            not depend on it.
        precision: of sparse convolutions. 'float32', or 'float16', which needs a processor with
            AVX512-FP16 or the FP16 of ARMv8.2 and differs by a few steps of 255; 'auto' is
            'float16' where the processor has it and the file says that it does not overflow.

    Raises:
        RuntimeFault: if the file cannot be read, is damaged, or does not suit this library, or
            the precision cannot be had.
    """
    options, handle = _options(num_threads, precision), ctypes.c_void_p()
    call("open_file_with", os.fsencode(path), ctypes.byref(options), ctypes.byref(handle))
    return Generator(handle)


def loads(data: bytes, num_threads: int | None = None, precision: str = "auto") -> "Generator":
    """Loads the generator in the bytes of a sparse file; see `load`."""
    options, handle = _options(num_threads, precision), ctypes.c_void_p()
    data = bytes(data)
    call("open_memory_with", data, len(data), ctypes.byref(options), ctypes.byref(handle))
    return Generator(handle)


def _options(num_threads: int | None, precision: str) -> Options:
    if precision not in PRECISIONS:
        raise WrongArgumentError(
            f"precision must be 'auto', 'float32' or 'float16', got {precision!r:.60}."
        )
    if num_threads is None:
        num_threads = _num_processors()
    return Options(ctypes.sizeof(Options), int(num_threads), PRECISIONS[precision])


def _num_processors() -> int:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(count or 1, 256))


class Generator:
    """A loaded generator; see `load`.

    Attributes:
        latent_dim: length of a latent vector.
        image_shape: (H, W, C).
        num_classes: labels are integers below it.
        conditional: whether the generator takes labels.
        class_names: a name for each class, or None.
        num_weights: number of weights, zeros included.
        num_nonzero: number of weights that are not zero.
        weight_bytes: memory of the weights.
        workspace_bytes: the most memory of all else while images are made.
        instruction_set: the code that this processor runs.
        precision: 'float32' or 'float16', that of sparse convolutions.
    """

    def __init__(self, handle: ctypes.c_void_p) -> None:
        """Takes over an open generator of the C interface."""
        self._handle = handle
        about = Description()
        library().stugan_describe(handle, ctypes.byref(about))
        self.latent_dim = about.latent_dim
        self.image_shape = (about.height, about.width, about.channels)
        self.num_classes = about.num_classes
        self.conditional = bool(about.conditional)
        self.class_names = None
        if about.has_class_names:
            names = (library().stugan_class_name(handle, i) for i in range(about.num_classes))
            self.class_names = tuple(name.decode("utf-8", "replace") for name in names)
        self.num_threads = about.num_threads
        self.num_weights = about.num_weights
        self.num_nonzero = about.num_nonzero
        self.weight_bytes = about.weight_bytes
        self.workspace_bytes = about.workspace_bytes
        self.instruction_set = about.instruction_set.decode()
        used = library().stugan_precision_of(handle)
        self.precision = next(name for name, code in PRECISIONS.items() if code == used)

    def __del__(self) -> None:
        """Frees the generator."""
        if handle := getattr(self, "_handle", None):
            library().stugan_close(handle)

    def __call__(
        self,
        num_images: int | None = None,
        seed: int = 0,
        labels: npt.ArrayLike | None = None,
        truncation: float | None = None,
        latents: npt.ArrayLike | None = None,
        dtype: str = "uint8",
    ) -> np.ndarray:
        """Draws images.

        Image number i of a seed is the same however many images are drawn, and the one that
        `stugan_tf` draws, up to rounding.

        Args:
            num_images: number of images; by default the number of latents, or 1.
            seed: seed of the latents and labels that are not given.
            labels: a class, or one class for each image; drawn by default.
            truncation: where latents are cut off, an absolute value.
            latents: float [n, latent_dim], instead of a seed.
            dtype: 'uint8', or 'float32' for images in [-1, 1].

        Returns:
            An array [num_images, H, W, C].

        Raises:
            WrongArgumentError: if an argument does not fit the generator.
        """
        if dtype not in ("uint8", "float32"):
            raise WrongArgumentError(f"dtype must be 'uint8' or 'float32', got {dtype!r}.")
        drawn = None
        if latents is None:
            latents, drawn = self.inputs(1 if num_images is None else num_images, seed, truncation)
        else:
            latents = self._checked_latents(latents, num_images, truncation)
        if labels is not None:
            drawn = self._checked_labels(labels, len(latents))
        elif not self.conditional:
            drawn = None
        images = np.empty([len(latents), *self.image_shape], np.float32)
        call(
            "generate",
            self._handle,
            len(latents),
            _pointer(latents, ctypes.c_float),
            None if drawn is None else _pointer(drawn, ctypes.c_int32),
            _pointer(images, ctypes.c_float),
        )
        if dtype == "float32":
            return images
        pixels = np.empty(images.shape, np.uint8)
        library().stugan_to_pixels(
            _pointer(images, ctypes.c_float), images.size, _pointer(pixels, ctypes.c_uint8)
        )
        return pixels

    def inputs(
        self, num_images: int, seed: int = 0, truncation: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws the latents and labels of a seed.

        Args:
            num_images: number of images.
            seed: at least 0.
            truncation: where latents are cut off, an absolute value.

        Returns:
            Latents, float32 [num_images, latent_dim], and labels, int32 [num_images].

        Raises:
            WrongArgumentError: if an argument is invalid.
        """
        num_images = _integer("num_images", num_images, 1, MAX_IMAGES)
        seed = _integer("seed", seed, 0, 2**63 - 1)
        cut = None
        if truncation is not None:
            try:
                cut = ctypes.byref(ctypes.c_double(truncation))
            except TypeError:
                raise WrongArgumentError(
                    f"truncation must be a number above 0, got {truncation!r}."
                ) from None
        latents = np.empty([num_images, self.latent_dim], np.float32)
        labels = np.empty([num_images], np.int32)
        pointers = _pointer(latents, ctypes.c_float), _pointer(labels, ctypes.c_int32)
        call("draw", self._handle, num_images, seed, cut, *pointers)
        return latents, labels

    def _checked_latents(
        self, latents: npt.ArrayLike, num_images: int | None, truncation: float | None
    ) -> np.ndarray:
        try:
            with np.errstate(over="ignore"):  # Too large ones become infinite and are refused.
                array = np.ascontiguousarray(latents, np.float32)
        except (ValueError, TypeError) as error:
            raise WrongArgumentError(f"latents must be numbers: {error}.") from None
        if array.ndim != 2 or array.shape[1] != self.latent_dim or not len(array):
            raise WrongArgumentError(
                f"latents must be of shape [n, {self.latent_dim}], got {array.shape}."
            )
        if num_images not in (None, len(array)) or truncation is not None:
            raise WrongArgumentError("Latents are given, so leave out num_images and truncation.")
        return array

    def _checked_labels(self, labels: npt.ArrayLike, num_images: int) -> np.ndarray:
        if not self.conditional:
            raise WrongArgumentError("This generator was trained without labels. Leave them out.")
        array = np.asarray(labels)
        if array.dtype.kind not in "iu" or array.shape not in ((), (num_images,)):
            raise WrongArgumentError(
                f"labels must be an integer or {num_images} of them, got {array.dtype} "
                f"{array.shape}."
            )
        if array.min() < 0 or array.max() >= self.num_classes:
            raise WrongArgumentError(
                f"labels must be from 0 to {self.num_classes - 1}, got {array.min()} to "
                f"{array.max()}."
            )
        return np.ascontiguousarray(np.broadcast_to(array, [num_images]), np.int32)


def _integer(name: str, value: int, least: int, most: int) -> int:
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_integer or not least <= value <= most:
        raise WrongArgumentError(
            f"{name} must be an integer from {least} to {most}, got {value!r}."
        )
    return int(value)


def _pointer(array: np.ndarray, kind: type) -> "ctypes._Pointer":
    return array.ctypes.data_as(ctypes.POINTER(kind))
