"""Settings: environment variables, one module for each subject. `settings.py` puts them together."""
