"""A name server for demonstrations and labs: every name is 127.0.0.1. Usage: resolver.py PORT"""

import socket
import struct
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", int(sys.argv[1])))
while True:
    query, client = server.recvfrom(512)
    if len(query) < 17:
        continue
    end = query.index(b"\0", 12) + 5
    question = query[12:end]
    is_a = struct.unpack("!H", question[-4:-2])[0] == 1
    answer = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 5, 4) + b"\x7f\0\0\1" if is_a else b""
    header = query[:2] + struct.pack("!HHHHH", 0x8580, 1, 1 if is_a else 0, 0, 0)
    server.sendto(header + question + answer, client)
