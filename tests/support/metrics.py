"""Airflow's facility for metrics, turned on and recorded instead of sent."""

from __future__ import annotations

from dataclasses import dataclass, field

from airflow_provider_manxue._client.airflow_metrics import triggerer_stats, worker_stats


@dataclass(frozen=True)
class Sent:
    """A value that the facility was given."""

    copy: str
    kind: str
    name: str
    value: object
    tags: dict = field(hash=False)
    at: float


class Recorder:
    """
    Stands in for both copies of the facility.

    :ivar error: raised by each call, if set.
    :ivar before_each: called before each value is recorded.
    """

    def __init__(self, clock):
        self.clock = clock
        self.sent = []
        self.calls = 0
        self.error = None
        self.before_each = lambda: None

    def install(self, monkeypatch):
        monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "True")
        for copy, stats in {"triggerer": triggerer_stats(), "worker": worker_stats()}.items():
            for method, kind in {"incr": "counter", "gauge": "gauge", "timing": "timing"}.items():
                monkeypatch.setattr(stats, method, self._record(copy, kind), raising=False)

    def _record(self, copy, kind):
        def record(name, value, *, tags):
            self.calls += 1
            self.before_each()
            if self.error is not None:
                raise self.error
            self.sent.append(Sent(copy, kind, name, value, tags, self.clock.elapsed))

        return record

    def names(self):
        return {one.name for one in self.sent}

    def total(self, name):
        """Return the sum of a counter, as the server has it."""
        return sum(one.value for one in self.sent if (one.name, one.kind) == (name, "counter"))

    def values(self, name):
        """Return the values of a gauge or a timing in their order; timings in seconds."""
        return [
            one.value.total_seconds() if one.kind == "timing" else one.value
            for one in self.sent
            if one.name == name
        ]

    def polls(self):
        """Return the counted polls, by outcome."""
        names = sorted(name for name in self.names() if name.startswith("manxue.polls."))
        return {name.removeprefix("manxue.polls."): self.total(name) for name in names}
