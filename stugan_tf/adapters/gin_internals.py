"""The private parts of gin that `config.py` relies on.

Gin has no public way to list what is registered, to read or replace the record of calls, to remove
one binding, or to put a configuration aside. tests/adapters/test_gin_internals.py fails first when
gin changes them.
"""

import dataclasses
from typing import Any

import gin

# Selector -> configurable with `name`, `selector`, `wrapped`, `wrapper` and `denylist`. Also has
# `get_match(abbreviated)`, None if there is none, and `minimal_selector(complete)`.
REGISTRY = gin.config._REGISTRY

# (scope, selector) -> {parameter: value} of the calls so far, without the callers' own arguments.
OPERATIVE_CONFIG = gin.config._OPERATIVE_CONFIG


def unbind(scope: str, selector: str, parameter: str) -> None:
    """Removes one binding."""
    del gin.config._CONFIG[scope, selector][parameter]


def config_text(parameters: dict[tuple[str, str], dict[str, Any]]) -> str:
    """Writes {(scope, selector): {parameter: value}} and the imports as text that gin can parse."""
    return gin.config._config_str(parameters)


@dataclasses.dataclass(frozen=True)
class GinState:
    """A copy of gin's whole state. The default is the state before gin has read anything."""

    values: dict = dataclasses.field(default_factory=dict)
    imports: frozenset = frozenset()
    calls: dict = dataclasses.field(default_factory=dict)
    singletons: dict = dataclasses.field(default_factory=dict)
    is_locked: bool = False


def copy_state() -> GinState:
    """The present state of gin."""
    return GinState(
        {key: dict(values) for key, values in gin.config._CONFIG.items()},
        frozenset(gin.config._IMPORTS),
        {key: dict(values) for key, values in OPERATIVE_CONFIG.items()},
        dict(gin.config._SINGLETONS),
        gin.config._CONFIG_IS_LOCKED,
    )


def set_state(state: GinState) -> None:
    """Replaces the state of gin."""
    gin.clear_config()
    gin.config._IMPORTS.update(state.imports)
    for stored, values in (
        (gin.config._CONFIG, {key: dict(values) for key, values in state.values.items()}),
        (OPERATIVE_CONFIG, {key: dict(values) for key, values in state.calls.items()}),
        (gin.config._SINGLETONS, state.singletons),
    ):
        stored.clear()
        stored.update(values)
    gin.config._set_config_is_locked(state.is_locked)
