"""What is in a database, for other tools: runs and trials for MLflow, traces for OpenTelemetry."""
