"""Make api/openapi.json, the served document, from the published one in tests/wire/published.

    python tools/cut_openapi.py

It keeps the operations that are implemented, corrects what the wire is known to do otherwise, and adds what is ours.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from openapi_corrections import corrected, reachable
from openapi_limits import exact
from openapi_texts import (
    DESCRIPTION,
    ERROR,
    EVENT_STREAM,
    EVENTS,
    EVENTS_PATH,
    EXAMPLES,
    HEALTH,
    MODEL_TEXT,
    RANGE,
    SUMMARIES,
    TAG_TEXTS,
    TAGS,
    TEXTS,
)

Json = Any

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / "tests" / "wire" / "published" / "assistants-openapi.json"
SERVED = ROOT / "app" / "assistants_service" / "api" / "openapi.json"
KEEP = re.compile(r"/(assistants|threads|files|uploads|vector_stores|models)(/|$)")
DROP = {("/models/{model}", "delete")}
STREAMS = {"createRun", "createThreadAndRun", "submitToolOuputsToRun"}


def cut(published: Json) -> Json:
    """The served document."""
    document = corrected(published)
    paths = {
        path: {verb: operation for verb, operation in item.items() if (path, verb) not in DROP}
        for path, item in document["paths"].items()
        if KEEP.match(path)
    }
    for path, item in paths.items():
        for operation in item.values():
            _dress(path, operation)
    _put_after(paths, "/threads/{thread_id}/runs/{run_id}/cancel", EVENTS_PATH, EVENTS)
    paths["/files/{file_id}/content"]["get"]["parameters"].append(RANGE)
    paths |= HEALTH
    components = document["components"]
    components["responses"] = {"Error": ERROR}
    components["securitySchemes"] = {"ApiKeyAuth": components["securitySchemes"]["ApiKeyAuth"]}
    _any_model(components["schemas"])
    _flatten_form(components["schemas"]["CreateFileRequest"], components["schemas"]["FileExpirationAfter"])
    exact(paths, components["schemas"])
    served = _plain(
        {
            "openapi": document["openapi"],
            "info": {
                "title": "Assistants Service",
                "description": DESCRIPTION,
                "version": document["info"]["version"],
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "servers": [{"url": "/v1"}],
            "security": [{"ApiKeyAuth": []}, {}],
            "tags": [{"name": name, "description": text} for name, text in TAG_TEXTS.items()],
            "paths": paths,
            "components": components,
        }
    )
    _sweep(served)
    return served


def _put_after(paths: Json, before: str, path: str, item: Json) -> None:
    items = list(paths.items())
    items.insert([name for name, _ in items].index(before), (path, item))
    paths.clear()
    paths.update(items)


def _dress(path: str, operation: Json) -> None:
    """One operation: its tag, its errors, its streams and its examples."""
    name = operation["operationId"]
    operation["tags"] = [next(tag for pattern, tag in TAGS if re.search(pattern, path))]
    if name in TEXTS:
        operation["summary"], operation["description"] = TEXTS[name]
    if name in SUMMARIES:
        operation["description"], operation["summary"] = operation["summary"], SUMMARIES[name]
    operation["summary"] = operation["summary"].replace("`", "")
    operation["responses"].pop("429", None)
    operation["responses"]["default"] = {"$ref": "#/components/responses/Error"}
    if name in STREAMS:
        operation["responses"]["200"]["content"] |= EVENT_STREAM
    if name in EXAMPLES:
        (body,) = operation["requestBody"]["content"].values()
        body["examples"] = {
            f"example{number}": {"summary": summary, "value": value}
            for number, (summary, value) in enumerate(EXAMPLES[name], 1)
        }
    for parameter in operation.get("parameters", ()):
        if parameter["name"] == "model":
            parameter["schema"]["example"] = "offline"


def _any_model(schemas: Json) -> None:
    """The document lists its vendor's models; here any model goes."""
    for schema in schemas.values():
        model = schema.get("properties", {}).get("model")
        if model and ("anyOf" in model or model.get("description", "").startswith("ID of the model to use")):
            null = {"type": "null"} in model.get("anyOf", ())
            schema["properties"]["model"] = {"type": ["string", "null"] if null else "string"} | {
                "description": MODEL_TEXT,
                "example": "offline",
            }


def _flatten_form(form: Json, expiry: Json) -> None:
    """The fields of the form as they go over the wire. Without the empty example, the page would send one of its own:
    files would expire after an hour."""
    del form["properties"]["expires_after"]
    for name, schema in expiry["properties"].items():
        form["properties"][f"expires_after[{name}]"] = {**schema, "example": ""}


def _plain(node: Json) -> Json:
    """Without the vendor's own keys, its links, and its deprecation."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    plain = {}
    for key, value in node.items():
        if key.startswith("x-") or (key == "deprecated" and value is True):
            continue
        plain[key] = _prose(value) if key == "description" and isinstance(value, str) else _plain(value)
    return plain


# Sentences about the vendor's other pages and models, and links to those pages.
SENTENCES = re.compile(
    r"\s*(?:See the|(?:To )?[Ll]earn (?:more|how))[^.]*\]\((?:/docs|https?:)[^)]*\)[^.]*\."
    r"|\s*Compatible with \[GPT.*?-1106`\."
)
LINKS = re.compile(r"\[([^\]]+)\]\((?:/docs|https://platform\.)[^)]*\)")


def _prose(text: str) -> str:
    text = SENTENCES.sub("", text)
    return LINKS.sub(r"\1", text).replace("Describes an OpenAI model offering", "Describes a model").strip()


def _sweep(document: Json) -> None:
    """Drop the schemas that nothing refers to any more."""
    schemas = document["components"]["schemas"]
    rest = {key: value for key, value in document.items() if key != "components"}
    alive = reachable([rest, document["components"]["responses"]], schemas)
    document["components"]["schemas"] = {name: schema for name, schema in schemas.items() if name in alive}


def render() -> str:
    """The served document's text."""
    served = cut(json.loads(PUBLISHED.read_text(encoding="utf-8")))
    return json.dumps(served, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SERVED.write_text(render(), encoding="utf-8")
