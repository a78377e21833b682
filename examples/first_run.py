"""A whole run: the model asks for a function, the program answers, the model ends the run."""

import json
import os
import sys

from openai import OpenAI


def get_weather(city: str) -> str:
    return f"4 degrees and rain in {city}"


client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "unused"),
)

parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
assistant = client.beta.assistants.create(
    model="offline/offline",
    tools=[{"type": "function", "function": {"name": "get_weather", "parameters": parameters}}],
)
thread = client.beta.threads.create(messages=[{"role": "user", "content": "What is the weather in Oslo?"}])
run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)

while run.status == "requires_action":
    calls = run.required_action.submit_tool_outputs.tool_calls
    print("the model asks for", ", ".join(f"{call.function.name}({call.function.arguments})" for call in calls))
    outputs = [
        {"tool_call_id": call.id, "output": get_weather(**json.loads(call.function.arguments))} for call in calls
    ]
    run = client.beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id, thread_id=thread.id, tool_outputs=outputs
    )

print("the run is", run.status)
if run.status != "completed":
    sys.exit(f"because of {run.last_error or run.incomplete_details}")
for message in client.beta.threads.messages.list(thread.id, order="asc"):
    print(f"{message.role}: {message.content[0].text.value}")
