"""What middleware stores on each request, for the code that handles it."""

from __future__ import annotations

from aiohttp import web

PROJECT = web.RequestKey("project", str)
REQUEST_ID = web.RequestKey("request_id", str)
