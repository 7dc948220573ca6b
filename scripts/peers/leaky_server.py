#!/usr/bin/env python3
"""A server that speaks as much of OpenAI's API as `diagnose compare` asks for, and keeps memory for every request.

Answers every chat with the same words. With --leak 0 it keeps nothing, which is the control.
"""

import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORDS = ["The", " sea", " is", " wide", " and", " the", " harbour", " is", " small", "."]
# Seconds between two words: a model that writes 200 tokens in a second.
PACE = 0.005

kept = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/health":
            self.answer({"status": "ok"})
        elif self.path == "/props":
            self.answer({"model_path": "toy", "total_slots": 8})
        elif self.path == "/v1/models":
            self.answer({"object": "list", "data": [{"id": "toy", "object": "model"}]})
        else:
            self.answer({"error": {"message": f"no such path: {self.path}"}}, 404)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/v1/completions":
            self.answer({"choices": [{"index": 0, "text": WORDS[0], "finish_reason": "length"}]})
            return
        if self.path != "/v1/chat/completions":
            self.answer({"error": {"message": f"no such path: {self.path}"}}, 404)
            return
        if not body.get("stream"):
            self.answer({"error": {"message": "only streamed chats are answered"}}, 404)
            return
        # Every page is written to, or the system would not hand it out.
        kept.append(bytearray(b"\x01" * self.server.leak))
        words = (WORDS * (1 + body["max_tokens"] // len(WORDS)))[: body["max_tokens"]]
        prompt = sum(len(message["content"].split()) for message in body["messages"])
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for word in words:
            time.sleep(PACE)
            self.event({"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]})
        usage = {"prompt_tokens": prompt, "completion_tokens": len(words), "total_tokens": prompt + len(words)}
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        self.event({"choices": [], "usage": {**usage, "prompt_tokens_details": {"cached_tokens": 0}}})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def event(self, value):
        self.chunk(f"data: {json.dumps(value)}\n\n".encode())

    def chunk(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--leak", type=int, default=1_000_000, metavar="BYTES", help="kept for each request")
    # It has no such cache; the leak test asks for a server that can do without.
    parser.add_argument("--prompt-cache", choices=["on", "off"], default="on")
    arguments = parser.parse_args()
    server = ThreadingHTTPServer((arguments.host, arguments.port), Handler)
    server.daemon_threads = True
    server.leak = arguments.leak
    server.serve_forever()


if __name__ == "__main__":
    main()
