"""Small networks take the place of Inception, with its names and its bad habits."""

import functools
import hashlib
import http.server
import shutil
import sys
import tarfile
import threading

import numpy as np
import pytest
import tensorflow as tf
from scipy.signal import correlate

from stugan_tf.errors import InputError
from stugan_tf.evaluation import inception
from stugan_tf.evaluation.extractors import frozen_inception, tfhub_inception
from stugan_tf.evaluation.preprocessing import Preprocessing
from tests.helpers.networks import Net, random_images

SIZE, WIDTH, NUM_CLASSES = 9, 6, 4
EPSILON = 0.001
random = np.random.default_rng(0)
KERNEL = random.normal(size=[3, 3, 3, WIDTH]).astype(np.float32)
MEAN, BETA = random.normal(size=[2, WIDTH]).astype(np.float32)
VARIANCE, GAMMA = random.uniform(0.5, 2.0, size=[2, WIDTH]).astype(np.float32)
MATRIX = random.normal(size=[WIDTH, NUM_CLASSES]).astype(np.float32)
BIAS = random.normal(size=[NUM_CLASSES]).astype(np.float32)


def graph_of_2015(scaled):
    """A GraphDef like the original: batch 1, an operation removed since, `_output_shapes`."""
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        contents = v1.placeholder(tf.string, [], name="DecodeJpeg/contents")
        image = tf.image.decode_jpeg(contents, channels=3, name="DecodeJpeg")
        images = tf.expand_dims(tf.cast(image, tf.float32), 0, name="ExpandDims")
        images = v1.image.resize_bilinear(images, [SIZE, SIZE], name="ResizeBilinear")
        images = tf.multiply(images - 128.0, 1 / 128, name="Mul")
        maps = tf.nn.conv2d(images, KERNEL, 1, "VALID", name="conv/Conv2D")
        for name, values in (("mean", MEAN), ("var", VARIANCE), ("beta", BETA), ("gamma", GAMMA)):
            tf.constant(values, name=f"conv/batchnorm/{name}")
        maps = tf.identity(maps, name="conv/batchnorm")
        check = tf.debugging.check_numerics(maps, "NaN", name="conv/CheckNumerics")
        with tf.control_dependencies([check]):
            maps = tf.identity(maps, name="conv/control_dependency")
        maps = tf.nn.relu(maps, name="conv")
        side = SIZE - 2
        maps = tf.reshape(maps, [1, side, side, WIDTH], name="mixed/Reshape")
        pooled = tf.nn.avg_pool2d(maps, side, 1, "VALID", name="pool_3")
        flat = tf.reshape(pooled, [1, WIDTH], name="pool_3/_reshape")
        matrix = tf.constant(MATRIX, name="softmax/weights")
        logits = tf.matmul(flat, matrix, name="softmax/logits/MatMul")
        logits = tf.nn.bias_add(logits, BIAS, name="softmax/logits")
        tf.nn.softmax(logits, name="softmax")
    definition = graph.as_graph_def(add_shapes=True)
    (node,) = (node for node in definition.node if node.name == "conv/batchnorm")
    node.op = "BatchNormWithGlobalNormalization"
    node.input.extend(f"conv/batchnorm/{name}" for name in ("mean", "var", "beta", "gamma"))
    node.attr["variance_epsilon"].f = EPSILON
    node.attr["scale_after_normalization"].b = scaled
    definition.versions.producer = 8
    return definition


def computed_by_numpy(images, scaled):
    """`(features, logits without bias)` of uint8 [B, H, W, 3]."""
    resized = Preprocessing(SIZE, "bilinear_legacy", (0, 255))(tf.constant(images)).numpy()
    inputs = (resized.astype(np.float64) - 128) / 128
    maps = np.stack(
        [
            np.stack([correlate(x, KERNEL[..., i], "valid")[..., 0] for i in range(WIDTH)], -1)
            for x in inputs
        ]
    )
    maps = (maps - MEAN) / np.sqrt(VARIANCE + EPSILON) * (GAMMA if scaled else 1.0) + BETA
    features = np.maximum(maps, 0).mean((1, 2))
    return features, features @ MATRIX


@pytest.fixture(params=[False, True], ids=["unscaled", "scaled"])
def scaled(request):
    return request.param


@pytest.fixture
def frozen(tmp_path, scaled):
    """Path of a frozen graph."""
    path = tmp_path / inception.GRAPH_FILE
    path.write_bytes(graph_of_2015(scaled).SerializeToString())
    return path


@pytest.mark.parametrize("batch_size", [1, 3, 7])
@pytest.mark.parametrize("wrap", [lambda extractor: extractor, tf.function])
def test_features_and_logits_without_bias_are_those_of_numpy(frozen, scaled, batch_size, wrap):
    extractor = frozen_inception(str(frozen))
    images = random_images(batch_size, 16, 12, 3)
    found = wrap(extractor)(images)
    for expected, output in zip(computed_by_numpy(images, scaled), found, strict=True):
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    assert (extractor.num_features, extractor.num_logits) == (WIDTH, NUM_CLASSES)


def test_replicas_compute_what_one_device_computes(frozen, mirrored):
    images = random_images(6, 16, 16, 3)
    with mirrored.scope():
        extractor = frozen_inception(str(frozen))
    halves = mirrored.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(images, 2)[context.replica_id_in_sync_group])
    )
    outputs = tf.function(lambda batch: mirrored.run(extractor, args=(batch,)))(halves)
    for expected, found in zip(frozen_inception(str(frozen))(images), outputs, strict=True):
        found = np.concatenate(mirrored.experimental_local_results(found))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_its_protocol_says_what_the_graph_does_itself(frozen):
    protocol = frozen_inception(str(frozen)).protocol
    assert len(protocol.pop("computation")) == 16
    assert protocol == {
        "name": "inception_2015",
        "sha256": hashlib.sha256(frozen.read_bytes()).hexdigest()[:16],
        "preprocessing": {
            "size": [SIZE, SIZE],
            "resize": "bilinear_legacy",
            "range": [0.0, 255.0],
        },
        "outputs": ["pool_3", "logits without bias"],
    }


def test_the_file_its_folder_and_its_archive_are_one(frozen, tmp_path):
    archive = tmp_path / "inception-2015-12-05.tgz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(frozen, f"./{inception.GRAPH_FILE}")
    digests = {frozen_inception(str(path)).sha256 for path in (frozen, frozen.parent, archive)}
    assert digests == {hashlib.sha256(frozen.read_bytes()).hexdigest()}


def test_what_is_not_the_graph_of_2015_is_told(tmp_path):
    def check(name, content, message):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            frozen_inception(str(path))
        assert inception.GRAPH_URL in str(caught.value)

    check("missing.pb", None, "there is no file .*missing.pb")
    check("page.pb", b"<html>404</html>", "page.pb is not a frozen graph: it cannot be parsed")
    check("empty.pb", b"", "has no node ExpandDims, .*its last nodes are: none")
    check("torn.tgz", b"\x1f\x8b\x08 torn", "torn.tgz cannot be unpacked")
    graph = graph_of_2015(False)
    nodes = [node for node in graph.node if node.name != "pool_3"]
    del graph.node[:]
    graph.node.extend(nodes)
    check("other.pb", graph.SerializeToString(), "has no node pool_3, .*softmax/logits, softmax")
    graph = graph_of_2015(False)
    (node,) = (node for node in graph.node if node.name == "conv")
    node.op = "Rectify"
    check("unknown.pb", graph.SerializeToString(), "cannot be imported: .*Rectify")
    with tarfile.open(tmp_path / "other.tar", "w") as file:
        file.add(tmp_path / "page.pb")
    check("other.tar", None, f"holds no {inception.GRAPH_FILE}")


def test_the_graph_is_checked_before_it_is_used(frozen):
    digest = frozen_inception(str(frozen)).sha256
    assert frozen_inception(str(frozen), sha256=digest[:8]).sha256 == digest
    with pytest.raises(InputError, match=r"frozen_inception.sha256 = "):
        frozen_inception(str(frozen), sha256="0" * 16)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server of a module like TF-GAN's; `close()` ends it."""
    monkeypatch.setenv("no_proxy", "*")
    net = Net()
    tf.saved_model.save(net, str(tmp_path / "module"))
    (tmp_path / "served").mkdir()
    with tarfile.open(tmp_path / "served" / "inception.tar.gz", "w:gz") as archive:
        for path in (tmp_path / "module").iterdir():
            archive.add(path, path.name)

    whole = (tmp_path / "served" / "inception.tar.gz").read_bytes()
    (tmp_path / "served" / "torn.tar.gz").write_bytes(whole[: len(whole) // 2])

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(tmp_path / "served"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.handle = f"http://127.0.0.1:{server.server_port}/inception.tar.gz"
    server.net = net
    server.close = lambda: (server.shutdown(), server.server_close())
    yield server
    server.close()


def test_a_module_is_downloaded_once_in_silence_and_then_needs_no_network(hub, tmp_path, capfd):
    cache = tmp_path / "cache"
    downloaded = tfhub_inception(hub.handle, str(cache))
    assert capfd.readouterr() == ("", "")
    hub.close()
    cached = tfhub_inception(hub.handle, str(cache), sha256=downloaded.sha256[:8])
    assert cached.protocol == downloaded.protocol
    images = random_images(2, 32, 32, 3)
    resized = Preprocessing(299, "bilinear", (-1, 1))(tf.constant(images))
    expected = hub.net(resized)
    features, logits = cached(images)
    np.testing.assert_allclose(features, expected["pool_3"], atol=1e-5)
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-5)


def test_a_damaged_cache_is_found_and_can_be_deleted(hub, tmp_path):
    cache = tmp_path / "cache"
    tfhub_inception(hub.handle, str(cache))
    (module,) = (path for path in cache.iterdir() if path.is_dir())
    data = module / "variables" / "variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[10] ^= 1
    data.write_bytes(content)
    with pytest.raises(InputError, match=f"{module}, downloaded from .* Delete it and") as caught:
        tfhub_inception(hub.handle, str(cache))
    assert f"{module.name}.sha256" in str(caught.value)
    shutil.rmtree(module)
    module.with_name(f"{module.name}.sha256").unlink()
    assert tfhub_inception(hub.handle, str(cache)).num_features == 5


@pytest.mark.parametrize("file", ["missing.tar.gz", "torn.tar.gz", None])
def test_without_the_module_three_ways_out_are_named(hub, tmp_path, file):
    handle = hub.handle
    if file is None:
        hub.close()
    else:
        handle = handle.replace("inception.tar.gz", file)
    with pytest.raises(InputError, match=f"{handle} is not in .*cannot be downloaded") as caught:
        tfhub_inception(handle, str(tmp_path / "cache"))
    for part in (
        "python -m stugan_tf.evaluate --fetch",
        f"copy {tmp_path / 'cache'} here",
        "Evaluator.extractor = @frozen_inception",
        inception.GRAPH_URL,
        "Evaluator.extractor = @saved_model",
        "@keras_model",
        "@digits_classifier",
    ):
        assert part in str(caught.value)


def test_the_cache_follows_xdg_cache_home(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    tfhub_inception(hub.handle)
    assert list((tmp_path / "xdg" / "stugan_tf" / "tfhub").glob("*/saved_model.pb"))


def test_without_tensorflow_hub_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_hub", None)
    with pytest.raises(InputError, match=r"pip install 'stugan_tf\[evaluation\]'"):
        tfhub_inception()


def test_another_module_is_told(tmp_path, saved_net):
    module = tf.Module()
    module.pool = tf.Variable(1.0)
    tf.saved_model.save(module, str(tmp_path / "variable"))
    with pytest.raises(InputError, match=r"cannot be called.*@saved_model"):
        tfhub_inception(str(tmp_path / "variable"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"tfhub_inception\.handle: .*empty is not a SavedModel"):
        tfhub_inception(str(tmp_path / "empty"))
    assert tfhub_inception(saved_net).name == "tfhub_inception"
