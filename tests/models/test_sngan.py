import keras
import numpy as np
import pytest

from stugan_tf.errors import InputError
from stugan_tf.layers.masked import Masked, mask_layers, masked_layers
from stugan_tf.models.sngan import sngan_discriminator, sngan_generator
from stugan_tf.sparsity.flops import layer_costs, total_flops
from stugan_tf.sparsity.sparsify import count_weights, sparsify
from tests.helpers import reference
from tests.helpers.masks import with_full_masks
from tests.helpers.params import first_by_default

CIFAR = (32, 32, 3)


@pytest.fixture(scope="module")
def generator():
    keras.utils.set_random_seed(1)
    return sngan_generator(CIFAR)


@pytest.fixture(scope="module")
def discriminator():
    keras.utils.set_random_seed(1)
    return sngan_discriminator(CIFAR)


def find(model, name):
    """The layer of that name, out of its wrapper."""
    layer = model.get_layer(name)
    return layer.layer if isinstance(layer, Masked) else layer


def test_the_generator_has_the_size_of_the_paper(generator):
    counts = count_weights(generator)
    assert counts.trainable == 4_276_739
    assert counts.maskable == counts.active == 3_742_464
    assert sum(cost.macs for cost in layer_costs(generator)) == 1_681_129_472


def test_the_discriminator_has_the_size_of_the_paper(discriminator):
    counts = count_weights(discriminator)
    assert counts.trainable == 1_053_824
    assert counts.maskable == counts.active == 1_052_416
    assert sum(cost.macs for cost in layer_costs(discriminator)) == 272_072_832


def test_initial_weights_of_the_generator(generator):
    check_convolutions(generator)
    check_uniform(find(generator, "l1").kernel, 1 / np.sqrt(128))
    check_uniform(find(generator, "l1").bias, 1 / np.sqrt(128))
    norms = [layer for layer in generator.layers if isinstance(layer, type(find(generator, "b5")))]
    assert len(norms) == 7
    gammas = np.concatenate([layer.gamma.numpy() for layer in norms])
    assert gammas.mean() == pytest.approx(1, abs=0.002)
    assert gammas.std() == pytest.approx(0.02, rel=0.05)
    for layer in norms:
        assert np.all(layer.beta.numpy() == 0)


def test_initial_weights_of_the_discriminator(discriminator):
    check_convolutions(discriminator)
    last = find(discriminator, "l5")
    assert last.bias is None
    check_uniform(last.kernel, 1 / np.sqrt(128))


def check_convolutions(model):
    """Glorot uniform kernels, PyTorch's uniform biases, and no two biases alike."""
    biases = []
    for layer in masked_layers(model):
        height, width, num_in, num_out = layer.kernel.shape
        area = height * width
        check_uniform(layer.kernel, np.sqrt(6 / (area * (num_in + num_out))))
        if num_out > 3:
            check_uniform(layer.layer.bias, 1 / np.sqrt(area * num_in))
        assert np.max(np.abs(layer.layer.bias)) <= 1 / np.sqrt(area * num_in)
        biases.append(tuple(layer.layer.bias.numpy()))
    assert len(set(biases)) == len(biases)


def check_uniform(variable, limit):
    values = variable.numpy().ravel()
    tolerance = 5 / np.sqrt(len(values))
    assert limit * (1 - tolerance) <= np.max(np.abs(values)) <= limit
    assert np.std(values) == pytest.approx(limit / np.sqrt(3), rel=tolerance)
    assert np.mean(values) == pytest.approx(0, abs=limit * tolerance)


# Density, share of the dense FLOPs and density of some layers, as computed for the paper's
# networks and as the authors' logs print them.
@pytest.mark.parametrize(
    ("density", "flops", "layers"),
    first_by_default(
        (0.05, 0.0525, {"block2_c1": 0.0340358, "block4_c_sc": 0.3039569, "c5": 1}),
        (0.1, 0.1024, {"block3_c2": 0.0693771, "block2_c_sc": 0.6195721, "c5": 1}),
        (0.2, 0.2021, {"block4_c1": 0.1539931, "block3_c_sc": 1, "c5": 1}),
        in_ci=1,
    ),
)
def test_theoretical_cost_of_the_sparse_generator(generator, density, flops, layers):
    check_cost(sparsify(with_full_masks(generator), 1 - density), density, flops, layers)


@pytest.mark.parametrize(
    ("density", "flops", "layers"),
    first_by_default(
        (0.05, 0.0586, {"block1_c1": 0.929, "block1_c_sc": 1, "block3_c2": 0.0416}),
        (0.1, 0.1088, {"block1_c1": 1, "block2_c_sc": 0.7633, "block2_c1": 0.0861}),
        (0.3, 0.3068, {"block1_c1": 1, "block2_c_sc": 1, "block4_c1": 0.2863}),
        (0.5, 0.5049, {"block1_c1": 1, "block2_c_sc": 1, "block1_c2": 0.4902034}),
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
        assert densities[name] == pytest.approx(expected, abs=3e-4)


# The networks once more in NumPy, from the tables of the reference code.


def normalize(model, name, inputs, training, momentum=0.9):
    """Batch norm and the moving statistics that it leaves behind."""
    layer = find(model, name)
    moving = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    batch = inputs.mean(axis=(0, 1, 2)), inputs.var(axis=(0, 1, 2))
    mean, variance = batch if training else moving
    outputs = (inputs - mean) / np.sqrt(variance + 1e-5) * layer.gamma + layer.beta.numpy()
    if training:
        moving = [
            momentum * old + (1 - momentum) * new for old, new in zip(moving, batch, strict=True)
        ]
    return outputs, moving


def relu(inputs):
    return np.maximum(inputs, 0)


def double(images):
    return images.repeat(2, axis=1).repeat(2, axis=2)


def halve(images):
    return (
        images[:, ::2, ::2] + images[:, 1::2, ::2] + images[:, ::2, 1::2] + images[:, 1::2, 1::2]
    ) / 4


def reference_generator(model, latents, num_blocks, training):
    statistics = {}

    def activated(name, inputs):
        outputs, statistics[name] = normalize(model, name, inputs, training)
        return relu(outputs)

    def convolve(name, inputs):
        layer = find(model, name)
        return reference.convolve(inputs, layer.kernel.numpy(), layer.bias.numpy())

    first = find(model, "l1")
    outputs = latents @ first.kernel.numpy() + first.bias.numpy()
    outputs = outputs.reshape(-1, 4, 4, find(model, "b5").gamma.shape[0])
    for block in range(2, 2 + num_blocks):
        shortcut = convolve(f"block{block}_c_sc", double(outputs))
        outputs = double(activated(f"block{block}_b1", outputs))
        outputs = convolve(f"block{block}_c1", outputs)
        outputs = convolve(f"block{block}_c2", activated(f"block{block}_b2", outputs)) + shortcut
    return np.tanh(convolve("c5", activated("b5", outputs))), statistics


def reference_discriminator(model, images, num_halvings, training):
    vectors = {}

    def normalized_kernel(name):
        layer = find(model, name)
        kernel, *vectors[name] = reference.spectral_norm(
            layer.kernel.numpy(), layer.u.numpy(), layer.v.numpy(), training
        )
        return kernel

    def convolve(name, inputs):
        bias = find(model, name).bias.numpy()
        return reference.convolve(inputs, normalized_kernel(name), bias)

    outputs = halve(convolve("block1_c2", relu(convolve("block1_c1", images))))
    outputs = outputs + convolve("block1_c_sc", halve(images))
    for block in range(2, 5):
        shortcut = outputs
        outputs = convolve(f"block{block}_c1", relu(outputs))
        outputs = convolve(f"block{block}_c2", relu(outputs))
        if block <= num_halvings:
            outputs = halve(outputs) + halve(convolve(f"block{block}_c_sc", shortcut))
        else:
            outputs = outputs + shortcut
    return relu(outputs).sum(axis=(1, 2)) @ normalized_kernel("l5"), vectors


def disturb(model):
    """Random batch norm weights and statistics, biases and singular vectors, and masks."""
    rng = np.random.default_rng(5)
    for layer in model.layers:
        for variable in layer.variables:
            if "kernel" not in variable.path:
                variable.assign(np.abs(variable.numpy()) + rng.uniform(0.1, 0.9, variable.shape))
    return sparsify(model, 0.4, seed=3)


@pytest.mark.parametrize(("size", "num_blocks"), first_by_default((16, 2), (8, 1)))
@pytest.mark.parametrize("training", [True, False])
def test_the_generator_computes_as_the_reference(size, num_blocks, training):
    model = disturb(sngan_generator((size, size, 3), width=4, latent_dim=6))
    latents = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    expected, statistics = reference_generator(model, latents, num_blocks, training)
    np.testing.assert_allclose(model(latents, training=training), expected, atol=1e-4)
    for name, (mean, variance) in statistics.items():
        np.testing.assert_allclose(find(model, name).moving_mean, mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(find(model, name).moving_variance, variance, rtol=1e-3)


@pytest.mark.parametrize(("size", "num_halvings"), first_by_default((16, 1), (8, 1), (32, 2)))
@pytest.mark.parametrize("training", [True, False])
def test_the_discriminator_computes_as_the_reference(size, num_halvings, training):
    model = disturb(sngan_discriminator((size, size, 3), width=3))
    images = np.random.default_rng(0).uniform(-1, 1, (2, size, size, 3)).astype(np.float32)
    expected, vectors = reference_discriminator(model, images, num_halvings, training)
    np.testing.assert_allclose(model(images, training=training), expected, rtol=1e-3, atol=1e-3)
    for name, (u, v) in vectors.items():
        np.testing.assert_allclose(find(model, name).u, u, atol=1e-4)
        np.testing.assert_allclose(find(model, name).v, v, atol=1e-4)


@pytest.mark.parametrize("channels", first_by_default(1, 3))
@pytest.mark.parametrize(
    ("size", "bottom", "top"), first_by_default((8, 4, 4), (16, 4, 8), (24, 6, 6), (64, 4, 8))
)
def test_other_image_sizes_change_the_number_of_resolutions_only(size, bottom, top, channels):
    shape = (size, size, channels)
    generator = sngan_generator(shape, width=2, latent_dim=5)
    images = generator(np.full([2, 5], 0.5, np.float32))
    assert images.shape == (2, *shape)
    assert np.max(np.abs(images)) <= 1
    assert find(generator, "l1").units == 2 * bottom**2
    discriminator = sngan_discriminator(shape, width=2)
    assert discriminator(images).shape == (2, 1)
    last = [layer for layer in discriminator.layers if layer.name.endswith("c2")][-1]
    assert last.output.shape[1:] == (top, top, 2)


@pytest.mark.parametrize("network", [sngan_generator, sngan_discriminator])
@pytest.mark.parametrize("shape", [(12, 12, 3), (4, 4, 3), (0, 0, 1), (32, 16, 3), (28, 28, 1)])
def test_other_sizes_are_refused(network, shape):
    message = f"a multiple of 8, got {shape[0]}x{shape[1]}. Set `image_size` of the data source"
    with pytest.raises(InputError, match=message):
        network(shape)


def test_dense_layers_are_masked_on_request_and_come_where_they_are_in_the_network():
    """Masks are drawn in this order."""
    generator = mask_layers(sngan_generator((8, 8, 1), width=2, latent_dim=5), mask_dense=True)
    assert next(layer.name for layer in masked_layers(generator)) == "l1"
    discriminator = mask_layers(sngan_discriminator((8, 8, 1), width=2), mask_dense=True)
    assert [layer.name for layer in masked_layers(discriminator)][-1] == "l5"
