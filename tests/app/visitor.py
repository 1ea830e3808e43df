"""A visitor of the page without a browser: events through its queue, as the page's own script sends them."""

import json
import secrets

import httpx2 as httpx


class Visitor:
    """One session of a page of Gradio Blocks at an address."""

    def __init__(self, page, address: str):
        self.page, self.address, self.session = page, address.rstrip("/"), secrets.token_hex(8)
        self.call("refresh")  # as the page does when it is opened

    def call(self, name: str, *data) -> dict:
        """The last message of an event, of the handler of that name: its output is under "output"."""
        return list(self.messages(name, *data))[-1]

    def messages(self, name: str, *data):
        """Everything that is told of an event."""
        index = next(k for k, own in self.page.fns.items() if own.name == name)
        body = {"data": list(data), "fn_index": index, "session_hash": self.session, "event_data": None}
        joined = httpx.post(f"{self.address}/gradio_api/queue/join", json=body, timeout=60)
        if joined.status_code != 200:
            yield {"msg": "refused", "status": joined.status_code, "output": joined.text}
            return
        place = f"{self.address}/gradio_api/queue/data?session_hash={self.session}"
        with httpx.stream("GET", place, timeout=60) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if message:
                    yield message
                if message.get("msg") in ("process_completed", "close_stream"):
                    return
