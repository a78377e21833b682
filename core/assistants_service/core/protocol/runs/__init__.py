"""Runs and steps."""
