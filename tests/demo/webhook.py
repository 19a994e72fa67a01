"""Takes alerts as a user's own receiver would: checks the signature, writes one JSON line per delivery.

Usage: webhook.py PORT SECRET_FILE OUTPUT_FILE
"""

import hashlib
import hmac
import http.server
import json
import sys
import time

secret = open(sys.argv[2], "rb").read().strip()


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        fields = dict(part.split("=", 1) for part in self.headers.get("Fleetmend-Signature", "").split(",") if "=" in part)
        expected = hmac.new(secret, fields.get("t", "").encode() + b"." + body, hashlib.sha256).hexdigest()
        signed = hmac.compare_digest(expected, fields.get("v1", ""))
        fresh = abs(time.time() - float(fields.get("t", "0") or 0)) < 300
        line = {"delivery": self.headers.get("Fleetmend-Delivery"), "signed": signed, "fresh": fresh, "received": time.time()}
        try:
            line["body"] = json.loads(body)
        except ValueError:
            line["body"] = None
        with open(sys.argv[3], "a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
        self.send_response(204 if signed and fresh else 401)
        self.end_headers()

    def log_message(self, *arguments):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
