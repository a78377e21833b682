"""What is sent to a session and runs there: Python 3.10 and newer, and nothing outside the standard library."""
