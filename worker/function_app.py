"""The worker as an Azure Functions app: the Functions host receives the items, this handles them.

The host hides an item for ten minutes, which is a run's whole life and cannot be configured. So each item is first
taken over, by its receipt, and from then on handled by the same code as in the worker process (worker/main.py): a dead
worker is noticed after WORKER_VISIBILITY_TIMEOUT. The queue refuses what the host later does with its own receipt,
which the host tolerates.
"""

from __future__ import annotations

from typing import Final

import azure.functions as func

from assistants_service.core.names import POISON, WORK
from assistants_service.core.ports.queue import Delivery
from assistants_service.hosted import HostedWorker

CONNECTION: Final = "WORK"  # the setting, or the prefix of settings, with the address of the queues

app = func.FunctionApp()
worker = HostedWorker()


@app.function_name("work")
@app.queue_trigger(arg_name="message", queue_name=WORK, connection=CONNECTION)
async def work(message: func.QueueMessage) -> None:
    """Handle a work item. Raises while it is, or may be, the host's: then the host delivers it again after its
    `visibilityTimeout`, and leaves it alone if it is another delivery's."""
    await (await worker.open()).take_over(delivery_of(message))


@app.function_name("poison")
@app.queue_trigger(arg_name="message", queue_name=POISON, connection=CONNECTION)
async def poison(message: func.QueueMessage) -> None:
    """Handle a work item that the host has delivered `maxDequeueCount` times. Raises if the store does not respond:
    then the host delivers it again after ten minutes."""
    await (await worker.open()).give_up(delivery_of(message))


def delivery_of(message: func.QueueMessage) -> Delivery:
    return Delivery(str(message.id), message.get_body(), message.dequeue_count or 1, str(message.pop_receipt))
