"""A question about a file, answered with citations."""

import os
import sys

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "unused"),
)

diary = "Monday was quiet. On Tuesday Filip ate a cake, and nobody else had any. It rained on Sunday."
store = client.vector_stores.create(name="Diary")
file = client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=("diary.txt", diary.encode()))
if file.status != "completed":
    sys.exit(f"the file is {file.status}: {file.last_error}")

assistant = client.beta.assistants.create(
    model="offline/offline",
    tools=[{"type": "file_search"}],
    tool_resources={"file_search": {"vector_store_ids": [store.id]}},
)
thread = client.beta.threads.create(messages=[{"role": "user", "content": "Who ate a cake?"}])
run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
if run.status != "completed":
    sys.exit(f"the run is {run.status}: {run.last_error or run.incomplete_details}")

(answer,) = client.beta.threads.messages.list(thread.id, run_id=run.id)
text = answer.content[0].text
for number, annotation in enumerate(text.annotations, 1):
    name = client.files.retrieve(annotation.file_citation.file_id).filename
    print(f"[{number}] is {name}")
    text.value = text.value.replace(annotation.text, f" [{number}]")
print(text.value)
