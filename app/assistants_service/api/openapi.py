"""The OpenAPI document at /openapi.json, and Swagger UI at /docs to try it out.

Swagger UI's files are shipped in app/swagger, as released, instead of being loaded from a CDN (the page works offline,
and no third party sees who reads it) or from a Python package (those are too old for OpenAPI 3.1, or made for another
web framework).
"""

from __future__ import annotations

from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

HERE = Path(__file__).resolve().parent
FILES = {
    "/openapi.json": (HERE / "openapi.json", "application/json"),
    "/docs": (HERE / "swagger" / "page.html", "text/html; charset=utf-8"),
    "/docs/page.js": (HERE / "swagger" / "page.js", "text/javascript; charset=utf-8"),
    "/docs/swagger-ui-bundle.js": (HERE / "swagger" / "swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    "/docs/swagger-ui.css": (HERE / "swagger" / "swagger-ui.css", "text/css; charset=utf-8"),
    "/docs/favicon.png": (HERE / "swagger" / "favicon-32x32.png", "image/png"),
}
HEADERS = {
    # Swagger UI has its icons in data: URLs.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # revalidate with If-None-Match: upgrades show at once, and otherwise nothing is sent
}


def add_routes(app: web.Application) -> None:
    """Serve the document and the page; none of these paths needs an API key."""
    app.router.add_get("/", _home)
    for path, (file, content_type) in FILES.items():
        app.router.add_get(path, _file(file, content_type))


async def _home(_: web.Request) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": "docs"})  # relative, so that a proxy may add a prefix


def _file(path: Path, content_type: str) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(path, headers={**HEADERS, "Content-Type": content_type})

    return handler
