"""The Azure Functions host, as far as a queue trigger can tell: it reads host.json, imports the app that is deployed,
and drives its functions over real queues.

    python functions_host.py FOLDER [--visibility-timeout SECONDS] [--late SECONDS]

What it does is what the extension Microsoft.Azure.WebJobs.Extensions.Storage.Queues 5 does (QueueListener.cs,
UpdateQueueMessageVisibilityCommand.cs, QueueProcessor.cs and QueuesOptions.cs in Azure/azure-sdk-for-net), and the
Python worker between it and the function:

* A message is hidden for ten minutes, and anew after five, and so on until its function has ended. That cannot be set;
  here `--visibility-timeout` can, so that a test need not wait. Each renewal makes a new receipt, which the host uses
  from then on.
  The function is told the one that came with the message. A renewal that is refused is the last.
* The first renewal counts from the receipt, not from the beginning of the function, which may be late: the Python
  worker is started, imports the app, or is busy. With `--late` the first delivery of each message is so many seconds
  late.
* After a look that found nothing the host waits 100 ms, then about twice as long each time, up to `maxPollingInterval`.
  It takes `batchSize` messages, and looks again when no more than `newBatchThreshold` are worked on.
* A function that returns has its message deleted. One that raises has it shown again after `visibilityTimeout`; at the
  `maxDequeueCount`-th time it is moved to the queue `NAME-poison`, and so is what cannot be decoded. Poison queues have
  no poison queue: their messages stay hidden. A refusal, because the receipt is not the newest one, is no error.
* Settings of host.json yield to AzureFunctionsJobHost__extensions__queues__NAME; AzureWebJobs.NAME.Disabled turns a
  function off; the setting that a trigger's `connection` names holds a connection string.
* A request that gets no answer is sent again, as Azure's SDK does.
* At SIGTERM it looks no more, waits for what is under way, and kills the Python worker.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import contextlib
import importlib
import inspect
import json
import logging
import os
import random
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from azure.core.exceptions import HttpResponseError
from azure.functions.meta import Datum
from azure.functions.queue import QueueMessageInConverter
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient

log = logging.getLogger("host")

API_VERSION = "2025-11-05"  # that Azurite knows
VISIBILITY_TIMEOUT = 600.0  # seconds
SHORTEST = 0.1  # seconds between looks
KNOWN = {"messageEncoding", "maxPollingInterval", "batchSize", "newBatchThreshold", "visibilityTimeout"}
KNOWN |= {"maxDequeueCount"}
# The SDK's own pauses begin with 15 s: by then a test would have given up.
RESENDING = {"initial_backoff": 0, "increment_base": 1, "random_jitter_range": 1}  # seconds, at most 2 a pause
LOST = ("PopReceiptMismatch", "MessageNotFound", "QueueNotFound", "QueueBeingDeleted")


# --- host.json ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """`extensions.queues` of host.json, with its defaults. Raises ValueError for what the host would refuse."""

    batch: int = 16
    threshold: int = 8
    most_deliveries: int = 5
    polling: float = 60.0  # seconds
    retry: float = 0.0  # seconds
    base64: bool = True

    @classmethod
    def read(cls, folder: Path, settings: Mapping[str, str]) -> Options:
        host = json.loads((folder / "host.json").read_text())
        if host["version"] != "2.0" or set(host) - {"version", "extensionBundle", "functionTimeout", "extensions"}:
            raise ValueError("host.json is not what this host knows")
        seconds(host["functionTimeout"])
        given = dict(host["extensions"]["queues"])
        prefix = "AzureFunctionsJobHost__extensions__queues__"
        given |= {name.removeprefix(prefix): value for name, value in settings.items() if name.startswith(prefix)}
        if unknown := set(given) - KNOWN:
            raise ValueError(f"host.json: {unknown}")
        batch = int(given.get("batchSize", 16))
        found = cls(
            batch=batch,
            threshold=int(given.get("newBatchThreshold", batch // 2)),
            most_deliveries=int(given.get("maxDequeueCount", 5)),
            polling=seconds(given.get("maxPollingInterval", "00:01:00")),
            retry=seconds(given.get("visibilityTimeout", "00:00:00")),
            base64={"base64": True, "none": False}[given.get("messageEncoding", "base64").lower()],
        )
        if not 1 <= found.batch <= 32 or found.threshold < 0 or found.most_deliveries < 1 or found.polling < SHORTEST:
            raise ValueError(f"host.json is out of range: {found}")
        return found


def seconds(text: str) -> float:
    """Of a .NET TimeSpan."""
    parts = re.fullmatch(r"(?:(\d+)\.)?(\d\d):(\d\d):(\d\d(?:\.\d+)?)", text)
    if parts is None:
        raise ValueError(f"'{text}' is no time span")
    days, hours, minutes, rest = parts.groups(default="0")
    return ((int(days) * 24 + int(hours)) * 60 + int(minutes)) * 60 + float(rest)


# --- the app --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What a function gets to know of its message, besides the body: as it was received."""

    id: str
    receipt: str
    count: int


@dataclass(frozen=True)
class Function:
    name: str
    queue: str
    connection: str
    call: Callable[..., Awaitable[None]]
    argument: str

    async def invoke(self, message: Told, body: bytes) -> bool:
        """As the Python worker does it. Whether it returned."""
        told = {"Id": message.id, "PopReceipt": message.receipt, "DequeueCount": message.count}
        kinds = {str: "string", int: "int"}
        metadata = {name: Datum(value, kinds[type(value)]) for name, value in told.items()}
        argument = QueueMessageInConverter.decode(Datum(body.decode(), "string"), trigger_metadata=metadata)
        try:
            await self.call(**{self.argument: argument})
        except Exception as error:
            log.warning("%s failed: %s: %s", self.name, type(error).__name__, error)
            return False
        return True


def functions_of(folder: Path, settings: Mapping[str, str]) -> list[Function]:
    """Those that are turned on. Raises what the import raises: then the host has no functions."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    found = []
    for one in importlib.import_module("function_app").app.get_functions():
        (binding,) = one.get_bindings()
        call, trigger = one.get_user_function(), binding.get_dict_repr()
        assert trigger["type"] == "queueTrigger"
        assert inspect.iscoroutinefunction(call), "it would block one of few threads"
        if settings.get(f"AzureWebJobs.{one.get_function_name()}.Disabled") != "true":
            names = (one.get_function_name(), trigger["queueName"], trigger["connection"])
            found.append(Function(*names, call, trigger["name"]))
    return found


# --- the listener ---------------------------------------------------------------------------------------------------


@dataclass
class Listener:
    function: Function
    options: Options
    queue: QueueClient
    poison: QueueClient | None
    visibility_timeout: float = VISIBILITY_TIMEOUT
    late: float = 0.0  # seconds
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)

    async def listen(self) -> None:
        """Until cancelled."""
        step = 0
        while True:
            messages = await self._receive()
            for message in messages:
                task = asyncio.create_task(self._process(message))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            while len(self._under_way) > self.options.threshold:
                await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
            if messages:
                step = 0
                continue
            pause = SHORTEST + (random.uniform(0.8, 1.2) * 2 ** (step - 1) * SHORTEST if step else 0)
            step += 1
            await asyncio.sleep(min(pause, self.options.polling))

    async def finish(self) -> None:
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def _receive(self) -> list[QueueMessage]:
        pages = self.queue.receive_messages(
            messages_per_page=self.options.batch, visibility_timeout=int(self.visibility_timeout)
        )
        try:
            async for page in pages.by_page():
                return [message async for message in page]
        except HttpResponseError as error:
            log.debug("%s: %s", self.function.queue, error.error_code)  # type: ignore[attr-defined]
        return []

    async def _process(self, message: QueueMessage) -> None:
        if self.options.base64:
            try:
                body = base64.b64decode(message.content, validate=True)
            except binascii.Error:
                return await self._to_poison(message)
        else:
            body = message.content.encode()
        if message.dequeue_count > self.options.most_deliveries and self.poison:
            return await self._to_poison(message)
        renewing = asyncio.create_task(self._renew(message))
        try:
            returned = await self._invoke(message, body)
        finally:
            renewing.cancel()
            await asyncio.wait((renewing,))
        if returned:
            await self._delete(message)
        elif self.poison and message.dequeue_count >= self.options.most_deliveries:
            await self._to_poison(message)
        elif self.poison:
            await self._update(message, self.options.retry)

    async def _invoke(self, message: QueueMessage, body: bytes) -> bool:
        told = Told(message.id, message.pop_receipt, message.dequeue_count)
        await asyncio.sleep(self.late if message.dequeue_count == 1 else 0)
        return await self.function.invoke(told, body)

    async def _renew(self, message: QueueMessage) -> None:
        while True:
            await asyncio.sleep(self.visibility_timeout / 2)
            if not await self._update(message, self.visibility_timeout):
                return

    async def _to_poison(self, message: QueueMessage) -> None:
        """As it is: what could not be decoded is not encoded either."""
        if self.poison:
            with contextlib.suppress(HttpResponseError):
                await self.poison.create_queue()
            await self.poison.send_message(message.content)
            await self._delete(message)

    async def _update(self, message: QueueMessage, visibility_timeout: float) -> bool:
        receipt = message.pop_receipt
        with not_mine():
            new = await self.queue.update_message(
                message.id, pop_receipt=receipt, visibility_timeout=int(visibility_timeout)
            )
            message.pop_receipt = new.pop_receipt
            return True
        return False

    async def _delete(self, message: QueueMessage) -> None:
        with not_mine():
            await self.queue.delete_message(message.id, pop_receipt=message.pop_receipt)


@contextlib.contextmanager
def not_mine() -> Any:
    try:
        yield
    except HttpResponseError as error:
        if error.error_code not in LOST:  # type: ignore[attr-defined]
            raise


async def main(folder: Path, visibility_timeout: float, late: float) -> None:
    settings, stop = os.environ, asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    options = Options.read(folder, settings)
    functions = functions_of(folder, settings)
    async with contextlib.AsyncExitStack() as stack:
        listeners = []
        for one in functions:

            async def queue(name: str, at: str = one.connection) -> QueueClient:
                client = QueueClient.from_connection_string(settings[at], name, api_version=API_VERSION, **RESENDING)
                return await stack.enter_async_context(client)

            poison = None if one.queue.endswith("-poison") else await queue(f"{one.queue}-poison")
            listeners.append(Listener(one, options, await queue(one.queue), poison, visibility_timeout, late))
        listening = [asyncio.create_task(listener.listen()) for listener in listeners]
        log.info("worker ready: %s", ", ".join(one.name for one in functions))
        await asyncio.wait([asyncio.create_task(stop.wait()), *listening], return_when=asyncio.FIRST_COMPLETED)
        for task in listening:
            task.cancel()
        await asyncio.gather(*(listener.finish() for listener in listeners))
        os._exit(0)  # the Python worker is told nothing


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--visibility-timeout", type=float, default=VISIBILITY_TIMEOUT)
    parser.add_argument("--late", type=float, default=0.0)
    given = parser.parse_args()
    logging.basicConfig(handlers=[logging.StreamHandler()])  # whose place the Python worker's handler has there
    logging.getLogger("azure").setLevel(logging.WARNING)
    asyncio.run(main(given.folder, given.visibility_timeout, given.late))
