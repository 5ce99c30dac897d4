"""The address of the page on this computer, its uploads and its downloads."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from self2self.errors import EngineUnavailableError, ResourceError, Self2SelfError, UsageError, typed, writing
from self2self.gui.desk import Desk
from self2self.gui.guard import LOOPBACK, Guard
from self2self.machine.cache_folder import cache_folder
from self2self.machine.files import remove_folder, scratch_folder

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

USUAL_PORT = 8765
INSTALL_COMMAND = "pip install 'self2self[gui]'"
SCRIPT = Path(__file__).with_name("page.js")
RECONNECT_SECONDS = 60
"""Silence after which a window counts as closed: while all processors are busy, neither side may answer for long."""
SHUTDOWN_SECONDS = 2
"""Time that open connections have to end."""


def check_available() -> None:
    """Check that the packages for the page are installed.

    Raises:
        EngineUnavailableError: one is missing.
    """
    try:
        import nicegui
    except ImportError as error:
        raise EngineUnavailableError(
            f"self2self gui: needs NiceGUI, and {error.name or error} is not installed. Install it: {INSTALL_COMMAND}"
        ) from error
    del nicegui


def serve(port: int | None, on_ready: Callable[[str], None]) -> None:
    """Serve the page until somebody ends it: on the page, by Ctrl-C, or by SIGTERM. Its files are removed then.

    Args:
        port: of the page; None for `USUAL_PORT`, or for any other if that is taken.
        on_ready: gets the address, with the key, as soon as a browser can open it.

    Raises:
        EngineUnavailableError: NiceGUI is missing.
        UsageError: the port is taken or does not exist.
        OutputError, ResourceError: the folder for the page's files cannot be made.
    """
    # FastAPI can send reports to a server where the environment says so; this page reports nothing.
    os.environ["FASTAPI_OTEL_AUTO_CONFIGURE"] = "false"
    check_available()
    with listening(port) as listener, scratch_folder(cache_folder() / "gui") as folder:
        desk = Desk(folder)
        try:
            with suppress(KeyboardInterrupt), _signals_end_the_page():
                _run(desk, listener, on_ready)
        finally:
            desk.close()


@contextmanager
def listening(port: int | None) -> Iterator[socket.socket]:
    """A socket that listens on `port` of this computer alone; None is as for `serve`.

    Raises:
        UsageError: the port is taken or does not exist.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        if os.name == "posix":
            # Otherwise the port of a page that has just ended counts as taken for a minute.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, USUAL_PORT if port is None else port))
        except OverflowError:
            raise UsageError(f"{typed('--port')} is {port}; expected 1 to 65535.") from None
        except OSError as error:
            if port is not None:
                raise UsageError(
                    f"{typed('--port', port)}: cannot be used ({error.strerror}). Choose another, or leave "
                    f"{typed('--port')} out."
                ) from error
            listener.bind((LOOPBACK, 0))
        listener.listen()
        yield listener


@contextmanager
def _signals_end_the_page() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the block as Ctrl-C does, so that files are removed.

    The server handles SIGINT and SIGTERM, and raises them again when it has ended.
    """
    handlers: dict[str, Callable[[int, FrameType | None], Any]] = {
        "SIGINT": signal.default_int_handler,
        "SIGTERM": signal.default_int_handler,
        "SIGHUP": lambda *_: signal.raise_signal(signal.SIGTERM),
    }
    known = {getattr(signal, name): handler for name, handler in handlers.items() if hasattr(signal, name)}
    before = {number: signal.signal(number, handler) for number, handler in known.items()}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _run(desk: Desk, listener: socket.socket, on_ready: Callable[[str], None]) -> None:
    import uvicorn
    from fastapi import FastAPI
    from nicegui import ui
    from starlette.routing import Route

    from self2self.gui.page import build

    key, port = secrets.token_urlsafe(16), listener.getsockname()[1]

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            # A browser may take seconds to start.
            threading.Thread(target=on_ready, args=[f"http://{LOOPBACK}:{port}/?key={key}"], daemon=True).start()

    def stop() -> None:
        server.should_exit = True

    # A browser that asks for an address that does not exist is no news.
    logging.getLogger("nicegui").setLevel(logging.ERROR)
    app = FastAPI(routes=_routes(desk, Route), docs_url=None, redoc_url=None, openapi_url=None)
    build(desk, stop)
    ui.run_with(
        app,
        title="self2self",
        dark=None,
        tailwind=False,
        show_welcome_message=False,
        favicon="\N{SPARKLES}",
        binding_refresh_interval=None,
        reconnect_timeout=RECONNECT_SECONDS,
    )
    app.add_middleware(Guard, key=key, port=port)
    server = Server(
        uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS)
    )
    server.run([listener])


def _routes(desk: Desk, route: Any) -> list[Any]:
    """What the page fetches and sends beside NiceGUI's own traffic."""
    from starlette.responses import FileResponse, JSONResponse, PlainTextResponse

    async def upload(request: Request) -> Response:
        source = desk.new_source(unquote(request.headers.get("x-name", "")))
        try:
            with writing(source.name, "remove images from the page"), source.open("wb") as file:
                async for chunk in request.stream():
                    file.write(chunk)
        except Self2SelfError as error:
            remove_folder(source.parent.parent)
            return PlainTextResponse(str(error), 507 if isinstance(error, ResourceError) else 500)
        except BaseException:
            # The browser is gone, or the page ends.
            remove_folder(source.parent.parent)
            raise
        desk.add(source)
        return JSONResponse({"name": source.name})

    async def file(request: Request) -> Response:
        path = desk.files.get(request.path_params["key"])
        if path is None:
            return PlainTextResponse("not there any more", 404)
        is_picture = path.parent.name != "files"
        # Pictures are of private images; the browser keeps no copy.
        return FileResponse(
            path,
            media_type="image/png" if is_picture else "application/octet-stream",
            filename=None if is_picture else path.name,
            headers={"cache-control": "no-store"},
        )

    async def script(_: Request) -> Response:
        return FileResponse(SCRIPT, media_type="text/javascript", headers={"cache-control": "no-store"})

    return [
        route("/upload", upload, methods=["POST"]),
        route("/files/{key}", file),
        route("/page.js", script),
    ]
