"""Sparse-to-sparse training of GANs (STU-GAN) on TensorFlow and Keras."""

__version__ = "0.1.0"
