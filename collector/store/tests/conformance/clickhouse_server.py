"""The ClickHouse engine behind as much of its HTTP interface as the store speaks.

The engine is the one of the `chdb` package. A request is a POST: the statement in the parameter `query` or as the
body, rows of `INSERT … FORMAT ArrowStream` as the body, settings as parameters, user and password as headers. An
error has a status, the header X-ClickHouse-Exception-Code and the engine's text. The port is printed once it listens.

Statements are carried out one after the other: there is one engine per process, without users, quotas or replicas.
Two paths are no part of the interface: `/fault` makes the next statements fail, `/seen` tells what was asked.
"""

import argparse
import json
import os
import re
import ssl
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from chdb import session

NO_SETTINGS = {"query", "database", "query_id", "wait_end_of_query", "cancel_http_readonly_queries_on_client_close"}
STATUS_OF_CODE = {60: 404, 62: 400, 81: 404, 516: 403}
SEEN_MAX = 2000


class Engine:
    """One engine, its faults and what it was asked."""

    def __init__(self, path, folder):
        self.session = session.Session(path)
        self.folder = folder
        self.lock = threading.Lock()
        self.fault = "none"
        self.seen = []

    def carry_out(self, statement, settings, rows):
        words = ", ".join(f"{name} = {self.literal(value)}" for name, value in settings.items())
        path = None
        try:
            if rows is not None:
                handle, path = tempfile.mkstemp(dir=self.folder, suffix=".arrows")
                with os.fdopen(handle, "wb") as file:
                    file.write(rows)
                head, _, form = statement.rpartition(" FORMAT ")
                words = f" SETTINGS {words}" if words else ""
                statement = f"{head} FROM INFILE '{path}'{words} FORMAT {form}"
            elif words and re.match(r"\s*SELECT", statement):
                head, mark, form = statement.rpartition(" FORMAT ")
                statement = f"{head} SETTINGS {words}{mark}{form}" if mark else f"{statement} SETTINGS {words}"
            with self.lock:
                answer = self.session.query(statement, "TabSeparated")
                return bytes(answer.bytes() or b"")
        finally:
            if path is not None:
                os.unlink(path)

    @staticmethod
    def literal(value):
        return value if re.fullmatch(r"-?[0-9]+", value) else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine = None
    user = "default"
    password = ""

    def do_GET(self):
        if urlsplit(self.path).path == "/seen":
            with self.engine.lock:
                seen = list(self.engine.seen)
            self.answer(200, json.dumps(seen).encode())
        else:
            self.answer(200, b"Ok.\n")

    def do_POST(self):
        parts = urlsplit(self.path)
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if parts.path == "/fault":
            self.engine.fault = parameters["mode"]
            return self.answer(200, b"")
        given = (self.header("X-ClickHouse-User", "default"), self.header("X-ClickHouse-Key", ""))
        if given != (self.user, self.password):
            return self.fail(516, f"Code: 516. DB::Exception: {given[0]}: Authentication failed")
        statement = parameters.get("query", "")
        is_insert_of_rows = " FORMAT ArrowStream" in statement
        if not is_insert_of_rows:
            statement += body.decode()
        settings = {name: value for name, value in parameters.items() if name not in NO_SETTINGS}
        with self.engine.lock:
            self.engine.seen.append({"statement": statement, "settings": settings, "id": parameters.get("query_id")})
            del self.engine.seen[:-SEEN_MAX]
        fault = self.engine.fault
        if fault == "refuse":
            return self.fail(999, "Code: 999. DB::Exception: Keeper exception: the test says so")
        if fault == "hang":
            while self.engine.fault == "hang":
                time.sleep(0.02)
        if fault == "refuse_inserts" and is_insert_of_rows:
            return self.fail(243, "Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space")
        try:
            answer = self.engine.carry_out(statement, settings, body if is_insert_of_rows else None)
        except Exception as error:  # The engine raises one kind for everything.
            code = re.match(r"Code: (\d+)", str(error))
            return self.fail(int(code.group(1)) if code else 1002, str(error))
        if fault == "insert_then_fail" and is_insert_of_rows:
            return self.fail(999, "Code: 999. DB::Exception: the rows are in, and the test says they are not")
        self.answer(200, answer)

    def header(self, name, default):
        # Python reads headers as Latin-1; what is meant is UTF-8.
        return self.headers.get(name, default).encode("iso-8859-1").decode("utf-8", "replace")

    def fail(self, code, text):
        self.answer(STATUS_OF_CODE.get(code, 500), text.encode(), {"X-ClickHouse-Exception-Code": str(code)})

    def answer(self, status, body, headers=None):
        try:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--path", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--user", default="default")
    parser.add_argument("--password-file")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    arguments = parser.parse_args()
    os.makedirs(arguments.path, exist_ok=True)
    Handler.engine = Engine(os.path.join(arguments.path, "data"), arguments.path)
    Handler.user = arguments.user
    if arguments.password_file:
        with open(arguments.password_file, encoding="utf-8") as file:
            Handler.password = file.read().strip()
    server = Server(("127.0.0.1", arguments.port), Handler)
    if arguments.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.certificate, arguments.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    # Whoever started it holds the other end; it ends with them, however they end.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    print(f"PORT {server.server_address[1]}", flush=True)
    server.serve_forever(poll_interval=0.05)


main()
