"""A web server on loopback that holds files, and can misbehave."""

import contextlib
import http.server
import threading


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.requests.append(self.path)
        status, headers, body = self.server.answers.get(path, (404, {}, b""))
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class _Server(http.server.ThreadingHTTPServer):
    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, path, body, status=200, **headers):
        """Holds a file; `headers` replace those that describe it."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[path] = status, names, body


@contextlib.contextmanager
def serving():
    """Yields a server without files; `requests` are the paths it was asked for."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.answers, server.requests = {}, []
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.shutdown()
        thread.join()
