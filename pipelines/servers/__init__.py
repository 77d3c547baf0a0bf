"""Model servers: the requests they are sent, their limits, and starting them with vLLM."""
