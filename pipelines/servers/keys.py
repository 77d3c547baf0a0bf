"""The keys of servers, read from the environment."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.errors import ConfigurationError


def key_in(environ: Mapping[str, str], variable: str) -> str | None:
    """Read a key from an environment variable, without white space around it, such as a file's last line end.

    Args:
        environ: The environment variables.
        variable: The name of the variable.

    Returns:
        The key; None where the variable is not set, or blank.

    Raises:
        ConfigurationError: The key can't be sent in a header of HTTP.
    """
    key = environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError(
            f"{variable}: a key is printable ASCII in one line, as headers of HTTP are; correct it"
        )
    return key or None
