"""A module of actions: functions that the worker itself executes."""

from assistants_service import action


@action
def get_weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"7 degrees and sun in {city}"
