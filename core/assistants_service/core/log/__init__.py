"""The kernel of event-sourcing: aggregates over their logs, whatever their kind."""
