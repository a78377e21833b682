"""The worker: executes runs, and does other work from the queue."""
