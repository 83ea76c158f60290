"""Wrong uses of the commands: each is told what is wrong, and none costs a run or its data.

The page docs/wrong_uses.md is made of the same cases and what they really print:

    WRITE_PAGE=1 python -m pytest tests/test_wrong_uses.py
"""

import dataclasses
import errno
import fcntl
import html
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import types
from collections.abc import Callable

import gin
import keras
import pytest
from absl.testing import flagsaver

from stugan_tf import config
from stugan_tf.training import workdir as workdir_module

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "wrong_uses.md"
TINY = ROOT / "tests" / "training" / "tiny.gin"
SHORT = ("Algorithm.total_steps = 2", "Exploration.update_interval = 1")

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000008000000080800000000e164e15700000012494441547801634c617a"
    "9f5a181a1a1a0048000aff3b1a2f5f0000000049454e44ae426082"
)
