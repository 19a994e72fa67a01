# What an administrator looks at: processes, sockets, disks, users, logs, searches; a small web server and a client.
ps aux >/dev/null
ss -tanp >/dev/null 2>&1 || true
df -h >/dev/null
du -sh /usr/share/doc >/dev/null
last >/dev/null 2>&1 || true
getent passwd >/dev/null
find /etc -name '*.conf' >/dev/null
grep -r localhost /etc/hosts /etc/nsswitch.conf >/dev/null || true
ldconfig
python3 -m venv --without-pip venv
echo hello >index.html
python3 -c '
import http.server, threading, urllib.request
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
for _ in range(50):
    urllib.request.urlopen("http://127.0.0.1:%d/index.html" % server.server_port).read()
' 2>/dev/null
