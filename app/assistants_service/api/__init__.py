"""The HTTP API: routes and handlers over the services of core."""
