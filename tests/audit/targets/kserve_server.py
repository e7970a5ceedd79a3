# SPDX-License-Identifier: Apache-2.0
"""A small real HTTP server that speaks KServe's protocol, version 2, as Triton does: for tests, on the loopback
address, on a free port."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

TYPES = {"FP32": np.float32, "FP16": np.float16, "INT64": np.int64}


@dataclass
class Served:
    """A model and how its server behaves.

    Args:
        function: from an array to an array.
        shape: of the input in the metadata, -1 for any length.
        datatype: of the input and the output.
        most: Triton's ``max_batch_size``; None for a server without that endpoint.
        binary: whether the server speaks binary tensors.
        faults: what the next requests for inference meet, one each: an HTTP status, ``"close"`` (the connection), or
            ``"slow"`` (an answer after ``delay`` seconds).

    Attributes:
        seen: requests for inference that reached the server.
        samples: samples that it answered.
        headers: those of the latest request.
    """

    function: Callable[[np.ndarray], np.ndarray]
    shape: tuple[int, ...] = (-1, 1, -1, -1, -1)
    datatype: str = "FP32"
    most: int | None = None
    binary: bool = True
    inputs: int = 1
    faults: list[Any] = field(default_factory=list)
    delay: float = 0.0
    seen: int = 0
    samples: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    url: str = ""


@contextmanager
def serving(served: Served, name: str = "spleen") -> Iterator[Served]:
    """The server, for as long as the block runs."""
    handler = type("Handler", (_Handler,), {"served": served, "model": name})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Served
    model: str

    def log_message(self, *args: Any) -> None:
        """Nothing: the test prints what matters."""

    def _send(self, status: int, content: bytes, header_length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if header_length is None else "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        if header_length is not None:
            self.send_header("Inference-Header-Content-Length", str(header_length))
        self.end_headers()
        self.wfile.write(content)

    def _say(self, status: int, content: Any) -> None:
        self._send(status, json.dumps(content).encode())

    def do_GET(self) -> None:  # noqa: N802
        served = self.served
        path = self.path.rstrip("/").replace("/versions/7", "")
        if path == "/v2":
            extensions = ["model_configuration", *(["binary_tensor_data"] if served.binary else [])]
            self._say(200, {"name": "test-server", "version": "1.0", "extensions": extensions})
        elif path == f"/v2/models/{self.model}":
            classes = 2
            tensors = [
                {"name": f"INPUT__{number}", "datatype": served.datatype, "shape": list(served.shape)}
                for number in range(served.inputs)
            ]
            made = {"name": "OUTPUT__0", "datatype": served.datatype, "shape": [-1, classes, -1, -1, -1]}
            self._say(
                200,
                {"name": self.model, "versions": ["7"], "platform": "test", "inputs": tensors, "outputs": [made]},
            )
        elif path == f"/v2/models/{self.model}/config" and served.most is not None:
            self._say(200, {"name": self.model, "max_batch_size": served.most})
        else:
            self._say(404, {"error": f"Request for unknown model: {path.split('/')[-1]!r} is not found"})

    def do_POST(self) -> None:  # noqa: N802
        served = self.served
        content = self.rfile.read(int(self.headers["Content-Length"]))
        served.seen += 1
        served.headers = dict(self.headers)
        fault = served.faults.pop(0) if served.faults else None
        if fault == "close":
            self.close_connection = True
            return
        if fault == "slow":
            time.sleep(served.delay)
        if isinstance(fault, int):
            self._say(fault, {"error": "the server is busy"})
            return
        try:
            image = self._image(content)
        except ValueError as error:
            self._say(400, {"error": str(error)})
            return
        answer = served.function(image)
        served.samples += len(image)
        self._answer(answer)

    def _image(self, content: bytes) -> np.ndarray:
        served = self.served
        length = self.headers.get("Inference-Header-Content-Length")
        request = json.loads(content if length is None else content[: int(length)])
        tensor = request["inputs"][0]
        shape = tuple(tensor["shape"])
        expected = served.shape
        if len(shape) != len(expected) or any(e not in (-1, s) for s, e in zip(shape, expected, strict=True)):
            raise ValueError(f"unexpected shape for input 'INPUT__0': expected {list(expected)}, got {list(shape)}")
        if served.most is not None and shape[0] > served.most:
            raise ValueError(f"batch size must be <= {served.most}, got {shape[0]}")
        kind = TYPES[tensor["datatype"]]
        if "data" in tensor:
            return np.array(tensor["data"], dtype=kind).reshape(shape)
        assert length is not None
        return np.frombuffer(content[int(length) :], dtype=kind).reshape(shape)

    def _answer(self, answer: np.ndarray) -> None:
        served = self.served
        entry: dict[str, Any] = {"name": "OUTPUT__0", "datatype": served.datatype, "shape": list(answer.shape)}
        answer = np.ascontiguousarray(answer, dtype=TYPES[served.datatype])
        if not served.binary:
            self._say(200, {"model_name": self.model, "outputs": [{**entry, "data": answer.ravel().tolist()}]})
            return
        entry["parameters"] = {"binary_data_size": answer.nbytes}
        header = json.dumps({"model_name": self.model, "outputs": [entry]}).encode()
        self._send(200, header + answer.tobytes(), len(header))
