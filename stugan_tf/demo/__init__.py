"""The demo: exports side by side in the browser. Started by `python -m stugan_tf.demo`."""
