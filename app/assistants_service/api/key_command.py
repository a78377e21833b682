"""`assistants keys`: create, list and revoke API keys. Scripts read stdout; messages for people go to stderr."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from assistants_service.core.keys import Key, Keys, check


def add_arguments(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(dest="action", required=True, metavar="create | list | revoke")
    create = actions.add_parser("create", help="create a key and print it; it cannot be shown again")
    create.add_argument("project", help="the project whose objects the key is for")
    create.add_argument("--name", default="", help="a description, such as the program or person that uses the key")
    create.add_argument("--read-only", action="store_true", help="the key can read everything and change nothing")
    listing = actions.add_parser("list", help="list the keys: id, last characters, scope, date, project, name")
    listing.add_argument("--project", help="only the keys of this project")
    revoke = actions.add_parser("revoke", help="revoke a key; within a minute every API process refuses it")
    revoke.add_argument("id", help="as `assistants keys list` shows it")


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raises ValueError for what cannot be done whatever the store holds."""
    if arguments.action == "create":
        check(arguments.project, arguments.name)


async def manage(keys: Keys, arguments: argparse.Namespace) -> None:
    """Raises ValueError for what cannot be done, StorageUnavailable."""
    match arguments.action:
        case "create":
            text, key = await keys.create(arguments.project, "read" if arguments.read_only else "full", arguments.name)
            print(text)
            print(f"{key.id}, for project {key.project}. It is not shown again.", file=sys.stderr)
        case "list":
            found = [key for key in await keys.list_all() if arguments.project in (None, key.project)]
            print("".join(f"{describe(key)}\n" for key in found), end="")
        case "revoke":
            if await keys.revoke(arguments.id) is None:
                raise ValueError(
                    f"There is no key with the id '{arguments.id}'. Run `assistants keys list` to see all keys."
                )
            print(f"{arguments.id} is revoked. Within a minute no process accepts it.", file=sys.stderr)


def describe(key: Key) -> str:
    """A line of `assistants keys list`."""
    created = datetime.fromtimestamp(key.created_at, UTC)
    gone = f"revoked {datetime.fromtimestamp(key.revoked_at, UTC):%Y-%m-%d}" if key.revoked_at else ""
    facts = (key.id, f"sk-...{key.last}", f"{key.scope:4}", f"{created:%Y-%m-%d}", key.project, key.name, gone)
    return "  ".join(fact for fact in facts if fact)
