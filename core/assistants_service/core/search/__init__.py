"""The index that comes with the service, and what every search asks."""
