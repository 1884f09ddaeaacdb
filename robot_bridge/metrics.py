"""What a server counts, as Prometheus reads it, on a port of this machine alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from robot_bridge.server import PolicyServer

QUANTILES = (0.5, 0.99)


def text_of(server: "PolicyServer") -> str:
    """Counters and quantiles of the last thousand answers."""
    lines = ["# TYPE understudy_messages_total counter"]
    lines += [f'understudy_messages_total{{what="{what}"}} {count}' for what, count in sorted(server.counts.items())]
    lines += ["# TYPE understudy_robots gauge", f"understudy_robots {server.robots}"]
    lines.append("# TYPE understudy_answer_seconds summary")
    for stage, values in server.latencies_us.items():
        newest = list(values)  # at once: the server goes on
        for quantile in QUANTILES if newest else ():
            seconds = float(np.quantile(newest, quantile)) / 1e6
            lines.append(f'understudy_answer_seconds{{stage="{stage}",quantile="{quantile}"}} {seconds:.6f}')
    return "\n".join(lines) + "\n"


@contextmanager
def serve_metrics(server: "PolicyServer", *, port: int) -> Iterator[int]:
    """Answer ``GET /metrics`` and ``GET /health`` while this lasts; ``port`` 0: nothing is served."""
    if not port:
        yield 0
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = {"/metrics": text_of(server), "/health": "ok\n" if server.address else ""}
            body = known.get(self.path, "").encode()
            self.send_response(200 if body else 503 if self.path == "/health" else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: a scrape every few seconds is no news."""

    http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield http.server_address[1]
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
