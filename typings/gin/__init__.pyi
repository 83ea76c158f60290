# gin comes without types, and its configurables would be `Any` to a type checker. Besides, without
# this stub the checker would take the folder gin/ for the package.
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

_Configurable = TypeVar("_Configurable", bound=Callable[..., Any])

REQUIRED: Any
config: Any

@overload
def configurable(name_or_fn: _Configurable) -> _Configurable: ...
@overload
def configurable(
    name_or_fn: str | None = ...,
    module: str | None = ...,
    allowlist: Sequence[str] | None = ...,
    denylist: Sequence[str] | None = ...,
) -> Callable[[_Configurable], _Configurable]: ...
def __getattr__(name: str) -> Any: ...
