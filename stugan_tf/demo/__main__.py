"""Shows exported generators in the browser: `python -m stugan_tf.demo --artifact=DIR`.

    --artifact=DENSE --artifact=SPARSE        side by side
    --port=7860 --host=127.0.0.1              where the page is served

Shows images by seed, class and truncation; walks through latent space; the theoretical and measured
cost of each generator; the density of each layer. Needs `pip install 'stugan_tf[demo]'`. See
docs/demo.md.
"""

import contextlib
import ipaddress
import pathlib
import re
import socket
import sys
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

from absl import flags

from stugan_tf import command
from stugan_tf.errors import InputError

FLAGS = flags.FLAGS
flags.DEFINE_multi_string(
    "artifact", [], "Folder that export wrote, or its .safetensors file; several to compare."
)
flags.DEFINE_integer("port", 7860, "Port of the page.")
flags.DEFINE_string("host", "127.0.0.1", "Address of the page; 0.0.0.0 for all addresses.")

_OTHER_NAME = b"This page is served under another name. Start the demo with --host=NAME.\n"
PAGE = pathlib.Path(__file__).with_name("page.py")
MAX_ARTIFACTS = 4
_SETTINGS = {
    "browser.gatherUsageStats": False,  # By default Streamlit reports to its makers.
    "client.showErrorDetails": "none",
    "global.developmentMode": False,  # On by default unless a folder is called site-packages.
    "client.toolbarMode": "minimal",
    "logger.hideWelcomeMessage": True,  # The message asks another server for this one's address.
    "logger.level": "warning",
    "server.fileWatcherType": "none",
    "server.headless": True,
}
# Makes the browser refuse everything that is not from this server, as the page's WebSocket is.
# Streamlit's page has inline styles and an inline script, and charts compile expressions.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; base-uri 'self'; form-action 'self'"
)


def _check_flags() -> None:
    if FLAGS.gin_file or FLAGS.gin_param:
        raise InputError("The demo does not use gin: leave out --gin_file and --gin_param.")
    if not FLAGS.artifact:
        raise InputError(
            "--artifact is missing: a folder that python -m stugan_tf.export wrote. Give it "
            "several times to compare."
        )
    if len(FLAGS.artifact) > MAX_ARTIFACTS:
        raise InputError(
            f"A page shows up to {MAX_ARTIFACTS} artifacts side by side, got {len(FLAGS.artifact)}."
        )
    if not 1 <= FLAGS.port <= 65535:
        raise InputError(f"--port must be from 1 to 65535, got {FLAGS.port}.")


with command.late_imports(__name__, _check_flags):
    from stugan_tf.demo.exhibits import open_exhibits


def main(_: object) -> None:
    """Serves the page until it is interrupted."""
    app_class, middleware_class = _classes()
    address = _address(FLAGS.host, FLAGS.port)
    # The page opens the same exhibits, which are cached.
    names = [exhibit.name for exhibit in open_exhibits(tuple(FLAGS.artifact))]
    sys.argv = [str(PAGE), *FLAGS.artifact]

    @contextlib.asynccontextmanager
    async def while_served(_: object) -> AsyncIterator[None]:
        print(f"{_url(address)} shows {', '.join(names)}. Stop it by Ctrl-C.", flush=True)
        yield

    only_from_here = middleware_class(_OnlyFromHere, names=_own_names(FLAGS.host))
    app = app_class(PAGE, middleware=[only_from_here], lifespan=while_served)
    host, port = address[:2]
    with contextlib.suppress(KeyboardInterrupt):
        app.run(config={**_SETTINGS, "server.address": host, "server.port": port})


def _classes() -> tuple[Any, Any]:
    """Streamlit's classes of a server and its middleware."""
    try:
        from starlette.middleware import Middleware
        from streamlit.starlette import App
    except ImportError as error:
        raise InputError(
            f"The demo needs Streamlit ({error}). Install it: pip install 'stugan_tf[demo]'."
        ) from None
    return App, Middleware


class _OnlyFromHere:
    """Adds `_POLICY` to every response, and refuses pages and requests of other addresses.

    Streamlit also refuses most such pages, but first asks another server for this one's address. It
    does not look at the name that a request gives for this server. But the owner of a name can
    point it at this machine after a browser has loaded a page by that name (DNS rebinding).
    """

    def __init__(self, app: Any, names: Collection[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", _POLICY.encode())
                message = {**message, "headers": [*message.get("headers", ()), policy]}
            await send(message)

        headers = dict(scope.get("headers", ()))
        is_known = is_own_host(headers.get(b"host"), self._names)
        if scope["type"] == "websocket" and not (is_known and _is_from_here(headers)):
            await receive()
            await send({"type": "websocket.close"})
            return
        if scope["type"] == "http" and not is_known:
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": _OTHER_NAME})
            return
        await self._app(scope, receive, send_with_policy)


def _is_from_here(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a page of this server connects, or no page: browsers send the page's address."""
    origin = headers.get(b"origin")
    return origin is None or origin.partition(b"://")[2] == headers.get(b"host")


def is_own_host(header: bytes | None, names: Collection[str]) -> bool:
    """Whether the `Host` of a request is a numeric address or one of `names`, at any port.

    A numeric address cannot be rebound. Every browser sends the header.
    """
    if header is None:
        return True
    name = re.sub(r":[0-9]*$", "", header.decode("latin-1")).removesuffix(".").lower()
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return name in names
    return True


def _own_names(host: str) -> set[str]:
    """Names by which the page may be asked for: localhost, --host, and this machine's own."""
    return {"localhost", host.removesuffix(".").lower(), socket.gethostname().lower()}


def _address(host: str, port: int) -> Any:
    """The numeric address of a host and a port that a server can use.

    Raises:
        InputError: if the host is unknown or the port cannot be used.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise InputError(
            f"--host={host} is not an address. Use 127.0.0.1 for this machine only, 0.0.0.0 for "
            "all that can reach it."
        ) from None
    with socket.socket(family, kind) as tried:
        try:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
            tried.listen()
        except OSError as error:
            raise InputError(
                f"--port={port} of --host={host} cannot be used: {error.strerror}. Choose another "
                "port."
            ) from None
    return address


def _url(address: Any) -> str:
    host, port = address[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


if __name__ == "__main__":
    command.run(main)
