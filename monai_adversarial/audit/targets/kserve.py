# SPDX-License-Identifier: Apache-2.0
"""A served model over KServe's protocol, version 2, as Triton and others speak it over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

import numpy as np

from monai_adversarial.audit.facts import TargetError

__all__ = ["NotAnswered", "ServedModel", "split_url"]

FLOATS = {"FP32": np.float32, "FP16": np.float16, "FP64": np.float64}
#: a server that is busy or starts anew says so
RETRIED = ("408", "429", "500", "502", "503", "504")
LONGEST_WAIT = 8.0


class NotAnswered(RuntimeError):
    """A server that did not answer, after all retries; one sentence."""


def split_url(url: str) -> tuple[str, bool, str | None, str | None]:
    """Host with port and base path, whether the connection is encrypted, and the model and version that it names.

    Args:
        url: ``[http://|https://]HOST:PORT[/BASE][/v2/models/NAME[/versions/VERSION]]``.

    Raises:
        TargetError: for another protocol, no host, or a user and password, which would end in logs.
    """
    parts: SplitResult = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https"):
        raise TargetError(f"a served model is reached by http or https, got {parts.scheme!r}.")
    if parts.username is not None or parts.password is not None:
        raise TargetError("the URL of a served model holds a user or password: pass them in headers.")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if not parts.hostname or port == -1:
        raise TargetError("the URL of a served model must be HOST:PORT, with http:// or https:// before it.")
    base, _, model = parts.path.rstrip("/").partition("/v2/models/")
    name, _, version = model.partition("/versions/")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = port or (443 if parts.scheme == "https" else 80)
    return (
        f"{host}:{port}{base.removesuffix('/v2')}",
        parts.scheme == "https",
        unquote(name) or None,
        unquote(version) or None,
    )


class ServedModel:
    """A served model as a callable from a float32 array to an array, or to a dictionary of them.

    A request that gets no answer, or that a busy server refuses, is sent again after a wait that doubles: inference
    changes nothing on the server. Each thread has a connection of its own.

    Args:
        address: host with port and base path.
        name: of the model.
        version: of the model; empty for the server's choice.
        encrypted: https, with certificates checked.
        headers: of each request, such as an access token; they are shown nowhere.
        timeout: seconds until an answer is given up.
        retries: the most times that a request is sent again.
        first_wait: seconds before the first retry.

    Attributes:
        requests: requests for inference that were sent, with those that were not answered.
        input, outputs: names.
        shape: of the input, -1 for any length.
        most: samples that a request may have at most; None where the server does not say.

    Raises:
        TargetError: for a server that is away, a model that is not there, or one that takes no image.
    """

    def __init__(
        self,
        address: str,
        name: str,
        version: str = "",
        *,
        encrypted: bool = False,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        first_wait: float = 0.5,
    ) -> None:
        self.address, self.name, self.version = address, name, version
        self.encrypted, self.headers = encrypted, dict(headers or {})
        self.timeout, self.retries, self.first_wait = timeout, retries, first_wait
        self.requests = 0
        # The client puts names into paths as they are.
        self._name_in_path, self._version_in_path = quote(name, safe=""), quote(version, safe="")
        self._lock = threading.Lock()
        self._threads = threading.local()
        self._clients: list[Any] = []
        try:
            server = self._patiently(lambda client: client.get_server_metadata(headers=self.headers))
        except NotAnswered as error:
            raise TargetError(str(error)) from error
        self.server = f"{server.get('name', 'server')} {server.get('version', '')}".strip()
        self.binary = "binary_tensor_data" in (server.get("extensions") or ())
        try:
            self.metadata: dict[str, Any] = self._patiently(
                lambda client: client.get_model_metadata(
                    self._name_in_path, self._version_in_path, headers=self.headers
                )
            )
        except (NotAnswered, TargetError) as error:
            raise TargetError(f"the server has no model {name!r} that is ready: {error}") from error
        self._read_metadata()
        self.most = self._most_samples()

    def _read_metadata(self) -> None:
        inputs, outputs = self.metadata.get("inputs") or [], self.metadata.get("outputs") or []
        try:
            named = [(str(one["name"]), str(one["datatype"]), [int(size) for size in one["shape"]]) for one in inputs]
            self.outputs = [str(one["name"]) for one in outputs]
            self.said = [
                f"{one['name']!r} {one['datatype']} {' x '.join(map(str, one['shape']))}" for one in (*inputs, *outputs)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise TargetError(f"the server's metadata of {self.name!r} is not that of KServe version 2.") from error
        if len(named) != 1:
            raise TargetError(
                f"{self.name!r} takes {len(named)} inputs ({', '.join(entry[0] for entry in named)}), expected one "
                "image."
            )
        if not self.outputs:
            raise TargetError(f"{self.name!r} has no outputs.")
        self.input, self.datatype, self.shape = named[0]
        if self.datatype not in FLOATS:
            raise TargetError(f"{self.name!r} takes {self.datatype}, expected FP32 or FP16.")
        if self.datatype != "FP32" and not self.binary:
            raise TargetError(f"{self.name!r} takes {self.datatype}, but the server sends no binary tensors.")
        if not 3 <= len(self.shape) <= 5:
            raise TargetError(
                f"{self.name!r} takes an input with {len(self.shape)} axes, expected (batch, channel, 1 to 3 spatial)."
            )

    def _most_samples(self) -> int | None:
        """Triton's limit, which other servers do not have."""
        from tritonclient.utils import InferenceServerException

        try:
            config = self._client().get_model_config(self._name_in_path, self._version_in_path, headers=self.headers)
            most = int(config.get("max_batch_size", 0))
        except (InferenceServerException, OSError, TypeError, ValueError, AttributeError):
            return None
        return most if most > 0 else None

    def __call__(self, image: np.ndarray) -> Any:
        from tritonclient.http import InferInput, InferRequestedOutput

        given = InferInput(self.input, list(image.shape), self.datatype)
        given.set_data_from_numpy(image.astype(FLOATS[self.datatype], copy=False), binary_data=self.binary)
        wanted = [InferRequestedOutput(name, binary_data=self.binary) for name in self.outputs]

        def ask(client: Any) -> Any:
            with self._lock:
                self.requests += 1
            return client.infer(self._name_in_path, [given], self._version_in_path, wanted, headers=dict(self.headers))

        result = self._patiently(ask)
        answers = {name: result.as_numpy(name) for name in self.outputs}
        absent = [name for name, answer in answers.items() if answer is None]
        if absent:
            raise ValueError(
                f"{self.name!r} answered without {', '.join(map(repr, absent))}, which its metadata names."
            )
        return answers[self.outputs[0]] if len(answers) == 1 else answers

    def close(self) -> None:
        """Close the connections of all threads."""
        clients, self._clients = self._clients, []
        self._threads = threading.local()
        for client in clients:
            client.close()

    def _client(self) -> Any:
        client = getattr(self._threads, "client", None)
        if client is None:
            from tritonclient.http import InferenceServerClient

            factory: Any = None
            if self.encrypted:
                import gevent.ssl

                factory = gevent.ssl.create_default_context
            client = self._threads.client = InferenceServerClient(
                self.address,
                connection_timeout=self.timeout,
                network_timeout=self.timeout,
                ssl=self.encrypted,
                ssl_context_factory=factory,
            )
            with self._lock:
                self._clients.append(client)
        return client

    def _forget_client(self) -> None:
        """After a broken answer a connection may hold the rest of it."""
        client = getattr(self._threads, "client", None)
        if client is None:
            return
        del self._threads.client
        with self._lock:
            if client in self._clients:
                self._clients.remove(client)
        client.close()

    def _patiently(self, ask: Callable[[Any], Any]) -> Any:
        """Ask until there is an answer.

        Raises:
            NotAnswered: after the last retry.
            TargetError: for a refusal that another try will not change.
        """
        from geventhttpclient.response import HTTPParseError
        from tritonclient.utils import InferenceServerException

        why = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(self.first_wait * 2 ** (attempt - 1), LONGEST_WAIT))
            try:
                return ask(self._client())
            except InferenceServerException as error:
                why = f"{error.status() or 'error'}: {_short(error.message())}"
                if error.status() not in RETRIED:
                    raise TargetError(f"the server refuses {self.name!r}: {why}.") from error
            except (OSError, HTTPParseError) as error:
                why = f"{type(error).__name__}: {_short(error)}"
                self._forget_client()
        tries = "one try" if self.retries == 0 else f"{self.retries + 1} tries"
        raise NotAnswered(f"no answer from the server at {self.address.split('/')[0]} in {tries} ({why}).")


def _short(text: Any) -> str:
    return " ".join(str(text).split())[:300].rstrip(".")
