"""The C interface (stugan.h) by ctypes."""

import ctypes
import functools
import os
import pathlib
import sys

VERSION = 2  # STUGAN_VERSION
MESSAGE_SIZE = 512  # STUGAN_MESSAGE_SIZE
_NAMES = {"darwin": "libstugan.dylib", "win32": "stugan.dll"}
_FLOATS = ctypes.POINTER(ctypes.c_float)
_INTEGERS = ctypes.POINTER(ctypes.c_int32)
_DOUBLES = ctypes.POINTER(ctypes.c_double)


class RuntimeFault(Exception):  # noqa: N818
    """Something that the library refused; the message says why, and what to do."""


class DamagedFileError(RuntimeFault, ValueError):
    """The file is damaged, or not a sparse file of stugan_tf."""


class UnsupportedFileError(RuntimeFault, ValueError):
    """The file is of another version, or its model cannot be run by this library."""


class WrongArgumentError(RuntimeFault, ValueError):
    """An argument does not fit the generator."""


class UnreadableFileError(RuntimeFault, OSError):
    """The file cannot be read."""


class OutOfMemoryError(RuntimeFault, MemoryError):
    """Memory or threads could not be had."""


_ERRORS = {
    1: UnreadableFileError,
    2: DamagedFileError,
    3: UnsupportedFileError,
    4: WrongArgumentError,
    5: OutOfMemoryError,
}


class Options(ctypes.Structure):
    """`stugan_options`."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("num_threads", ctypes.c_int32),
        ("precision", ctypes.c_int32),
    )


class Description(ctypes.Structure):
    """`stugan_description`."""

    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in (
                *("latent_dim", "height", "width", "channels", "num_classes", "conditional"),
                *("has_class_names", "num_threads"),
            )
        ),
        *(
            (name, ctypes.c_int64)
            for name in ("num_weights", "num_nonzero", "weight_bytes", "workspace_bytes")
        ),
        ("instruction_set", ctypes.c_char_p),
    )


@functools.cache
def library() -> ctypes.CDLL:
    """The library: the one in this package, or the one that STUGAN_RUNTIME_LIBRARY names.

    Raises:
        OSError: if there is none, or it is of another version.
    """
    name = _NAMES.get(sys.platform, "libstugan.so")
    path = os.environ.get("STUGAN_RUNTIME_LIBRARY") or pathlib.Path(__file__).parent / name
    loaded = ctypes.CDLL(os.fspath(path))
    handle, message, status = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    count, label = ctypes.c_int64, ctypes.c_int32
    out, options = ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(Options)
    for function, result, *arguments in (
        ("version", label),
        ("open_memory_with", status, ctypes.c_char_p, ctypes.c_size_t, options, out, message),
        ("open_file_with", status, ctypes.c_char_p, options, out, message),
        ("precision_of", label, handle),
        ("describe", None, handle, ctypes.POINTER(Description)),
        ("class_name", ctypes.c_char_p, handle, label),
        ("draw", status, handle, count, count, _DOUBLES, _FLOATS, _INTEGERS, message),
        ("generate", status, handle, count, _FLOATS, _INTEGERS, _FLOATS, message),
        ("to_pixels", None, _FLOATS, ctypes.c_size_t, ctypes.POINTER(ctypes.c_uint8)),
        ("close", None, handle),
    ):
        symbol = getattr(loaded, f"stugan_{function}")
        symbol.restype, symbol.argtypes = result, arguments
    if loaded.stugan_version() != VERSION:
        raise OSError(
            f"{path} has version {loaded.stugan_version()} of the interface, this package needs "
            f"version {VERSION}. Build both from the same sources."
        )
    return loaded


def call(function: str, *arguments) -> None:
    """Calls a function that can fail.

    Args:
        function: its name without `stugan_`.
        *arguments: all but the message.

    Raises:
        RuntimeFault: if it fails; the class depends on the code.
    """
    message = ctypes.create_string_buffer(MESSAGE_SIZE)
    code = getattr(library(), f"stugan_{function}")(*arguments, message)
    if code:
        raise _ERRORS.get(code, RuntimeFault)(message.value.decode("utf-8", "replace"))
