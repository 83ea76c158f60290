"""Measurements: each module says what it measures."""

import os

# As the commands of the package do, so that what is measured, also of rivals, is the faster way.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
