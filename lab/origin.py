"""The lab's host on the Internet: answers every path with a body that depends on the path alone.

Run as `python3 origin.py CERTIFICATE KEY` (any Python, standard library only); writes one line per request to
standard output: the peer's address and port, the local port and the path.
"""

import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADDRESS = "203.0.113.10"
PLAIN_PORTS = (80, 8080)
TLS_PORT = 443


def body_for(path: str) -> bytes:
    """The page at `path`; `/bytes/N` is N bytes long."""
    head, _, size = path.rpartition("/")
    if head == "/bytes" and size.isdecimal():
        return (b"0123456789abcde\n" * (int(size) // 16 + 1))[: int(size)]
    return f"the page at {path}\n".encode()


class Handler(BaseHTTPRequestHandler):
    """Serves `body_for` to GET."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer one request."""
        body = body_for(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Write the line that tests read."""
        host, port = self.client_address[:2]
        print(host, port, self.connection.getsockname()[1], self.path, flush=True)


class Server(ThreadingHTTPServer):
    """Binds without asking the resolver for the host's name, which the lab has not."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Bind and name the server by its address."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = ADDRESS, int(self.server_address[1])


def main() -> None:
    """Serve until killed."""
    certificate, key = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    servers = [Server((ADDRESS, port), Handler) for port in (*PLAIN_PORTS, TLS_PORT)]
    # The handshake belongs into the connection's own thread: one that stalls must not hold up the others.
    servers[-1].socket = context.wrap_socket(
        servers[-1].socket, server_side=True, do_handshake_on_connect=False
    )
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    servers[0].serve_forever()


if __name__ == "__main__":
    main()
