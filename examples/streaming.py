"""A streamed run: the answer is printed while it comes."""

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="unused")

assistant = client.beta.assistants.create(model="offline/offline", instructions="Answer in one sentence.")
thread = client.beta.threads.create(messages=[{"role": "user", "content": "Tell me something."}])

with client.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
    for delta in stream.text_deltas:
        print(delta, end="", flush=True)
print()
