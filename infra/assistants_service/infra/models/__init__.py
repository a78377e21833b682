"""Model providers: OpenAI's two APIs, and the offline model."""
