"""Threads: messages, runs and steps."""
