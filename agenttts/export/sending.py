"""Sending spans: to a collector by OTLP over HTTP, or into a file, a JSON object a line."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from agenttts.errors import UserError

_AT_ONCE = 512
_PATIENCE_S = 10  # with retries


def send_spans(spans: Iterable[ReadableSpan], endpoint: str | None) -> int:
    """Send spans to a collector; how many they were.

    Args:
        spans: The spans.
        endpoint: The address of its traces, such as http://localhost:4318/v1/traces; None for what the
            environment variables of OpenTelemetry say.

    Raises:
        UserError: The collector can't be reached, or refuses them.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter, n, coming = OTLPSpanExporter(endpoint=endpoint, timeout=_PATIENCE_S), 0, iter(spans)
    try:
        while batch := list(islice(coming, _AT_ONCE)):
            if exporter.export(batch) is not SpanExportResult.SUCCESS:
                where = endpoint or "the endpoint of the environment, or http://localhost:4318/v1/traces"
                raise UserError(
                    f"{where}: takes no spans ({n:,} were sent); start a collector there, name another with "
                    "--endpoint, or write a file with --out"
                )
            n += len(batch)
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]
    return n


def write_spans(spans: Iterable[ReadableSpan], path: Path) -> int:
    """Write spans into a file; how many they were.

    Args:
        spans: The spans.
        path: The file, which is replaced.

    Raises:
        UserError: It can't be written.
    """
    n = 0
    try:
        with path.open("w", encoding="utf-8") as file:
            for span in spans:
                file.write(span.to_json(indent=None) + "\n")
                n += 1
    except OSError as error:
        raise UserError(f"{path}: can't be written: {error.strerror}") from error
    return n
