"""/v1/models: the models of the configured providers."""

from __future__ import annotations

from dataclasses import replace

from aiohttp import web

from assistants_service.api.handling import answer, services_of
from assistants_service.core.errors import ApiError
from assistants_service.core.ports.models import ModelInfo


def _wire(model: ModelInfo) -> dict[str, object]:
    return {"id": model.id, "object": "model", "created": model.created, "owned_by": model.owned_by}


async def list_all(request: web.Request) -> web.Response:
    services = services_of(request)
    return answer({"object": "list", "data": [_wire(model) for model in await services.models.list()]})


async def _find(request: web.Request) -> ModelInfo:
    """Finds a model by the requested name: the default provider's models have two."""
    services = services_of(request)
    name = request.match_info["model"]
    found = next((model for model in await services.models.list() if name in (model.id, model.full)), None)
    if found is None:
        message = f"The model '{name[:200]}' does not exist"
        raise ApiError(message, status=404, param="model", code="model_not_found")
    return replace(found, id=name)


async def retrieve(request: web.Request) -> web.Response:
    return answer(_wire(await _find(request)))


async def delete(request: web.Request) -> web.Response:
    """Models belong to their providers, so nothing is deleted."""
    model = await _find(request)
    raise ApiError(
        f"The model '{model.id}' belongs to its provider and cannot be deleted here.", status=403, param="model"
    )
