"""Inception as GAN papers use it: the frozen graph of 2015, and TF-GAN's module on TF-Hub."""

import contextlib
import http.client
import os
import pathlib
import socket
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf
from absl import logging

from stugan_tf.errors import InputError
from stugan_tf.evaluation.weights import sha256_of_folder
from stugan_tf.files import cache_folder, local_path, write_atomically

GRAPH_FILE = "classify_image_graph_def.pb"
GRAPH_URL = "http://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz"

_INPUT, _RESIZE, _POOL = "ExpandDims", "ResizeBilinear", "pool_3"
_LOGITS = "softmax/logits/MatMul"
_TIMEOUT_SECONDS = 60
_FAILED_DOWNLOAD = (
    OSError,
    EOFError,
    ValueError,
    http.client.HTTPException,
    tarfile.TarError,
    zlib.error,
    tf.errors.OpError,
)


def read_graph(path: str | os.PathLike[str]) -> bytes:
    """Reads the bytes of the frozen graph.

    Args:
        path: the .pb, the folder that holds it, or the archive it comes in.

    Raises:
        InputError: if the graph is not there or cannot be unpacked.
    """
    path = local_path(path, "frozen_inception.path")
    file = path / GRAPH_FILE if path.is_dir() else path
    where = f"Get it from {GRAPH_URL} where there is a network."
    if not file.is_file():
        raise InputError(f"frozen_inception.path: there is no file {file}. {where}")
    if not file.name.endswith((".tgz", ".tar", ".tar.gz")):
        return file.read_bytes()
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                if pathlib.PurePath(member.name).name == GRAPH_FILE and member.isfile():
                    return archive.extractfile(member).read()  # type: ignore[union-attr]
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(
            f"frozen_inception.path: {file} cannot be unpacked: {error}. {where}"
        ) from error
    raise InputError(f"frozen_inception.path: {file} holds no {GRAPH_FILE}. {where}")


def parse_graph(data: bytes, path: str | os.PathLike[str]) -> Any:
    """Parses the GraphDef; raises `InputError` unless it has the nodes that scores need."""
    from google.protobuf.message import DecodeError

    try:
        graph = tf.compat.v1.GraphDef.FromString(data)
    except DecodeError as error:
        raise InputError(
            f"frozen_inception.path: {path} is not a frozen graph: it cannot be parsed. It must be "
            f"{GRAPH_FILE} from {GRAPH_URL}; for a SavedModel use @saved_model, for a .keras file "
            "@keras_model."
        ) from error
    names = {node.name for node in graph.node}
    missing = [name for name in (_INPUT, _RESIZE, _POOL, _LOGITS) if name not in names]
    if missing:
        last = ", ".join(node.name for node in graph.node[-10:]) or "none"
        raise InputError(
            f"frozen_inception.path: {path} has no node {', '.join(missing)}, so it is not the "
            f"Inception of 2015; its last nodes are: {last}. Get {GRAPH_FILE} from {GRAPH_URL}."
        )
    return graph


def resized_to(graph: Any) -> tuple[int, int]:
    """(height, width) to which the graph itself resizes images."""
    nodes = {node.name: node for node in graph.node}
    size = nodes[nodes[_RESIZE].input[1]].attr["value"].tensor
    height, width = map(int, tf.make_ndarray(size))
    return height, width


def network_of_graph(graph: Any) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """The part of the graph from its image to pool_3, for batches of any size.

    Logits are pool_3 times the kernel of the last layer, without its bias. OpenAI's code for the
    Inception Score does the same, and so do all published scores (fidelity.md 1.5).

    Returns:
        A function of float32 [B, H, W, 3] in [0, 255] to (features [B, D], logits [B, K]).
    """
    nodes = {node.name: node for node in graph.node}
    kernel = nodes[_LOGITS].input[1]
    batched = _batched([nodes[name] for name in _leading_to((_POOL, kernel), nodes)], nodes)

    def compute(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pooled, matrix = tf.graph_util.import_graph_def(
            batched,
            input_map={f"{_INPUT}:0": images},
            return_elements=[f"{_POOL}:0", kernel if ":" in kernel else f"{kernel}:0"],
        )
        features = tf.squeeze(pooled, [1, 2])
        return features, tf.matmul(features, matrix)

    spec = tf.TensorSpec([None, None, None, 3], tf.float32)
    return tf.function(compute, autograph=False).get_concrete_function(spec)


def _leading_to(names: Iterable[str], nodes: dict[str, Any]) -> dict[str, None]:
    """The names of all nodes that are needed to compute `names` from images."""
    needed: dict[str, None] = {}
    pending = list(names)
    while pending:
        name = pending.pop().split(":")[0]
        if name not in needed:
            needed[name] = None
            pending += _data_inputs(nodes[name]) if name != _INPUT else ()
    return needed


def _data_inputs(node: Any) -> list[str]:
    """Inputs without control inputs: these check for NaN and prevent fused operations."""
    return [name for name in node.input if not name.startswith("^")]


def _batched(needed: Iterable[Any], nodes: dict[str, Any]) -> Any:
    """A GraphDef of nodes for any number of images, without operations that TensorFlow removed."""
    batched = tf.compat.v1.GraphDef()
    batched.versions.producer = tf.version.GRAPH_DEF_VERSION
    for original in needed:
        node = batched.node.add()
        if original.name == _INPUT:
            node.name, node.op = _INPUT, "Placeholder"
            node.attr["dtype"].type = tf.float32.as_datatype_enum
            continue
        node.CopyFrom(original)
        node.attr.pop("_output_shapes", None)
        node.input[:] = _data_inputs(original)
        if node.op == "BatchNormWithGlobalNormalization":
            _renew_batch_norm(node, batched)
        elif node.op == "Reshape":
            _free_batch(node, nodes[node.input[1]], batched)
    return batched


def _renew_batch_norm(node: Any, batched: Any) -> None:
    """Replaces an old operation by a current one; TensorFlow refuses the old one in functions."""
    images, mean, variance, beta, gamma = node.input
    scaled = node.attr["scale_after_normalization"].b
    epsilon = node.attr["variance_epsilon"].f
    ones = batched.node.add()
    ones.name, ones.op = f"{node.name}/ones", "OnesLike"
    ones.input.append(gamma)
    ones.attr["T"].type = tf.float32.as_datatype_enum
    node.op = "FusedBatchNormV3"
    node.input[:] = [images, gamma if scaled else ones.name, beta, mean, variance]
    node.attr.clear()
    node.attr["T"].type = node.attr["U"].type = tf.float32.as_datatype_enum
    node.attr["epsilon"].f = epsilon
    node.attr["is_training"].b = False


def _free_batch(node: Any, constant: Any, batched: Any) -> None:
    """Turns a Reshape to the constant [1, ...] into a Reshape to [-1, ...]."""
    shape: Any = tf.make_ndarray(constant.attr["value"].tensor) if constant.op == "Const" else []
    if len(shape) and shape[0] == 1 and -1 not in shape:
        free = batched.node.add()
        free.CopyFrom(constant)
        free.name = f"{node.name}/any_batch"
        free.attr.pop("_output_shapes", None)
        proto = tf.make_tensor_proto([-1, *shape[1:]], dtype=shape.dtype)
        free.attr["value"].tensor.CopyFrom(proto)
        node.input[1] = free.name


def fetch_module(handle: str, cache_dir: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Downloads a TF-Hub module unless it is in the cache.

    The digest of a download is kept beside it and checked each time.

    Args:
        handle: URL or folder of the module.
        cache_dir: folder for downloads, by default `stugan_tf/tfhub` in the user's cache.

    Returns:
        The folder of the module.

    Raises:
        InputError: if the module cannot be downloaded, or has changed since its download.
    """
    cache_dir = local_path(cache_dir or cache_folder() / "tfhub", "tfhub_inception.cache_dir")
    hub = _import_hub()
    try:
        with _cached_in(cache_dir), _timeout(), _quiet():
            folder = pathlib.Path(hub.resolve(handle))
    except _FAILED_DOWNLOAD as error:
        raise InputError(_unreachable(handle, cache_dir, error)) from error
    if cache_dir in folder.parents:
        _check_unchanged(folder, handle)
    return folder


def _check_unchanged(folder: pathlib.Path, handle: str) -> None:
    record = folder.with_name(f"{folder.name}.sha256")
    digest = sha256_of_folder(folder)
    if not record.exists():
        write_atomically(record, f"{digest}\n".encode())
    elif record.read_text().strip() != digest:
        raise InputError(
            f"{folder}, downloaded from {handle}, has changed since: it is damaged. Delete it and "
            f"{record.name} beside it; the next start downloads it again."
        )


def _unreachable(handle: str, cache_dir: pathlib.Path, error: Exception) -> str:
    reason = " ".join(str(error).split()).rstrip(".")
    return (
        f"The Inception network {handle} is not in {cache_dir} and cannot be downloaded: {reason}. "
        "Choose one of three ways:\n"
        "  1. Run `python -m stugan_tf.evaluate --fetch` once where there is a network, and copy "
        f"{cache_dir} here.\n"
        f"  2. Get {GRAPH_URL} and set `Evaluator.extractor = @frozen_inception` and "
        f"`frozen_inception.path = 'FOLDER/{GRAPH_FILE}'`.\n"
        "  3. Use any classifier of your own: `Evaluator.extractor = @saved_model` or "
        "`@keras_model` with its `path` (for digits: `@digits_classifier`)."
    )


def _import_hub() -> Any:
    try:
        with _quiet():
            import tensorflow_hub
    except ImportError as error:
        raise InputError(
            f"tfhub_inception needs TensorFlow Hub, which cannot be imported: {error}. Install it "
            "with `pip install 'stugan_tf[evaluation]'`."
        ) from error
    return tensorflow_hub


@contextlib.contextmanager
def _cached_in(cache_dir: pathlib.Path) -> Iterator[None]:
    former = os.environ.get("TFHUB_CACHE_DIR")
    os.environ["TFHUB_CACHE_DIR"] = str(cache_dir)
    try:
        yield
    finally:
        del os.environ["TFHUB_CACHE_DIR"]
        if former is not None:
            os.environ["TFHUB_CACHE_DIR"] = former


@contextlib.contextmanager
def _timeout() -> Iterator[None]:
    """Limits the wait: TF-Hub itself would wait for ever behind a silent firewall."""
    former = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(former)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    former = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pkg_resources is deprecated.
            yield
    finally:
        logging.set_verbosity(former)
