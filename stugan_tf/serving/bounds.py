"""Bounds of the inputs that are part of an artifact's graph.

A caller may know nothing of this package, so a wrong input must not draw a wrong image. TensorFlow
stops at an assertion. Where assertions are lost (XLA, TensorFlow Lite, ONNX), the images of labels
that are out of range are not numbers.
"""

import tensorflow as tf

MAX_IMAGES = 2**20  # of one call


def are_classes(labels: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Which labels, int32 [n], are classes: bool [n]."""
    return (labels >= 0) & (labels < num_classes)


def clipped(labels: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Labels, int32 [n], with the first or the last class in place of those out of range.

    Embeddings would take other rows, or memory that is not theirs.
    """
    return tf.clip_by_value(labels, 0, num_classes - 1)


def blank_unless(valid: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """Images, float [n, H, W, C], that are not numbers where `valid`, bool [n], is false."""
    return tf.where(valid[:, None, None, None], images, tf.constant(float("nan"), images.dtype))


def require(
    condition: tf.Tensor, message: str, value: tf.Tensor, inputs: list[tf.Tensor]
) -> list[tf.Tensor]:
    """Makes the graph fail, with the message and the value, unless a condition, bool [], holds.

    Returns:
        The inputs. What computes with these waits for the condition. Otherwise it could fail first,
        with another message.
    """
    with tf.control_dependencies([tf.debugging.Assert(condition, [f"{message}, got", value])]):
        return [tf.identity(each) for each in inputs]
