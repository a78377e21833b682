"""Recreate assistants from a JSON file: a list of them, or a page as `assistants.list` returned it."""

import json
import os
import sys
from pathlib import Path

from openai import APIStatusError, OpenAI

KEPT = ("model", "name", "description", "instructions", "tools", "temperature", "top_p", "reasoning_effort")

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "unused"),
)

wanted = json.loads(Path(sys.argv[1]).read_text())
if isinstance(wanted, dict):
    wanted = wanted["data"]
there = {assistant.metadata.get("old_id"): assistant.id for assistant in client.beta.assistants.list(limit=100)}
refused = []

for number, old in enumerate(wanted, 1):
    if not isinstance(old, dict) or not old.get("id"):
        print(f"entry {number} not recreated: it has no `id`, by which it would be found again")
        refused.append(f"entry {number}")
        continue
    fields = {key: old[key] for key in (*KEPT, "response_format") if old.get(key) is not None}
    fields["metadata"] = {**(old.get("metadata") or {}), "old_id": old["id"]}
    if len(fields["metadata"]) > 16:
        print(old["id"], "not recreated: `old_id` needs one of the 16 pairs of its metadata; remove one, and run again")
        refused.append(old["id"])
        continue
    try:
        if old["id"] in there:
            new = client.beta.assistants.update(there[old["id"]], **fields)
        else:
            new = client.beta.assistants.create(**fields)
    except APIStatusError as error:
        print(old["id"], "not recreated:", error.message)
        refused.append(old["id"])
        continue
    print(old["id"], new.id)
    # Files and vector stores are not the old ones: their ids would be refused.
    kinds = (old.get("tool_resources") or {}).values()
    gone = [each for kind in kinds if kind for ids in kind.values() for each in ids or ()]
    if gone:
        print(f"  without {', '.join(gone)}: upload the files anew, and add them by their new ids")

if refused:
    sys.exit(f"{len(refused)} of {len(wanted)} were not recreated: {', '.join(refused)}")
