"""BigGAN: its sizes, how it starts, and its forward passes beside the equations in NumPy."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from stugan_tf.errors import InputError
from stugan_tf.layers.initializers import orthogonal_weights
from stugan_tf.layers.masked import Masked, all_layers, mask_layers, masked_layers
from stugan_tf.models.biggan import biggan_discriminator, biggan_generator
from stugan_tf.sparsity.flops import layer_costs, total_flops
from stugan_tf.sparsity.sparsify import count_weights, sparsify
from tests.helpers import reference
from tests.helpers.masks import with_full_masks
from tests.helpers.params import first_by_default

CIFAR = {"image_shape": (32, 32, 3), "num_classes": 10}
IMAGENET = {"image_shape": (128, 128, 3), "num_classes": 1000, "attention_sizes": (64,)}
CONDITION = {"latent_dim": 120, "shared_dim": 128, "hierarchical": True}

# What is compared in NumPy: the kind of CIFAR-10, and that of ImageNet at 64x64, of 5 classes.
KINDS = ["cifar", "imagenet"]
GENERATORS = {
    "cifar": {"image_shape": (32, 32, 3), "width": 1, "latent_dim": 6},
    "imagenet": {
        "image_shape": (64, 64, 3),
        "width": 1,
        "latent_dim": 15,
        "shared_dim": 4,
        "hierarchical": True,
        "attention_sizes": (16,),
        "initializer": orthogonal_weights,
        "spectral_epsilon": 1e-6,
    },
}
DISCRIMINATORS = {
    "cifar": {"image_shape": (32, 32, 3), "width": 1},
    "imagenet": {
        "image_shape": (64, 64, 3),
        "width": 2,
        "attention_sizes": (8,),
        "initializer": orthogonal_weights,
        "spectral_epsilon": 1e-6,
    },
}


def find(model, name):
    """The layer of that name, out of its wrapper."""
    layer = model.get_layer(name)
    return layer.layer if isinstance(layer, Masked) else layer


@pytest.fixture(scope="module")
def generator():
    keras.utils.set_random_seed(1)
    return biggan_generator(**CIFAR)


@pytest.fixture(scope="module")
def discriminator():
    keras.utils.set_random_seed(1)
    return biggan_discriminator(**CIFAR)


def check_size(model, trainable, maskable, macs, digits=0):
    counts = count_weights(model)
    assert counts.trainable == trainable
    assert counts.maskable == counts.active == maskable
    assert round(sum(cost.macs for cost in layer_costs(model)), -digits) == macs


def test_the_networks_for_cifar_have_the_sizes_of_the_paper(generator, discriminator):
    check_size(generator, 4_304_387, 3_742_464, 1_681_129_472)
    check_size(discriminator, 4_207_361, 4_201_984, 1_081_016_576)


@pytest.mark.parametrize(
    ("width", "generator", "discriminator"),
    [
        (
            48,
            (18_383_460, 16_898_832, 5_420_000_000, 7),
            (22_383_698, 21_608_928, 2_780_000_000, 7),
        ),
        pytest.param(
            96,
            (70_433_988, 67_592_736, 21_120_000_000, 7),
            (87_982_370, 86_432_832, 10_840_000_000, 7),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_networks_for_imagenet_have_the_sizes_of_the_paper(width, generator, discriminator):
    """Of zeros, which need not be drawn."""
    zeros = {"width": width, "initializer": keras.initializers.Zeros}
    check_size(biggan_generator(**IMAGENET, **CONDITION, **zeros), *generator)
    check_size(biggan_discriminator(**IMAGENET, **zeros), *discriminator)


# Density, share of the dense FLOPs and density of some layers, as the authors' logs print them.
@pytest.mark.parametrize(
    ("density", "flops", "layers"),
    first_by_default(
        (0.05, 0.0525, {"block0_conv1": 0.0340358, "block2_conv_sc": 0.3039569, "output_conv": 1}),
        (0.1, 0.1024, {"block1_conv2": 0.0693771, "block0_conv_sc": 0.6195721, "output_conv": 1}),
        (0.2, 0.2021, {"block2_conv1": 0.1539931, "block1_conv_sc": 1, "output_conv": 1}),
        (0.3, 0.3019, {"block2_conv1": 0.2597, "block1_conv_sc": 1, "output_conv": 1}),
        (0.5, 0.5013, {"block2_conv1": 0.4712, "block1_conv_sc": 1, "output_conv": 1}),
        in_ci=1,
    ),
)
def test_theoretical_cost_of_the_sparse_generator(generator, density, flops, layers):
    check_cost(sparsify(with_full_masks(generator), 1 - density), density, flops, layers)


@pytest.mark.parametrize(
    ("density", "flops", "layers"),
    first_by_default(
        (0.05, 0.0547, {"block0_conv1": 1, "block1_conv_sc": 0.3835, "block3_conv2": 0.0429}),
        (0.1, 0.1044, {"block0_conv_sc": 1, "block1_conv_sc": 0.7815, "block2_conv1": 0.0875}),
        (0.3, 0.3034, {"block0_conv1": 1, "block1_conv_sc": 1, "block3_conv1": 0.2876}),
        (0.5, 0.5025, {"block0_conv_sc": 1, "block1_conv_sc": 1, "block0_conv2": 0.4911}),
        in_ci=1,
    ),
)
def test_theoretical_cost_of_the_sparse_discriminator(discriminator, density, flops, layers):
    check_cost(sparsify(with_full_masks(discriminator), 1 - density), density, flops, layers)


def check_cost(model, density, flops, layers):
    costs = layer_costs(model)
    sparse, dense = total_flops(costs)
    assert sparse / dense == pytest.approx(flops, abs=5e-5)
    counts = count_weights(model)
    # Each layer rounds to whole weights.
    assert abs(counts.active - density * counts.maskable) <= len(masked_layers(model)) / 2
    densities = {cost.name: cost.density for cost in costs}
    for name, expected in layers.items():
        assert densities[name] == pytest.approx(expected, abs=1e-4)


def kernels_and_biases(model):
    """Those of convolutions, dense layers and embeddings: matrices by name, biases with fan-in."""
    matrices, biases = {}, []
    for name in [layer.name for layer in model.layers]:
        layer = find(model, name)
        for variable in layer.trainable_variables:
            if variable.name in ("kernel", "embeddings"):
                matrices[name] = variable.numpy().reshape(-1, variable.shape[-1])
            if variable.name == "bias":
                biases.append((variable.numpy(), np.prod(layer.kernel.shape[:-1])))
    return matrices, biases


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_weights_for_cifar_start_normal_and_biases_as_pytorch_has_them(network, request):
    keras.utils.set_random_seed(1)
    build = {"generator": biggan_generator, "discriminator": biggan_discriminator}[network]
    matrices, biases = kernels_and_biases(build(**CIFAR, width=16))
    for values in matrices.values():
        # Of 64 numbers the deviation is known to 9 %.
        assert values.std() == pytest.approx(0.02, rel=3 / np.sqrt(2 * values.size))
        assert abs(values.mean()) < 4 * 0.02 / np.sqrt(values.size)
    for values, fan_in in biases:
        assert 0 < np.max(np.abs(values)) <= 1 / np.sqrt(fan_in)
    shares = np.concatenate([values * np.sqrt(fan_in) for values, fan_in in biases])
    assert shares.std() == pytest.approx(1 / np.sqrt(3), rel=0.1)
    assert len({values.tobytes() for values in matrices.values()}) == len(matrices)
    assert len({values.tobytes() for values, _ in biases}) == len(biases)


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_weights_for_imagenet_start_orthogonal(network):
    settings = {"image_shape": (64, 64, 3), "num_classes": 20, "attention_sizes": (32,)}
    settings |= {"width": 8, "initializer": orthogonal_weights}
    if network == "generator":
        settings |= {"latent_dim": 25, "shared_dim": 12, "hierarchical": True}
        model = biggan_generator(**settings)
    else:
        model = biggan_discriminator(**settings)
    matrices, _ = kernels_and_biases(model)
    for values in matrices.values():
        short = values if values.shape[0] >= values.shape[1] else values.T
        np.testing.assert_allclose(short.T @ short, np.eye(short.shape[1]), atol=1e-4)


def test_batch_norms_start_as_plain_ones(generator):
    norms = [layer for layer in generator.layers if hasattr(layer, "moving_variance")]
    assert len(norms) == 7
    assert {(layer.momentum, layer.epsilon, layer.synchronized) for layer in norms} == {
        (0.9, 1e-5, False)
    }
    output = find(generator, "output_bn")
    np.testing.assert_array_equal(output.gamma, np.ones(256))
    np.testing.assert_array_equal(output.beta, np.zeros(256))


# The networks once more in NumPy, from the tables of the reference code.


def relu(inputs):
    return np.maximum(inputs, 0)


def double(images):
    return images.repeat(2, axis=1).repeat(2, axis=2)


def cells(images):
    batch, height, width, channels = images.shape
    return images.reshape(batch, height // 2, 2, width // 2, 2, channels)


def halve(images):
    return cells(images).mean(axis=(2, 4))


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


class Reference:
    """A network's weights, and what its layers compute and leave behind in one call."""

    def __init__(self, model, training, epsilon):
        self.model, self.training, self.epsilon = model, training, epsilon
        self.vectors, self.statistics = {}, {}

    def kernel(self, name):
        layer = find(self.model, name)
        kernel = layer.kernel if hasattr(layer, "kernel") else tf.transpose(layer.embeddings)
        u = layer.u.numpy()
        normalized, new_u = reference.biggan_spectral_norm(kernel.numpy(), u, self.epsilon)
        self.vectors[name] = new_u if self.training else u
        return normalized

    def bias(self, name):
        bias = find(self.model, name).bias
        return 0.0 if bias is None else bias.numpy()

    def convolve(self, name, images):
        return reference.convolve(images, self.kernel(name), self.bias(name))

    def linear(self, name, vectors):
        return vectors @ self.kernel(name) + self.bias(name)

    def batch_norm(self, name, images):
        layer = find(self.model, name)
        moving = layer.moving_mean.numpy(), layer.moving_variance.numpy()
        batch = images.mean(axis=(0, 1, 2)), images.var(axis=(0, 1, 2))
        mean, variance = batch if self.training else moving
        if self.training:
            moving = [0.9 * old + 0.1 * new for old, new in zip(moving, batch, strict=True)]
        self.statistics[name] = moving
        return (images - mean) / np.sqrt(variance + 1e-5)

    def attention(self, name, images):
        batch, height, width, channels = images.shape

        def flat(images):
            return images.reshape(batch, -1, images.shape[-1])

        theta = flat(self.convolve(f"{name}_theta", images))
        phi = flat(cells(self.convolve(f"{name}_phi", images)).max(axis=(2, 4)))
        g = flat(cells(self.convolve(f"{name}_g", images)).max(axis=(2, 4)))
        weights = softmax(theta @ phi.transpose(0, 2, 1))
        attended = (weights @ g).reshape(batch, height, width, channels // 2)
        gamma = find(self.model, f"{name}_gamma").gamma.numpy()
        return images + gamma * self.convolve(f"{name}_o", attended)


def reference_generator(net, latents, labels, num_blocks, hierarchical, attention_block):
    def embed(name):
        return find(net.model, name).embeddings.numpy()[labels]

    def conditional_norm(name, images, condition):
        if condition is None:
            gain, bias = embed(f"{name}_gain"), embed(f"{name}_bias")
        else:
            gain, bias = (condition @ net.kernel(f"{name}_{part}") for part in ("gain", "bias"))
        outputs = net.batch_norm(name, images)
        return outputs * (1 + gain[:, None, None]) + bias[:, None, None]

    first, conditions = latents, [None] * num_blocks
    if hierarchical:
        first, *pieces = np.split(latents, num_blocks + 1, axis=1)
        conditions = [np.concatenate([embed("shared"), piece], axis=1) for piece in pieces]
    outputs = net.linear("linear", first)
    outputs = outputs.reshape(len(latents), 4, 4, -1)
    for block, condition in enumerate(conditions):
        name = f"block{block}"
        shortcut = net.convolve(f"{name}_conv_sc", double(outputs))
        outputs = double(relu(conditional_norm(f"{name}_bn1", outputs, condition)))
        outputs = net.convolve(f"{name}_conv1", outputs)
        outputs = relu(conditional_norm(f"{name}_bn2", outputs, condition))
        outputs = net.convolve(f"{name}_conv2", outputs) + shortcut
        if block == attention_block:
            outputs = net.attention(f"{name}_attention", outputs)
    norm = find(net.model, "output_bn")
    outputs = net.batch_norm("output_bn", outputs) * norm.gamma.numpy() + norm.beta.numpy()
    return np.tanh(net.convolve("output_conv", relu(outputs)))


def reference_discriminator(net, images, labels, num_blocks, num_halvings, attention_block):
    outputs = images
    for block in range(num_blocks):
        name = f"block{block}"
        hidden = net.convolve(f"{name}_conv1", relu(outputs) if block else outputs)
        hidden = net.convolve(f"{name}_conv2", relu(hidden))
        if block == 0:
            outputs = halve(hidden) + net.convolve(f"{name}_conv_sc", halve(outputs))
        elif block < num_halvings:
            outputs = halve(hidden) + halve(net.convolve(f"{name}_conv_sc", outputs))
        elif hidden.shape == outputs.shape:
            outputs = hidden + outputs
        else:
            outputs = hidden + net.convolve(f"{name}_conv_sc", outputs)
        if block == attention_block:
            outputs = net.attention(f"{name}_attention", outputs)
    features = relu(outputs).sum(axis=(1, 2))
    projection = np.sum(net.kernel("embed").T[labels] * features, axis=1, keepdims=True)
    return net.linear("linear", features) + projection


def disturb(model):
    """Random gains, biases and statistics in place of zeros and ones, and masks."""
    rng = np.random.default_rng(5)
    for layer in all_layers(model):
        for variable in layer.variables:
            if variable.name in ("bias", "gamma", "beta", "moving_mean", "moving_variance"):
                variable.assign(np.abs(variable.numpy()) + rng.uniform(0.1, 0.9, variable.shape))
    return sparsify(model, 0.4, seed=3)


def check_left_behind(net):
    for name, u in net.vectors.items():
        np.testing.assert_allclose(find(net.model, name).u, u, atol=1e-4)
    for name, (mean, variance) in net.statistics.items():
        np.testing.assert_allclose(find(net.model, name).moving_mean, mean, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(find(net.model, name).moving_variance, variance, rtol=1e-3)


LABELS = np.array([0, 4, 2], np.int32)


@pytest.mark.parametrize("kind", first_by_default(*KINDS))
@pytest.mark.parametrize("training", first_by_default(True, False))
def test_the_generator_computes_as_the_reference(kind, training):
    settings = GENERATORS[kind]
    keras.utils.set_random_seed(1)
    model = disturb(biggan_generator(num_classes=5, **settings))
    latents = np.random.default_rng(0).normal(size=(3, settings["latent_dim"])).astype(np.float32)
    net = Reference(model, training, settings.get("spectral_epsilon", 1e-8))
    shape = {"cifar": (3, False, None), "imagenet": (4, True, 1)}[kind]
    expected = reference_generator(net, latents, LABELS, *shape)
    images = model([latents, LABELS], training=training)
    assert images.dtype == tf.float32
    np.testing.assert_allclose(images, expected, atol=2e-4)
    check_left_behind(net)


@pytest.mark.parametrize("kind", first_by_default(*KINDS))
@pytest.mark.parametrize("training", first_by_default(True, False))
def test_the_discriminator_computes_as_the_reference(kind, training):
    settings = DISCRIMINATORS[kind]
    keras.utils.set_random_seed(1)
    model = disturb(biggan_discriminator(num_classes=5, **settings))
    images = np.random.default_rng(0).uniform(-1, 1, (3, *settings["image_shape"]))
    images = images.astype(np.float32)
    net = Reference(model, training, settings.get("spectral_epsilon", 1e-8))
    shape = {"cifar": (4, 2, None), "imagenet": (5, 4, 2)}[kind]
    expected = reference_discriminator(net, images, LABELS, *shape)
    np.testing.assert_allclose(model([images, LABELS], training=training), expected, rtol=1e-3)
    check_left_behind(net)


def small(network, kind):
    """A network of that kind and inputs of it."""
    keras.utils.set_random_seed(1)
    random = np.random.default_rng(0)
    if network == "generator":
        model = disturb(biggan_generator(num_classes=5, **GENERATORS[kind]))
    else:
        model = disturb(biggan_discriminator(num_classes=5, **DISCRIMINATORS[kind]))
    inputs = random.normal(size=(3, *model.inputs[0].shape[1:])).astype(np.float32)
    return model, [inputs, LABELS]


BOTH = list(itertools.product(["generator", "discriminator"], KINDS))


@pytest.mark.parametrize(("network", "kind"), first_by_default(*BOTH))
def test_gradients_flow_to_all_weights(network, kind):
    model, inputs = small(network, kind)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.sin(3 * model(inputs, training=True)))
    variables = model.trainable_variables
    for variable, gradient in zip(
        variables, tape.gradient(loss, [v.value for v in variables]), strict=True
    ):
        gradient = tf.convert_to_tensor(gradient).numpy()
        assert np.all(np.isfinite(gradient)), variable.path
        if variable.name == "embeddings" and "embed" not in variable.path:
            gradient = gradient[LABELS]  # The rows of classes that are there.
        assert np.any(gradient != 0), variable.path


@pytest.mark.ci
@pytest.mark.parametrize(("network", "kind"), first_by_default(*BOTH, in_ci=1))
def test_a_saved_network_goes_on_where_it_was(network, kind, tmp_path):
    model, inputs = small(network, kind)
    model(inputs, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for training in (False, True, False):
        np.testing.assert_array_equal(
            loaded(inputs, training=training), model(inputs, training=training)
        )


@pytest.mark.parametrize("size", first_by_default(32, 64, 128, 256))
def test_the_image_size_decides_the_blocks(size):
    shape = (size, size, 1)
    generator = biggan_generator(shape, 3, width=1, latent_dim=2, shared_dim=3)
    assert generator.output_shape == (None, *shape)
    discriminator = biggan_discriminator(shape, 3, width=1)
    assert discriminator.output_shape == (None, 1)
    last = [layer for layer in discriminator.layers if layer.name.endswith("conv2")][-1]
    side = 8 if size == 32 else 4
    assert last.output.shape[1:3] == (side, side)


def test_a_shared_embedding_works_without_hierarchical_latents():
    model = biggan_generator((32, 32, 3), 5, width=1, latent_dim=4, shared_dim=7)
    assert find(model, "block2_bn2_gain").kernel.shape == (7, 4)
    assert find(model, "linear").kernel.shape == (4, 64)


def test_dense_layers_are_masked_on_request_but_not_those_of_batch_norm():
    shape = (32, 32, 1)
    generator = biggan_generator(shape, 3, width=1, latent_dim=2, shared_dim=3)
    masked = {layer.name for layer in masked_layers(mask_layers(generator, mask_dense=True))}
    assert masked - {layer.name for layer in masked_layers(generator)} == {"linear"}
    discriminator = biggan_discriminator(shape, 3, width=1)
    masked = {layer.name for layer in masked_layers(mask_layers(discriminator, mask_dense=True))}
    assert masked - {layer.name for layer in masked_layers(discriminator)} == {"linear"}


def test_cross_replica_batch_norm_is_that_of_all_layers():
    model = biggan_generator((32, 32, 1), 3, width=1, latent_dim=2, cross_replica_batch_norm=True)
    norms = [layer for layer in model.layers if hasattr(layer, "moving_variance")]
    assert {layer.synchronized for layer in norms} == {True}


@pytest.mark.parametrize("network", [biggan_generator, biggan_discriminator])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_shape": (16, 16, 3)}, "of side 32, 64, 128, 256, got 16x16. Set `image_size`"),
        ({"image_shape": (32, 64, 3)}, "got 32x64"),
        ({"width": 0}, r"\.width must be a positive integer, got 0"),
        ({"num_classes": 0}, r"\.num_classes must be a positive integer"),
        ({"attention_sizes": 8}, r"\.attention_sizes must be a tuple of sizes.*got 8.*\(64,\)"),
        ({"attention_sizes": (5,)}, r"its feature maps, (8, 16, 32|16, 8), got \(5,\)"),
        ({"attention_sizes": (16,)}, "has 16, where there are 4 feature maps.*multiple of 8"),
        ({"initializer": "orthogonal"}, r"\.initializer must be a function, got 'orthogonal'"),
        ({"spectral_epsilon": 0}, r"\.spectral_epsilon must be a number above 0"),
    ],
)
def test_what_cannot_be_is_refused(network, settings, message):
    settings = {"image_shape": (32, 32, 3), "num_classes": 3, "width": 1, **settings}
    with pytest.raises(InputError, match=message):
        network(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hierarchical": True}, "needs the shared embedding.*shared_dim, e.g. 128"),
        (
            {"hierarchical": True, "shared_dim": 4, "latent_dim": 10},
            "latent_dim = 10 must be a multiple of 4",
        ),
        ({"shared_dim": -1}, "shared_dim must be a positive integer"),
        ({"latent_dim": 0}, "latent_dim must be a positive integer"),
    ],
)
def test_what_cannot_condition_the_generator_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        biggan_generator((32, 32, 3), 3, width=1, **settings)
