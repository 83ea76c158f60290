"""The networks that gin files can name; importing this package registers them."""

from stugan_tf.models import biggan, sngan

__all__ = ["biggan", "sngan"]
