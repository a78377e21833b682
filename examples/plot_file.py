"""A question about a table: the model runs Python on it, and hands back a plot."""

import os
import sys
from pathlib import Path

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "unused"),
)

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")  # where the plot is saved
sales = "month,sold\nJanuary,120\nFebruary,90\nMarch,150\n"
file = client.files.create(file=("sales.csv", sales.encode()), purpose="assistants")
assistant = client.beta.assistants.create(model="offline/offline", tools=[{"type": "code_interpreter"}])
attachment = {"file_id": file.id, "tools": [{"type": "code_interpreter"}]}
question = {"role": "user", "content": "Plot sales.csv, please.", "attachments": [attachment]}
thread = client.beta.threads.create(messages=[question])
run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
if run.status != "completed":
    sys.exit(f"the run is {run.status}: {run.last_error or run.incomplete_details}")

(answer,) = client.beta.threads.messages.list(thread.id, run_id=run.id)
text = next(part.text for part in answer.content if part.type == "text")
print(text.value)
for link in text.annotations:
    name = client.files.retrieve(link.file_path.file_id).filename
    client.files.content(link.file_path.file_id).write_to_file(folder / name)
    print(f"saved {name}")
