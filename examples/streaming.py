"""A streamed run: the answer is printed while it comes."""

import os
import sys

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "unused"),
)

assistant = client.beta.assistants.create(model="offline/offline", instructions="Answer in one sentence.")
thread = client.beta.threads.create(messages=[{"role": "user", "content": "Tell me something."}])

with client.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
    for delta in stream.text_deltas:
        print(delta, end="", flush=True)
    run = stream.get_final_run()
print()
if run.status != "completed":
    sys.exit(f"the run is {run.status}: {run.last_error or run.incomplete_details}")
