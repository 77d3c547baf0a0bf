"""A program in the place of `vllm`: a server that speaks the protocol and loads no model.

It takes the arguments of `vllm serve`, of which it uses those below. A request with `echo` is answered with
what it was and with the GPUs of the server, any other one with a word.
"""

from __future__ import annotations

import http.server
import json
import os
import sys
import time


def argument(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


class Stub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send({"object": "list", "data": [{"id": argument("--served-model-name"), "max_model_len": 512}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(0.05)
        server = {"pid": os.getpid(), "gpus": os.environ["CUDA_VISIBLE_DEVICES"]}
        content = json.dumps({**server, "fields": body}) if body.get("echo") else "red"
        choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        choices = [{"index": i, **choice} for i in range(body.get("n", 1))]
        self.send({"id": "x", "choices": choices, "usage": {"prompt_tokens": 3, "completion_tokens": 1}})

    def send(self, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    time.sleep(float(os.environ.get("STUB_START_S", "0.5")))  # what loading weights takes
    address = (argument("--host"), int(argument("--port")))
    http.server.ThreadingHTTPServer(address, Stub).serve_forever()
