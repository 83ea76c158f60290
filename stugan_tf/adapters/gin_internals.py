"""The private parts of gin that `config.py` relies on.

Gin has no public way to list what is registered, to read or replace what was called, or to remove
one binding. tests/adapters/test_gin_internals.py fails first when gin changes them.
"""

import gin

# Selector -> configurable with `name`, `selector`, `wrapped`, `wrapper` and `denylist`. Also has
# `get_match(abbreviated)`, None if there is none, and `minimal_selector(complete)`.
REGISTRY = gin.config._REGISTRY

# (scope, selector) -> {parameter: value} of the calls so far, without what the callers gave.
OPERATIVE_CONFIG = gin.config._OPERATIVE_CONFIG


def unbind(scope, selector, parameter):
    """Removes one binding."""
    del gin.config._CONFIG[scope, selector][parameter]


def config_text(parameters):
    """{(scope, selector): {parameter: value}} as text that gin can parse, with the imports."""
    return gin.config._config_str(parameters)
