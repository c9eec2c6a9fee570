"""
Draw ``docs/img/monitoring.png``: queries of the dashboard over three quarters of an hour, with an episode of throttling and an outage.

The run is in real time, and the alerts are those of Prometheus with the durations of ``docs/monitoring/prometheus-alerts.yml``. The
script fails if an alert has fired that does not belong to the trouble at that time.
"""

from __future__ import annotations

import contextlib
import http.client
import tempfile
import threading
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dev.monitoring import ROOT, Load, MonitoredLine, monitored_line, queries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_manxue.testing import Emulator

PICTURE = ROOT / "docs" / "img" / "monitoring.png"
LOAD = Load(videos=240, interval=30, limit=10, queued=30, processing=210)
SERVICE_LIMIT = 14.0
"""Requests per second that the service accepts from all its clients."""

OTHER_CLIENT = 11.0
"""Requests per second of the other client, during the episode of throttling."""

WARM_UP, HEALTHY, THROTTLED, RECOVERY, OUTAGE, END = 10, 5, 9, 8, 8, 7
"""Minutes of each part of the run. The warm-up is not drawn."""

STEP = 10.0
"""Seconds between two points of a graph."""

RESOLVED_WITHIN = 300.0
"""Seconds after its trouble within which an alert must be over: the rate takes minutes to return."""

GRAPHS = {
    "Waits and videos": "waits, videos",
    "Polls by outcome": "polls per second",
    "Rate beside limit": "requests per second",
    "Throttling episodes in 5 minutes": "episodes",
    "Oldest poll": "seconds",
    "Detection delay and queue time": "seconds",
    "Orders by outcome in 5 minutes": "orders",
    "Videos saved in 5 minutes": "videos",
}
"""The panels in the picture, and the labels of their axes."""

STACKED = frozenset({"Polls by outcome", "Orders by outcome in 5 minutes"})
DASHED = frozenset({"limit", "videos"})
COLOURS = {
    "queued": "#a6cee3",
    "processing": "#1f78b4",
    "completed": "#33a02c",
    "accepted": "#33a02c",
    "throttled": "#ff7f00",
    "not_accepted": "#ff7f00",
    "no_response": "#e31a1c",
    "limit": "#e31a1c",
}


@dataclass(frozen=True)
class Trouble:
    """A part of the run with trouble, and the alert that belongs to it. Times are seconds since the epoch."""

    title: str
    alert: str
    colour: str
    begin: float
    end: float


@dataclass(frozen=True)
class Curve:
    """A series of a query: its legend, and its values over time."""

    legend: str
    times: list[float]
    values: list[float]


def main() -> None:
    """Run the line through its troubles, check the alerts, and draw."""
    folder = tempfile.TemporaryDirectory(prefix="manxue-")
    with folder, monitored_line(LOAD, Path(folder.name), SERVICE_LIMIT) as line:
        pause(WARM_UP)
        begin, _ = pause(HEALTHY)
        with other_client(line.emulator):
            throttled = Trouble(
                "another client uses the limit", "AirflowManxueThrottled", "#fdbf6f", *pause(THROTTLED)
            )
        pause(RECOVERY)
        with line.emulator.outage("refuse"):
            away = Trouble("the service is away", "AirflowManxueServiceAway", "#fb9a99", *pause(OUTAGE))
        _, end = pause(END)
        troubles = [throttled, away]
        check_alerts(firing(line, begin, end), troubles)
        draw(line, troubles, begin, end)
    print(f"{PICTURE.name}: {PICTURE.stat().st_size // 1024} KiB")


def pause(minutes: float) -> tuple[float, float]:
    """Let the line run. Returns begin and end."""
    begin = time.time()
    time.sleep(minutes * 60)
    return begin, time.time()


@contextlib.contextmanager
def other_client(emulator: Emulator) -> Iterator[None]:
    """Use a part of the service's limit, from another process's point of view."""
    stopped = threading.Event()
    thread = threading.Thread(target=send_queries, args=(emulator, emulator.add_task("processing"), stopped))
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def send_queries(emulator: Emulator, task_id: str, stopped: threading.Event) -> None:
    """Send queries at an even rate, whatever the responses are."""
    url = urllib.parse.urlsplit(f"{emulator.base_url}/v1/result/{task_id}")
    connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=10)
    with contextlib.closing(connection):
        while not stopped.wait(1 / OTHER_CLIENT):
            connection.request("GET", url.path, headers={"Authorization": f"Bearer {emulator.api_key}"})
            connection.getresponse().read()


def curves(line: MonitoredLine, panel: str, begin: float, end: float) -> list[Curve]:
    """Return the series of a panel of the dashboard."""
    return [
        Curve(
            legend_of(query.legend, series["metric"]),
            [at for at, _ in series["values"]],
            [float(value) for _, value in series["values"]],
        )
        for query in queries()
        if query.panel == panel
        for series in line.prometheus.query_range(query.resolved(), begin, end, STEP)
    ]


def legend_of(template: str, labels: dict[str, str]) -> str:
    """Return the legend of a series, as Grafana would write it."""
    for name, value in labels.items():
        template = template.replace(f"{{{{{name}}}}}", value)
    return template.replace("manxue_default", "").strip() or "manxue_default"


def firing(line: MonitoredLine, begin: float, end: float) -> dict[str, list[float]]:
    """Return the times at which each alert was firing."""
    alerts = curves(line, "Alerts", begin, end)
    return {
        curve.legend.removesuffix(" firing"): curve.times
        for curve in alerts
        if curve.legend.endswith("firing")
    }


def check_alerts(fired: dict[str, list[float]], troubles: list[Trouble]) -> None:
    """Exit if an alert has fired without its trouble, or not in it."""
    for trouble in troubles:
        times = fired.pop(trouble.alert, [])
        if not times or times[0] < trouble.begin or times[-1] > trouble.end + RESOLVED_WITHIN:
            raise SystemExit(f"{trouble}: the alert was firing at {times}")
        first, last = ((at - trouble.begin) / 60 for at in (times[0], times[-1]))
        print(f"{trouble.alert}: firing from minute {first:.1f} to {last:.1f} of '{trouble.title}'")
    if fired:
        raise SystemExit(f"These alerts have fired without their trouble: {sorted(fired)}")


# --- the picture --------------------------------------------------------------------------------------------


def draw(line: MonitoredLine, troubles: list[Trouble], begin: float, end: float) -> None:
    """Draw the graphs below each other, and the alerts at the top."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        len(GRAPHS) + 1,
        1,
        figsize=(11, 17),
        sharex=True,
        layout="constrained",
        height_ratios=[0.7, *[1] * len(GRAPHS)],
    )
    draw_alerts(axes[0], line, begin, end)
    for axis, (panel, unit) in zip(axes[1:], GRAPHS.items(), strict=True):
        draw_graph(axis, panel, curves(line, panel, begin, end), begin)
        axis.set_ylabel(unit)
    for axis in axes:
        for trouble in troubles:
            axis.axvspan(
                (trouble.begin - begin) / 60,
                (trouble.end - begin) / 60,
                color=trouble.colour,
                alpha=0.35,
                lw=0,
                zorder=0,
            )
    for trouble in troubles:
        middle = (trouble.begin + trouble.end - 2 * begin) / 120
        axes[0].annotate(
            trouble.title, (middle, 1.45), xycoords=("data", "axes fraction"), ha="center", weight="bold"
        )
    axes[-1].set(xlabel="minutes", xlim=(0, (end - begin) / 60))
    figure.savefig(PICTURE, dpi=100)


def draw_alerts(axis: Any, line: MonitoredLine, begin: float, end: float) -> None:
    """Draw a bar for each time at which an alert was pending or firing."""
    axis.set_title("Alerts (yellow: pending, red: firing)", loc="left", fontsize=10)
    alerts = curves(line, "Alerts", begin, end)
    names = sorted({curve.legend.split()[0] for curve in alerts}, reverse=True)
    for curve in alerts:
        name, state = curve.legend.split()
        spans = [((at - begin) / 60, STEP / 60) for at in curve.times]
        axis.broken_barh(
            spans, (names.index(name) - 0.35, 0.7), color="#e31a1c" if state == "firing" else "#ffd92f"
        )
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(-0.6, len(names) - 0.4)


def draw_graph(axis: Any, panel: str, series: list[Curve], begin: float) -> None:
    """Draw the series of a panel, with the colours that the dashboard gives to outcomes."""
    axis.set_title(panel, loc="left", fontsize=10)
    if panel in STACKED:
        times = sorted({at for curve in series for at in curve.times})
        tables = [dict(zip(curve.times, curve.values, strict=True)) for curve in series]
        axis.stackplot(
            [(at - begin) / 60 for at in times],
            [[table.get(at, 0.0) for at in times] for table in tables],
            labels=[curve.legend for curve in series],
            colors=[COLOURS.get(curve.legend, "#6a3d9a") for curve in series],
        )
    else:
        for curve in series:
            axis.plot(
                [(at - begin) / 60 for at in curve.times],
                curve.values,
                "--" if curve.legend in DASHED else "-",
                color=COLOURS.get(curve.legend),
                label=curve.legend,
            )
    axis.margins(y=0.15)
    axis.set_ylim(0, None)
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)


if __name__ == "__main__":
    main()
