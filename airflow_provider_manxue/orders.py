"""
What can be ordered, and what became of an order that was sent. No I/O happens here.

An order costs money, so its rules are checked before anything is sent (:func:`read_order`), and each way in
which sending can fail has one of three fates (:class:`Fate`): only what surely did not reach the service is
sent again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from airflow_provider_manxue._core.ids import names_a_task
from airflow_provider_manxue._core.polling import MAX_RETRY_AFTER
from airflow_provider_manxue._core.responses import clean_text, no_answer, parse_task
from airflow_provider_manxue._core.wait_errors import video_failed
from airflow_provider_manxue.exceptions import (
    ManxueError,
    ManxueInputError,
    ManxueOrderNotSentError,
    ManxueOrderRefusedError,
    ManxueOrderUnknownError,
    ManxueTransientError,
)
from airflow_provider_manxue.models import TaskStatus, VideoTask

RATIOS = ("21:9", "16:9", "4:3", "1:1", "3:4", "9:16")
SHORTEST, LONGEST = 4, 15
"""Seconds that a video may last."""

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
"""The models that are documented. The list grows, so that another name is worth a warning and no more."""

_MOST_REFERENCES = {"referenceImages": 9, "referenceVideos": 3, "referenceAudios": 3}

MAX_TRIES = 5
"""How often one order is sent at most while the service does not take it."""


# --- what is ordered ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Order:
    """
    An order that breaks no documented rule.

    :param fields: the fields of the request, under the service's names.
    """

    fields: Mapping[str, Any]

    @property
    def body(self) -> bytes:
        """The request's body."""
        return json.dumps(self.fields).encode()

    @property
    def fingerprint(self) -> dict[str, str]:
        """
        A short hash of each field.

        It tells which fields of two orders differ, without keeping prompts and signed URLs in a database.
        """
        return {name: _hash(value) for name, value in self.fields.items()}

    @property
    def doubts(self) -> tuple[str, ...]:
        """What is allowed, but perhaps not meant."""
        model = self.fields["model"]
        if model in MODELS:
            return ()
        known = ", ".join(sorted(MODELS))
        return (
            f"The model {clean_text(model)!r} is unknown and ordered all the same. Known ones are {known}.",
        )


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def read_order(
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
) -> Order:
    """
    Check the parameters of an order, as they came from an author or from a template.

    None and an empty text or list mean that an optional parameter is left out; a template may yield the
    duration as text. For the meaning of the parameters see ``ManxueHook.create_video``.

    :raises ManxueInputError: naming each rule that is broken.
    """
    reader = _Reader()
    fields = {
        "prompt": reader.text("prompt", prompt),
        "model": reader.text("model", model),
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
        raise ManxueInputError(f"The order was not sent. {'; '.join(broken)}.")
    return Order(fields)


class _Reader:
    """
    Reads parameters one by one, and collects what is wrong with them.

    A bad URL is given back all the same: the rules for several parameters together count it as given.
    """

    def __init__(self) -> None:
        self.broken: list[str] = []

    def text(self, name: str, value: Any) -> str | None:
        if isinstance(value, str) and value.strip():
            return value
        self._refuse(name, value, "it is required, as text")
        return None

    def duration(self, value: Any) -> int | None:
        if _is_left_out(value):
            return None
        try:
            seconds = float(value)
        except (TypeError, ValueError, OverflowError):
            seconds = float("nan")
        if SHORTEST <= seconds <= LONGEST and seconds.is_integer():
            return int(seconds)
        self._refuse("duration", value, f"it must be a whole number of seconds from {SHORTEST} to {LONGEST}")
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
        if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w+.-]*://\S+", value.strip()):
            return value.strip()
        self._refuse(name, value, "it must be a URL (https:// or asset://)")
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
                "render_template_as_native_obj=True on the Dag, or pass an XComArg",
            )
            return [str(value)]
        if blank := sum(map(_is_left_out, items)):
            self.broken.append(f"{blank} of the {len(items)} URLs in {name} are empty")
        return [self.url(f"{name}[{index}]", item) or "" for index, item in enumerate(items)]

    def _refuse(self, name: str, value: Any, rule: str) -> None:
        # What follows a question mark may be a signature.
        shown = clean_text(repr(value)).partition("?")[0][:80]
        self.broken.append(f"{name} is {shown}: {rule}")


def _is_left_out(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, Sequence) and not len(value))


def _read_list(value: Any) -> list[Any] | None:
    """Read a list, also one that a template has made text of; a single URL is a list of one."""
    if isinstance(value, str):
        if not value.strip().startswith("["):
            return [value]
        try:
            return list(json.loads(value))
        except (ValueError, RecursionError):
            return None
    # What Airflow makes of the results of mapped tasks is a sequence, but not a list.
    return list(value) if isinstance(value, Iterable) and not isinstance(value, (Mapping, bytes)) else None


def _broken_together(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the rules that are broken by several parameters together."""
    references = [name for name in _MOST_REFERENCES if name in fields]
    frames = [name for name in ("first_image", "last_image") if name in fields]
    if "last_image" in fields and "first_image" not in fields:
        yield "last_image is given without first_image: it needs it"
    if frames and references:
        yield f"{' and '.join(map(_parameter, references))} cannot be combined with {' and '.join(frames)}"
    for name in references:
        if (count := len(fields[name])) > (most := _MOST_REFERENCES[name]):
            yield f"{_parameter(name)} has {count} URLs: at most {most} are allowed"
    model = fields.get("model")
    if "referenceVideos" in fields and model in MODELS and "_video_" not in model:
        yield f"reference_videos is given, but the model {model} takes none: use a model with '_video_' in its name"


def _parameter(field: str) -> str:
    """Return our name of a field: ``reference_images`` for ``referenceImages``."""
    return re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", field)


# --- what became of it ----------------------------------------------------------------------------------


class Fate(StrEnum):
    """What is known of an order whose sending has failed."""

    NOT_SENT = "not sent"
    """It surely was not taken, and the reason may pass: it is sent again, within limits."""

    REFUSED = "refused"
    """It surely was not taken, and would be refused again."""

    UNKNOWN = "unknown"
    """It may have been taken and billed: only a person can know."""


def fate_of_answer(http_status: int, body: bytes) -> Fate:
    """
    Decide what an answer that is not a task says about the order; what is not surely a refusal is unknown.

    An answer with the status 200 is judged by the code of the error inside of it.
    """
    if 200 <= http_status < 300:
        number = _business_code(body)
        refused = 0 < number < 500
    else:
        number = http_status
        refused = number in _REFUSING_REDIRECTS or 400 <= number < 500
    if number in {425, 429}:
        return Fate.NOT_SENT
    return Fate.REFUSED if refused and number not in {408, 409} else Fate.UNKNOWN


_REFUSING_REDIRECTS = frozenset({301, 307, 308})
"""Those that say: send this elsewhere. The others may also follow upon an order that was taken."""


def _business_code(body: bytes) -> int:
    """Return the code of an error in a body; 0 if there is none that can be understood, or a task beside it."""
    try:
        answer = json.loads(body)
        code = int(str(answer["code"])) if isinstance(answer, dict) else 0
    except (ValueError, KeyError, RecursionError):
        return 0
    return 0 if code == 200 or names_a_task(answer) else code


def read_order_answer(
    http_status: int, body: bytes, *, retry_after: Sequence[str], now: float, secret: str
) -> VideoTask:
    """
    Read the answer to an order; see ``parse_task`` for the parameters.

    :raises ManxueOrderNotSentError: if the order may be sent again.
    :raises ManxueOrderRefusedError: if it was refused.
    :raises ManxueOrderUnknownError: if it may have been taken.
    :raises ManxueVideoFailedError: if the video has failed already.
    """
    try:
        task = parse_task(http_status, body, retry_after=retry_after, now=now, secret=secret)
    except ManxueError as error:
        raise order_error(fate_of_answer(http_status, body), error) from None
    if task.status is TaskStatus.FAILED:
        raise video_failed(task.id, task.error or f"status {task.status_word!r}")
    if not task.id:
        raise order_error(Fate.UNKNOWN, ManxueTransientError(f"HTTP {http_status} with a task without an id"))
    return task


def order_without_answer(error: BaseException, hostname: str, *, body_left: bool) -> ManxueError:
    """
    Return the error of an order that got no answer.

    :param error: what the HTTP library raised.
    :param hostname: the host that was asked.
    :param body_left: whether any of the request's body was handed to a connection. Without its body, the
        service cannot act on an order; and no kind of exception tells as surely how far the request came.
    """
    reason = error if isinstance(error, ManxueError) else no_answer(error, hostname)
    return order_error(Fate.UNKNOWN if body_left else Fate.NOT_SENT, reason)


def order_error(fate: Fate, reason: ManxueError) -> ManxueError:
    """Return the error that says what is known of an order, and what follows."""
    if fate is Fate.NOT_SENT:
        return ManxueOrderNotSentError(
            f"The order was not taken: {reason}", getattr(reason, "retry_after", None)
        )
    if fate is Fate.REFUSED:
        return ManxueOrderRefusedError(f"The order was refused, and nothing was ordered: {reason}")
    return ManxueOrderUnknownError(
        f"It is not known whether the order was taken: {reason}. It may be billed, so it is not sent again by "
        f"itself. Check with the service whether there is a video of this prompt from this time. If there is, "
        f"wait for its id with a ManxueVideoSensor; if not, order again."
    )


def pause_before_next_try(tries: int, retry_after: float | None, chance: float) -> float | None:
    """
    Return for how many seconds to wait before an order that was not taken is sent again.

    :param tries: how often it was sent.
    :param retry_after: the pause that the service asked for; a longer one than 15 minutes is cut.
    :param chance: a number from 0 to 1, by which orders that were turned away together drift apart.
    :return: the pause, or None if it was sent often enough.
    """
    if tries >= MAX_TRIES:
        return None
    return max(2.0**tries, min(retry_after or 0.0, MAX_RETRY_AFTER)) * (1 + chance / 4)
