"""Who may read the pages, and what is sent with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.agenttts.commands import agenttts
from tests.agenttts.ui.conftest import Served


def test_the_token_of_the_printed_address_opens_the_pages(served: Served) -> None:
    """It is exchanged for a cookie that no script reads, and stands in no further address."""
    status, headers, _ = served.get(f"/?token={served.token}", cookie=False)
    assert status == 303 and headers["location"] == f"{served.base}/"
    assert f"agenttts_{served.port}={served.token}; HttpOnly" in headers["set-cookie"]
    assert served.get("/")[0] == 200


def test_nothing_is_shown_without_the_token(served: Served) -> None:
    """Neither pages nor files; a wrong token is no token."""
    for path in ("/", "/static/look.css", "/?token=wrong", "/none"):
        status, _, body = served.get(path, cookie=False)
        assert status == 403 and "brings the token" in body, path
    wrong = {"Cookie": f"agenttts_{served.port}=wrong"}
    assert served.get("/", wrong, cookie=False)[0] == 403


def test_other_hosts_and_origins_are_refused(served: Served) -> None:
    """A name that was made to point here, and pages of other sites, get nothing even with the cookie."""
    assert served.get("/", {"Host": f"evil.example:{served.port}"})[0] == 421
    assert served.get("/", {"Host": "127.0.0.1"})[0] == 421
    assert served.get("/", {"Host": f"localhost:{served.port}"})[0] == 200
    assert served.get("/", {"Origin": "http://evil.example"})[0] == 403
    assert served.get("/", {"Origin": "null"})[0] == 403
    assert served.get("/", {"Origin": served.base})[0] == 200
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert served.get("/static/plots.js", foreign)[0] == 403
    assert served.get("/", {**foreign, "Sec-Fetch-Mode": "navigate"})[0] == 200


def test_every_answer_forbids_what_the_pages_do_not_need(served: Served) -> None:
    """Scripts and styles come from this server alone; nothing may frame it or be cached."""
    for path, cookie in (("/", True), ("/static/htmx.min.js", True), ("/none", True), ("/", False)):
        _, headers, body = served.get(path, cookie=cookie)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy and headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert served.token not in body


def test_it_listens_on_this_machine_only_and_ends_at_ctrl_c(served: Served) -> None:
    """The address is bound, no other; a port that is taken is one line of error."""
    listening = Path("/proc/net/tcp").read_text()
    ports = [line.split()[1] for line in listening.splitlines()[1:] if line.split()[3] == "0A"]
    assert [address for address in ports if address.endswith(f":{served.port:04X}")] == [
        f"0100007F:{served.port:04X}"
    ]
    command = [sys.executable, "-m", "agenttts", "ui", str(served.db), "--port", str(served.port)]
    taken = subprocess.run(command, capture_output=True, text=True)
    assert taken.returncode == 2 and "name another with --port" in taken.stderr


def test_a_database_that_is_not_there_is_one_line_of_error(tmp_path: Path) -> None:
    """Nothing is served."""
    refused = agenttts("ui", tmp_path / "none.duckdb", "--no-browser")
    assert refused.code == 2 and "no such database" in refused.errors[0]
