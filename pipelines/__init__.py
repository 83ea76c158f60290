"""In a checkout, `python -m pipelines.run` and the others are those of `stugan_tf.pipelines`."""
