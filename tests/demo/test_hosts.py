"""The demo answers only those who ask for it by its own address."""

import pytest

from stugan_tf.demo.__main__ import is_own_host

NAMES = {"localhost", "gpu1.lab.org"}


@pytest.mark.parametrize(
    ("header", "is_own"),
    [
        (b"127.0.0.1:7860", True),
        (b"127.0.0.1", True),
        (b"10.0.0.7:80", True),
        (b"[::1]:7860", True),
        (b"[fe80::1]", True),
        (b"localhost:7860", True),
        (b"LOCALHOST.", True),
        (b"gpu1.lab.org:7860", True),
        (None, True),
        (b"evil.example:7860", False),
        (b"evil.example", False),
        (b"127.0.0.1.evil.example:7860", False),
        (b"localhost.evil.example", False),
        (b"evil.example:7860:7860", False),
        (b"127.0.0.1@evil.example", False),
        (b"", False),
        (b":7860", False),
        (b"\xff", False),
    ],
)
def test_a_host_is_a_numeric_address_or_a_name_of_this_server(header, is_own):
    assert is_own_host(header, NAMES) is is_own
