"""
A stand-in for statsd_exporter, which Debian 12 does not have: StatsD comes in, a mapping file is applied, Prometheus scrapes.

It does what `docs/monitoring/statsd-mapping.yml` needs, by the documentation and the source of statsd_exporter 0.30: rules with a
glob or a regular expression, `drop`, labels, histograms, `ttl`, and tags in the form of InfluxDB. It refuses other options, as
the original does. Metrics without a rule are left out, where the original would export them.
"""

from __future__ import annotations

import contextlib
import re
import socketserver
import threading
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from dev.local_airflow import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.core import Metric

OPTIONS = frozenset(
    {"match", "match_type", "name", "labels", "ttl", "action", "observer_type", "histogram_options"}
)
"""Options of a rule that the stand-in knows."""

GLOB = re.compile(r"(\*|[A-Za-z_][\w-]*)(\.\*|\.\w[\w-]*)*", re.ASCII)
"""The form of a glob: each part between dots is a name or `*`."""

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sample:
    """A value of StatsD: its kind is `c`, `g` or `ms`."""

    name: str
    labels: dict[str, str]
    value: float
    kind: str


def parse_line(line: str) -> Sample:
    """
    Return the value of a line, with tags as Airflow's `statsd_influxdb_enabled` appends them to the name.

    A count that is sampled at a rate (`|@0.1`, some of Airflow's own) stands for more of them.
    """
    name, _, rest = line.partition(":")
    text, kind, *rates = rest.split("|")
    name, *tags = name.split(",")
    value = float(text) / float(rates[0][1:]) if rates and kind == "c" else float(text)
    return Sample(name, dict(tag.split("=", 1) for tag in tags), value, kind)


@dataclass(frozen=True)
class Rule:
    """
    A rule of the mapping file.

    :param pattern: what is searched in the name in StatsD.
    :param is_glob: whether the file has a glob, and not a regular expression.
    :param name: name in Prometheus; `$1` is the first wildcard.
    :param labels: labels in Prometheus, of the same form.
    :param is_dropped: whether the metric is left out.
    :param buckets: upper bounds of a histogram.
    :param ttl: seconds after the last value at which a series ends; 0 for never.
    """

    pattern: re.Pattern[str]
    is_glob: bool
    name: str
    labels: Mapping[str, str]
    is_dropped: bool
    buckets: tuple[float, ...]
    ttl: float

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Rule:
        """
        Return a rule of the file.

        :raises ValueError: for an option or a glob that statsd_exporter or this stand-in refuses.
        """
        match, is_glob = options["match"], options.get("match_type", "glob") == "glob"
        if unknown := options.keys() - OPTIONS:
            raise ValueError(f"{match}: unknown options {sorted(unknown)}")
        if is_glob and not GLOB.fullmatch(match):
            raise ValueError(f"{match}: not a glob")
        pattern = r"\A" + re.escape(match).replace(r"\*", r"([^.]*)") + r"\Z" if is_glob else match
        buckets = options.get("histogram_options", {}).get("buckets", ())
        return cls(
            re.compile(pattern),
            is_glob,
            options["name"],
            options.get("labels", {}),
            options.get("action") == "drop",
            tuple(map(float, buckets)),
            to_seconds(options.get("ttl", "0s")),
        )

    def apply(self, match: re.Match[str]) -> tuple[str, dict[str, str]]:
        """Return name and labels of a name that the rule matches."""
        return filled_in(self.name, match), {
            key: filled_in(value, match) for key, value in self.labels.items()
        }


def filled_in(template: str, match: re.Match[str]) -> str:
    return re.sub(r"\$(\d)", lambda reference: match[int(reference[1])], template)


def to_seconds(duration: str) -> float:
    """Return a duration such as `2m` or `500ms` in seconds."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
    number, unit = re.fullmatch(r"(\d+)([a-z]+)", duration).groups()  # type: ignore[union-attr] # not a duration
    return int(number) * units[unit]


def parse_mapping(text: str) -> list[Rule]:
    """Return the rules in the order in which they are tried: globs come first."""
    rules = [Rule.parse(options) for options in yaml.safe_load(text)["mappings"]]
    return sorted(rules, key=lambda rule: not rule.is_glob)


def find_rule(rules: list[Rule], name: str) -> tuple[Rule, re.Match[str]] | None:
    """Return the first rule that matches a name in StatsD."""
    return next(((rule, match) for rule in rules if (match := rule.pattern.search(name))), None)


@dataclass
class Series:
    """
    A series in Prometheus.

    :param counts: number of values in each bucket of a histogram; the last one has no bound.
    """

    kind: str
    rule: Rule
    updated_at: float = 0.0
    value: float = 0.0
    counts: list[int] = field(default_factory=list)

    def update(self, sample: Sample, now: float) -> None:
        self.updated_at = now
        if sample.kind == "g":
            self.value = sample.value
        elif sample.kind == "c":
            self.value += sample.value
        else:
            seconds = sample.value / 1000
            self.value += seconds
            self.counts = self.counts or [0] * (len(self.rule.buckets) + 1)
            self.counts[bisect_left(self.rule.buckets, seconds)] += 1

    def is_over(self, now: float) -> bool:
        return bool(self.rule.ttl) and now - self.updated_at > self.rule.ttl


KINDS = {"c": "counter", "g": "gauge", "ms": "histogram"}


class StatsdExporter:
    """
    The received values. It is a collector of `prometheus_client`.

    :param rules: rules of the mapping file.
    :ivar unmapped: received names without a rule.
    """

    def __init__(self, rules: list[Rule]) -> None:
        self.unmapped: set[str] = set()
        self._rules = rules
        self._series: dict[tuple[str, Labels], Series] = {}
        self._lock = threading.Lock()

    def receive(self, packet: str) -> None:
        """Apply the rules to the lines of a packet."""
        with self._lock:
            for line in packet.splitlines():
                self._receive(parse_line(line))

    def _receive(self, sample: Sample) -> None:
        found = find_rule(self._rules, sample.name)
        if found is None:
            self.unmapped.add(sample.name)
            return
        rule, match = found
        if not rule.is_dropped:
            name, labels = rule.apply(match)
            key = name, tuple(sorted({**sample.labels, **labels}.items()))
            series = self._series.setdefault(key, Series(KINDS[sample.kind], rule))
            series.update(sample, time.monotonic())

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, for a scrape."""
        from prometheus_client.core import Metric

        metrics: dict[str, Metric] = {}
        with self._lock:
            now = time.monotonic()
            self._series = {key: one for key, one in self._series.items() if not one.is_over(now)}
            for (name, labels), series in self._series.items():
                metric = metrics.setdefault(
                    name, Metric(name.removesuffix("_total"), "From StatsD.", series.kind)
                )
                add_samples(metric, name, dict(labels), series)
        yield from metrics.values()


def add_samples(metric: Metric, name: str, labels: dict[str, str], series: Series) -> None:
    """Add the samples of a series, in the form that Prometheus scrapes."""
    if series.kind != "histogram":
        metric.add_sample(name, labels, series.value)
        return
    total = 0
    for bound, count in zip((*series.rule.buckets, float("inf")), series.counts, strict=True):
        total += count
        le = "+Inf" if bound == float("inf") else str(bound)
        metric.add_sample(f"{name}_bucket", {**labels, "le": le}, total)
    metric.add_sample(f"{name}_count", labels, total)
    metric.add_sample(f"{name}_sum", labels, series.value)


@dataclass(frozen=True)
class Ports:
    """The UDP port for StatsD, and the TCP port that Prometheus scrapes."""

    statsd: int
    scrape: int


@contextlib.contextmanager
def receiving(receive: Callable[[str, int], object]) -> Iterator[int]:
    """
    Receive StatsD on a free UDP port of this machine, and return the port.

    :param receive: called with the lines of each packet and the port that sent it.
    """

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            packet, _ = self.request
            receive(packet.decode(), self.client_address[1])

    class Receiver(socketserver.UDPServer):
        max_packet_size = 65_536

    with Receiver((LOOPBACK, 0), Handler) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, daemon=True)
        thread.start()
        try:
            yield receiver.server_address[1]
        finally:
            receiver.shutdown()
            thread.join()


@contextlib.contextmanager
def serving(exporter: StatsdExporter) -> Iterator[Ports]:
    """Receive StatsD and serve scrapes, on free ports of this machine."""
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(exporter)
    with receiving(lambda packet, _: exporter.receive(packet)) as port:
        web, web_thread = start_http_server(0, LOOPBACK, registry)
        try:
            yield Ports(port, web.server_port)
        finally:
            web.shutdown()
            web.server_close()
            web_thread.join()
