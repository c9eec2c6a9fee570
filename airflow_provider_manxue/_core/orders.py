"""Requests that are sent once: serialization, fingerprints, and the rules of video requests. No I/O happens here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

from airflow_provider_manxue._core.bodies import clean_text
from airflow_provider_manxue._core.media_urls import is_public, literal_address
from airflow_provider_manxue._core.order_kinds import VIDEO_ORDER, OrderKind
from airflow_provider_manxue._core.signed_urls import without_query, without_signature
from airflow_provider_manxue.exceptions import ManxueInputError

RATIOS = ("21:9", "16:9", "4:3", "1:1", "3:4", "9:16")
MIN_DURATION, MAX_DURATION = 4, 15
"""Shortest and longest video, in seconds."""

DEFAULT_DURATION = 5
"""Seconds of a video that was ordered without a duration, by the service's documentation."""

MODELS = frozenset(
    f"sd2_manxue_{kind}{resolution}"
    for kind, resolutions in {
        "": ("720p", "1080p", "2k", "4k"),
        "fast_": ("720p", "1080p"),
        "video_": ("720p", "1080p", "2k", "4k"),
        "video_fast_": ("720p", "1080p"),
    }.items()
    for resolution in resolutions
)
"""The documented models. The list grows, so another name only causes a warning."""

_MAX_REFERENCES = {"referenceImages": 9, "referenceVideos": 3, "referenceAudios": 3}

FINGERPRINT_SCHEME = 2
"""Current scheme of fingerprints. Scheme 1 hashed URLs with their signatures."""


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """
    A valid request that is sent once.

    :cvar kind: its kind.
    :param fields: its fields, under the service's names.
    """

    kind: ClassVar[OrderKind]

    fields: Mapping[str, Any]

    @property
    def body(self) -> bytes:
        """The body of the request."""
        return json.dumps(self.fields).encode()

    def fingerprint(self, scheme: int = FINGERPRINT_SCHEME) -> dict[str, str]:
        """
        Return a short hash of each field, to compare two requests without persisting prompts and signed URLs.

        :param scheme: 1 hashes the values unchanged; 2 leaves out the signatures of URLs, since these differ each time
            that a template is rendered.
        """
        fields = self.fields if scheme == 1 else _map_urls(self.fields, without_signature)
        return {name: _hash(value) for name, value in fields.items()}

    @property
    def loggable_fields(self) -> dict[str, Any]:
        """The fields for a log: texts cut, and URLs without their queries, since these may be signatures."""
        return _map_urls({name: _cut(value) for name, value in self.fields.items()}, without_query)

    @property
    def cautions(self) -> tuple[str, ...]:
        """Warnings about allowed, but unusual values."""
        return ()

    def check_references(self, service_hostname: str) -> None:
        """
        Refuse references on loopback and private addresses. The service cannot fetch them. No name is resolved.

        :param service_hostname: host of the service. If it is such an address itself, all references are allowed.
        :raises ManxueInputError: naming each such reference.
        """
        if is_private_host(service_hostname):
            return
        broken = [
            f"{parameter_of(field)} is on the host {host}, which is not public: the service cannot fetch it"
            for field, urls in _urls_of(self.fields)
            for host in map(_hostname, urls)
            if is_private_host(host)
        ]
        if broken:
            raise ManxueInputError(refusal(self.kind, broken))


@dataclass(frozen=True, slots=True)
class VideoRequest(OrderRequest):
    """A valid request for a video."""

    kind = VIDEO_ORDER

    @property
    def seconds(self) -> int | None:
        """Length of the video; None if the service chooses it."""
        return self.fields.get("duration")

    @property
    def counted_seconds(self) -> int:
        """Length of the video, also if the service chooses it."""
        return DEFAULT_DURATION if self.seconds is None else self.seconds

    @property
    def cautions(self) -> tuple[str, ...]:
        """Warnings about allowed, but unusual values."""
        model = self.fields["model"]
        if model in MODELS:
            return ()
        known = ", ".join(sorted(MODELS))
        return (
            f"The model {clean_text(model)!r} is unknown and ordered nevertheless. Known ones are {known}.",
        )


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def refusal(kind: OrderKind, broken: Iterable[str]) -> str:
    """Return the error text of a request that breaks rules."""
    return f"The {kind.noun} was not sent. {'; '.join(broken)}."


# --- URLs in a request ----------------------------------------------------------------------------------

UPLOAD_FIELDS = ("imageUrls", "videoUrls", "audioUrls")
"""Fields of an upload of assets."""

_URL_FIELDS = ("first_image", "last_image", *_MAX_REFERENCES, *UPLOAD_FIELDS)

_MAX_SHOWN = 200


def _urls_of(fields: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    for name in _URL_FIELDS:
        if (value := fields.get(name)) is not None:
            yield name, [value] if isinstance(value, str) else value


def _map_urls(fields: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Return the fields with each URL changed."""
    changed = {
        name: change(fields[name]) if isinstance(fields[name], str) else [change(url) for url in urls]
        for name, urls in _urls_of(fields)
    }
    return {name: changed.get(name, value) for name, value in fields.items()}


def _cut(value: Any) -> Any:
    is_long = isinstance(value, str) and len(value) > _MAX_SHOWN
    return f"{value[: _MAX_SHOWN - 1]}…" if is_long else value


def _hostname(url: str) -> str:
    return urlsplit(url).hostname or ""


def is_private_host(hostname: str) -> bool:
    """Return whether a host name is ``localhost`` or an address that is not public, without resolving it."""
    address = literal_address(hostname)
    return address is not None and not is_public(address)


# --- the rules ------------------------------------------------------------------------------------------


def parse_video_request(
    *,
    prompt: Any,
    model: Any,
    duration: Any = None,
    ratio: Any = None,
    first_image: Any = None,
    last_image: Any = None,
    reference_images: Any = None,
    reference_videos: Any = None,
    reference_audios: Any = None,
) -> VideoRequest:
    """
    Validate the parameters of an order.

    None and an empty text or list mean that an optional parameter is left out. The duration may be text, since a template
    may yield it. For the parameters see ``ManxueHook.create_video``.

    :raises ManxueInputError: naming each broken rule.
    """
    reader = Reader(_FETCHABLE, "(https:// or asset://)")
    fields = {
        "prompt": reader.text("prompt", prompt),
        "model": reader.text("model", model.strip() if isinstance(model, str) else model),
        "duration": reader.duration(duration),
        "ratio": reader.ratio(ratio),
        "first_image": reader.url("first_image", first_image),
        "last_image": reader.url("last_image", last_image),
        "referenceImages": reader.urls("reference_images", reference_images),
        "referenceVideos": reader.urls("reference_videos", reference_videos),
        "referenceAudios": reader.urls("reference_audios", reference_audios),
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    broken = [*reader.broken, *_broken_together(fields)]
    if broken:
        raise ManxueInputError(refusal(VIDEO_ORDER, broken))
    return VideoRequest(fields)


_FETCHABLE = ("http", "https", "asset")


class Reader:
    """
    Reader of single parameters that collects broken rules.

    An invalid URL is returned nevertheless, so that the rules for several parameters count it.

    :param schemes: the schemes of a URL that the service supports.
    :param named: the same, for the error.
    """

    def __init__(self, schemes: Sequence[str], named: str) -> None:
        self._schemes, self._named = schemes, named
        self.broken: list[str] = []

    def text(self, name: str, value: Any) -> str | None:
        if not isinstance(value, str) or not value.strip():
            self._refuse(name, value, "it is required, as text")
            return None
        if value.strip() == "None":
            self._refuse(name, value, "a template had no value, so check the task whose result it pulls")
        return value

    def duration(self, value: Any) -> int | None:
        if _is_left_out(value):
            return None
        try:
            seconds = float(value)
        except (TypeError, ValueError, OverflowError):
            seconds = float("nan")
        if MIN_DURATION <= seconds <= MAX_DURATION and seconds.is_integer():
            return int(seconds)
        self._refuse(
            "duration", value, f"it must be a whole number of seconds from {MIN_DURATION} to {MAX_DURATION}"
        )
        return None

    def ratio(self, value: Any) -> str | None:
        if _is_left_out(value):
            return None
        if isinstance(value, str) and value.strip() in RATIOS:
            return value.strip()
        self._refuse("ratio", value, f"it must be one of {', '.join(RATIOS)}")
        return None

    def url(self, name: str, value: Any) -> str | None:
        if _is_left_out(value):
            return None
        if isinstance(value, str) and _is_fetchable(value.strip(), self._schemes):
            return value.strip()
        self._refuse(name, value, f"it must be a URL that the service can fetch {self._named}")
        return str(value)

    def urls(self, name: str, value: Any) -> list[str] | None:
        if _is_left_out(value):
            return None
        items = _read_list(value)
        if items is None:
            self._refuse(
                name,
                value,
                "it must be a list of URLs; for a template that yields a list, set "
                "render_template_as_native_obj=True on this one task, or pass an XComArg",
            )
            return [str(value)]
        if not items:
            return None
        if blank := sum(map(_is_left_out, items)):
            self.broken.append(f"{blank} of the {len(items)} URLs in {name} are empty")
        return [self.url(f"{name}[{index}]", item) or "" for index, item in enumerate(items)]

    def _refuse(self, name: str, value: Any, rule: str) -> None:
        # The text after a question mark may be a signature.
        shown = clean_text(repr(value)).partition("?")[0][:80]
        self.broken.append(f"{name} is {shown}: {rule}")


def _is_fetchable(url: str, schemes: Sequence[str]) -> bool:
    """Return whether a URL has a scheme that the service supports, and a host."""
    if not re.fullmatch(rf"({'|'.join(schemes)})://\S+", url, re.IGNORECASE):
        return False
    try:
        return bool(urlsplit(url).hostname) or url.lower().startswith("asset:")
    except ValueError:
        return False


def _is_left_out(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, Sequence) and not len(value))


_SEVERAL_URLS = re.compile(r"[,;]\s*(?:https?|asset)://", re.IGNORECASE)


def _read_list(value: Any) -> list[Any] | None:
    """Parse a list, also from the text of a template. A single URL is a list of one; several in one text are none."""
    if isinstance(value, str):
        if not value.strip().startswith("["):
            return None if _SEVERAL_URLS.search(value) else [value]
        try:
            return list(json.loads(value))
        except (ValueError, RecursionError):
            return None
    # Airflow passes the results of mapped tasks as a lazy sequence, not as a list. A set has no order.
    is_list = isinstance(value, Iterable) and not isinstance(value, (Mapping, bytes, AbstractSet))
    return list(value) if is_list else None


def _broken_together(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the broken rules for several parameters together."""
    references = [name for name in _MAX_REFERENCES if name in fields]
    frames = [name for name in ("first_image", "last_image") if name in fields]
    if "last_image" in fields and "first_image" not in fields:
        yield "last_image is given without first_image: it needs it"
    if frames and references:
        yield f"{' and '.join(map(parameter_of, references))} cannot be combined with {' and '.join(frames)}"
    for name in references:
        if (count := len(fields[name])) > (limit := _MAX_REFERENCES[name]):
            yield f"{parameter_of(name)} has {count} URLs: at most {limit} are allowed"
    model = fields.get("model")
    if "referenceVideos" in fields and model in MODELS and "_video_" not in model:
        yield f"reference_videos is given, but the model {model} takes none: use a model with '_video_' in its name"


def parameter_of(field: str) -> str:
    """Return the parameter for a field: ``reference_images`` for ``referenceImages``."""
    return re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", field)
