"""Sparse-to-sparse training of GANs (STU-GAN) on TensorFlow and Keras.

    import stugan_tf as st

    model = st.sparsify(model, sparsity=0.9)

`__init__.pyi` lists the public names; `st.__all__` has them, too. A name is imported when it is
first used: importing the package alone imports neither TensorFlow nor Keras.
"""

import ast
import importlib.metadata
import pkgutil

from stugan_tf.registration import imported, register_with_keras


def _listed():
    """{public name: its module}, as `__init__.pyi` says."""
    body = ast.parse(pkgutil.get_data(__name__, "__init__.pyi")).body
    imports = [line for line in body if isinstance(line, ast.ImportFrom)]
    return {alias.name: line.module for line in imports for alias in line.names}


_MODULES = _listed()
__all__ = sorted(_MODULES)
register_with_keras()


def __getattr__(name):
    """Imports a public name, or looks up the version."""
    if name == "__version__":
        value = _version()
    elif name in _MODULES:
        value = imported(_MODULES[name], name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _version():
    try:
        return importlib.metadata.version("stugan_tf")
    except importlib.metadata.PackageNotFoundError:  # A folder on PYTHONPATH.
        return "unknown"


def __dir__():
    return sorted({*globals(), *__all__})
