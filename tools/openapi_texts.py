"""What the served document says beside the published one: of this service, its additions and examples."""

from __future__ import annotations

from typing import Any

Json = Any

# An operation's tag is that of the first pattern that its path matches; the published one has one tag for nearly all.
TAGS = [
    (r"^/assistants", "Assistants"),
    (r"/steps", "Run steps"),
    (r"/runs", "Runs"),
    (r"/messages", "Messages"),
    (r"^/threads", "Threads"),
    (r"^/vector_stores/.*/file_batches", "Vector store file batches"),
    (r"^/vector_stores/.*/files", "Vector store files"),
    (r"^/vector_stores", "Vector stores"),
    (r"^/files", "Files"),
    (r"^/uploads", "Uploads"),
    (r"^/models", "Models"),
]
TAG_TEXTS = {
    "Assistants": "A model with instructions and tools.",
    "Threads": "A conversation.",
    "Messages": "What was said in a thread.",
    "Runs": "An assistant at work on a thread.",
    "Run steps": "What a run did, step by step.",
    "Files": "Documents and other data, for assistants to use.",
    "Uploads": "Large files, sent in parts.",
    "Vector stores": "Files that can be searched.",
    "Vector store files": "A file in a vector store.",
    "Vector store file batches": "Files that were added to a vector store together.",
    "Models": "The models that assistants can use.",
    "Service": "The service itself.",
}
SUMMARIES = {  # where the published one is too long for a heading on the page
    "listModels": "Returns a list of models.",
    "retrieveModel": "Retrieves a model.",
    "submitToolOuputsToRun": "Submits the outputs of tool calls to a run that requires action.",
}
TEXTS = {  # summary and description, where the published ones tell of the vendor's limits
    "createFile": (
        "Uploads a file.",
        "The file is streamed to storage. `FILE_MAX_MB` limits its size (512 MB). "
        "A larger one can be sent in parts: see Uploads.",
    ),
    "deleteFile": ("Deletes a file.", "It is unknown at once; its content is removed soon after."),
    "downloadFile": ("Downloads the content of a file.", "Of any purpose; as a whole, or a range of bytes."),
    "createUpload": (
        "Creates an upload, to which parts can be added.",
        "It has to be completed within an hour. `UPLOAD_MAX_MB` limits its size (8 GB).",
    ),
    "addUploadPart": (
        "Adds a part to an upload.",
        "A part has 64 MB at most. Parts may be sent at the same time and in any order.",
    ),
    "completeUpload": (
        "Completes an upload: its parts become a file.",
        "`part_ids` names the parts in their order. They must have as many bytes as the upload was created for. "
        "If an `md5` is given and does not match, the upload is cancelled.",
    ),
    "cancelUpload": ("Cancels an upload.", "Its parts are removed soon after."),
    "createVectorStoreFile": (
        "Adds a file to a vector store.",
        "A worker reads it, cuts it into chunks and embeds them: it is `in_progress` until then. A file that is in "
        "the store already stays as it is.",
    ),
    "deleteVectorStoreFile": ("Takes a file out of a vector store.", "The file itself stays."),
    "createVectorStoreFileBatch": (
        "Adds files to a vector store, up to 2,000 at once.",
        "`file_ids` shares `attributes` and `chunking_strategy`; `files` gives each file its own.",
    ),
    "cancelVectorStoreFileBatch": (
        "Cancels a batch of files.",
        "Those of its files that are in progress are cancelled. A batch that has ended stays as it is.",
    ),
    "searchVectorStore": (
        "Searches a vector store.",
        "By meaning and by words, over the files whose attributes pass the filters.",
    ),
}
DESCRIPTION = """\
The OpenAI Assistants API, self-hosted. With the built-in model `offline` everything here can be tried without a key
of any provider: create an assistant, then create a thread and run it with the assistant's id, then read the run's
events.

Optional fields of a request also take null.

**Authorize** takes one of the service's API keys; a service that has none needs none. This page sends the header
`OpenAI-Beta: assistants=v2` by itself; official SDKs do so too."""
MODEL_TEXT = "A name from the list of models; `provider/model` names the provider. `offline` is built in."
EVENT_STREAM = {
    "text/event-stream": {
        "schema": {"$ref": "#/components/schemas/AssistantStreamEvent"},
        "example": (
            'event: thread.run.created\ndata: {"id":"run_abc123","object":"thread.run",...}\n\n'
            'event: thread.message.delta\ndata: {"id":"msg_abc123","object":"thread.message.delta",...}\n\n'
            "event: done\ndata: [DONE]\n\n"
        ),
    }
}
ERROR = {
    "description": "An error: 4xx is the client's, 5xx is ours.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}},
}
BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
DOWNLOAD = {
    "200": {"description": "The content.", "content": BYTES},
    "206": {"description": "The bytes that the header `Range` asks for.", "content": BYTES},
}
RANGE = {
    "in": "header",
    "name": "Range",
    "schema": {"type": "string"},
    "description": "The bytes that are wanted, such as `bytes=0-999`. Without it: all.",
}
EVENTS_PATH = "/threads/{thread_id}/runs/{run_id}/events"
EVENTS = {
    "get": {
        "operationId": "streamRunEvents",
        "tags": ["Runs"],
        "summary": "Streams the events of a run, from its start or from where a reader was.",
        "description": (
            "Server-sent events, as a run created with `stream` sends them. The stream ends with `done` when the run "
            "has ended or waits for tool outputs. Any number of readers can watch; a reader that was cut off goes on "
            "where it was by sending the `id` of the last event it has seen."
        ),
        "parameters": [
            {
                "in": "path",
                "name": "thread_id",
                "required": True,
                "schema": {"type": "string"},
                "description": "The ID of the thread that was run.",
            },
            {
                "in": "path",
                "name": "run_id",
                "required": True,
                "schema": {"type": "string"},
                "description": "The ID of the run to watch.",
            },
            {
                "in": "header",
                "name": "Last-Event-ID",
                "schema": {"type": "string", "pattern": r"^(\d{1,12}\.\d{1,12})?$"},
                "description": "The `id` of the last event that was seen. Without it: from the start.",
            },
        ],
        "responses": {
            "200": {"description": "OK", "content": EVENT_STREAM},
            "default": {"$ref": "#/components/responses/Error"},
        },
    }
}


def _probe(name: str, summary: str, failure: str = "") -> Json:
    responses = {"200": {"description": "It does."}} | ({"503": {"description": failure}} if failure else {})
    operation = {"operationId": name, "tags": ["Service"], "summary": summary, "security": [], "responses": responses}
    return {"servers": [{"url": "/"}], "get": operation}


HEALTH = {
    "/health": _probe(
        "getHealth",
        "Tells whether the service works, its storage included, and whether a worker of this process executes code.",
        "Storage does not answer.",
    ),
    "/health/live": _probe("getLiveness", "Tells whether this process answers."),
    "/health/ready": _probe(
        "getReadiness",
        "Tells whether this process takes requests.",
        "Storage does not answer, or the process is about to end.",
    ),
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
GUIDE = {"model": "offline", "name": "Guide", "instructions": "You answer questions about Paris."}
FORECASTER = {
    "model": "offline",
    "name": "Forecaster",
    "instructions": "You answer questions about the weather.",
    "tools": [WEATHER],
}
HELLO = {"role": "user", "content": "Hello! What is worth a visit in Paris?"}
ASK = {"role": "user", "content": "What is the weather in Paris?"}
ASSISTANT = {"assistant_id": "asst_ID_OF_YOUR_ASSISTANT"}
OUTPUTS = {"tool_outputs": [{"tool_call_id": "call_ID_OF_THE_CALL", "output": '{"degrees": 21, "sky": "clear"}'}]}
# By operation: (summary, body); the first one is what "Try it out" starts with.
EXAMPLES: dict[str, list[tuple[str, Json]]] = {
    "createAssistant": [("An assistant that talks", GUIDE), ("An assistant with a function tool", FORECASTER)],
    "modifyAssistant": [("New instructions", {"instructions": "You answer in one sentence."})],
    "createThread": [("With a first message", {"messages": [HELLO]}), ("Empty", {})],
    "modifyThread": [("Metadata", {"metadata": {"topic": "Paris"}})],
    "createMessage": [("A question", HELLO)],
    "modifyMessage": [("Metadata", {"metadata": {"seen": "yes"}})],
    "createRun": [("A run", ASSISTANT), ("A streamed run", ASSISTANT | {"stream": True})],
    "createThreadAndRun": [
        ("A run", ASSISTANT | {"thread": {"messages": [HELLO]}}),
        ("A streamed run", ASSISTANT | {"thread": {"messages": [HELLO]}, "stream": True}),
        ("A run that asks for a function's output", ASSISTANT | {"thread": {"messages": [ASK]}}),
    ],
    "createUpload": [
        ("A text", {"filename": "notes.txt", "purpose": "assistants", "bytes": 5, "mime_type": "text/plain"})
    ],
    "completeUpload": [("One part", {"part_ids": ["part_ID_OF_THE_PART"]})],
    "createVectorStore": [
        ("With files", {"name": "Handbook", "file_ids": ["file-ID_OF_YOUR_FILE"]}),
        ("Empty", {"name": "Handbook", "expires_after": {"anchor": "last_active_at", "days": 7}}),
    ],
    "modifyVectorStore": [("A name", {"name": "Handbook"})],
    "createVectorStoreFile": [("A file", {"file_id": "file-ID_OF_YOUR_FILE", "attributes": {"year": 2026}})],
    "updateVectorStoreFileAttributes": [("Attributes", {"attributes": {"year": 2026}})],
    "createVectorStoreFileBatch": [("Two files", {"file_ids": ["file-ID_OF_ONE", "file-ID_OF_ANOTHER"]})],
    "searchVectorStore": [
        ("A question", {"query": "How many days of leave are there?"}),
        (
            "With a filter",
            {"query": "days of leave", "filters": {"type": "eq", "key": "year", "value": 2026}, "max_num_results": 3},
        ),
    ],
    "modifyRun": [("Metadata", {"metadata": {"topic": "Paris"}})],
    "submitToolOuputsToRun": [("An output", OUTPUTS), ("Streamed", OUTPUTS | {"stream": True})],
}
