"""Enrich captions: more wordings of each, by templates or by a language model."""

import json
import os
import time
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from typing import IO, Protocol
from urllib.error import HTTPError

from hummingbird_edge.distill.curation.candidate import Candidate
from hummingbird_edge.runtime.errors import DeviceError, RequestError

__all__ = ["ChatEnricher", "Enrich", "Enricher", "TemplateEnricher"]

INSTRUCTION = (
    "Rewrite the caption of a short video so that it says subject, motion, background and style "
    "in one plain sentence. Keep every fact, invent none. Answer with the sentence alone."
)
KEY = "HUMMINGBIRD_ENRICH_KEY"
CALLS = 8
"""Made at once."""
ATTEMPTS = 3
_BUSY = (429, 500, 502, 503, 504)
"""What an endpoint says when a later call may succeed."""
_MAX_ANSWER = 1 << 20
"""Bytes."""
_WAIT_S = 1.0
"""Before the second attempt, twice as long before the next."""


class Enricher(Protocol):
    """A source of captions."""

    def __call__(self, caption: str) -> tuple[str, ...]:
        """Return further captions for the video of `caption`; there may be none."""
        ...


@dataclass(frozen=True, slots=True)
class Enrich:
    """The stage: each caption of a batch once, several at the same time."""

    enricher: Enricher

    def __call__(self, clips: Iterable[Candidate]) -> Iterator[Candidate]:
        """Yield the clips with further captions; raises DeviceError."""
        batch = list(clips)
        captions = list(dict.fromkeys(caption for clip in batch for caption in clip.captions))
        with ThreadPoolExecutor(CALLS) as pool:
            found = dict(zip(captions, pool.map(self.enricher, captions), strict=True))
        for clip in batch:
            texts = dict.fromkeys(text for each in clip.captions for text in (each, *found[each]))
            yield clip.but(enriched=tuple(texts), enriched_by=str(self.enricher))


@dataclass(frozen=True, slots=True)
class TemplateEnricher:
    """Put captions into fixed templates: no model, nothing invented."""

    templates: tuple[str, ...] = ("a video of {}", "{}, short clip", "a short video that shows {}")

    def __call__(self, caption: str) -> tuple[str, ...]:
        """Return the caption in each template."""
        text = caption.rstrip(". ")
        return tuple(template.format(text[:1].lower() + text[1:]) for template in self.templates)


@dataclass(frozen=True, slots=True)
class ChatEnricher:
    """Rewrite captions by an OpenAI-compatible endpoint, `POST URL/chat/completions`.

    An API key is read from the environment variable HUMMINGBIRD_ENRICH_KEY.
    """

    url: str
    model: str = "default"
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise RequestError(f"{self.url!r} is no endpoint: give http://HOST/v1 or https://..")

    def __call__(self, caption: str) -> tuple[str, ...]:
        """Return the model's rewriting; raises DeviceError where the endpoint does not answer."""
        messages = [
            {"role": "system", "content": INSTRUCTION},
            {"role": "user", "content": caption},
        ]
        body = json.dumps({"model": self.model, "messages": messages, "temperature": 0.7}).encode()
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, body, headers)
        try:
            with _answer(request, self.timeout_s) as answer:
                content = answer.read(_MAX_ANSWER + 1)
            if len(content) > _MAX_ANSWER:
                raise ValueError(f"an answer of more than {_MAX_ANSWER} bytes")
            text = json.loads(content)["choices"][0]["message"]["content"]
            words = text.encode("utf-8", "replace").decode().split()
        except (
            HTTPException,
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise DeviceError(
                f"{address} gave no caption ({error}): check the address, the model and {KEY}"
            ) from error
        return (" ".join(words),) if words else ()


def _answer(request: urllib.request.Request, timeout_s: float) -> IO[bytes]:
    """Ask, again where the endpoint is busy; raises OSError."""
    for attempt in range(ATTEMPTS):
        try:
            answer: IO[bytes] = urllib.request.urlopen(request, timeout=timeout_s)
            return answer
        except HTTPError as error:
            if error.code not in _BUSY or attempt == ATTEMPTS - 1:
                raise
            error.close()
        time.sleep(_WAIT_S * 2**attempt)
    raise AssertionError("the last attempt returns or raises")
