"""What answers connectivity checks: at home what it should, in the hotel a page to log in at."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Web(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        at_hotel = self.connection.getsockname()[0] == "192.168.78.1"
        body = b"<html>Room number, please" if at_hotel else b"NetworkManager is online\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        pass


ThreadingHTTPServer(("0.0.0.0", 80), Web).serve_forever()
