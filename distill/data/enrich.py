"""Enrich captions: more wordings of each, by templates or by a language model."""

import json
import os
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Protocol

from hummingbird_edge.runtime.errors import DeviceError, RequestError

__all__ = ["ChatEnricher", "Enricher", "TemplateEnricher"]

INSTRUCTION = (
    "Rewrite the caption of a short video so that it says subject, motion, background and style "
    "in one plain sentence. Keep every fact, invent none. Answer with the sentence alone."
)
KEY = "HUMMINGBIRD_ENRICH_KEY"


class Enricher(Protocol):
    """A source of captions."""

    def __call__(self, caption: str) -> tuple[str, ...]:
        """Return further captions for the video of `caption`; there may be none."""
        ...


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
            with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:
                text = json.load(answer)["choices"][0]["message"]["content"].split()
        except (
            HTTPException,
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
        ) as error:
            raise DeviceError(
                f"{address} gave no caption ({error}): check the address, the model and {KEY}"
            ) from error
        return (" ".join(text),) if text else ()
