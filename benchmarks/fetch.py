"""
One download by one tool in its own process: ``python -m benchmarks.fetch TOOL TASK PATH``.

``TASK`` is a completed task of the service as JSON, ``PATH`` the destination of its video. Each tool is used as its
documentation recommends for a URL, with retries if it has them. Prints seconds and mebibytes as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Download = Callable[[], object]

TIMEOUT = 60.0
"""Seconds after which the operator gives up. The real default is an hour."""

RETRIES = 3


def manxue(task: Mapping[str, Any], path: Path) -> Download:
    """Prepare the operator, as a worker does."""
    from airflow_provider_manxue._client import downloader, media_client, storage  # noqa: F401
    from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator

    operator = ManxueToObjectStorageOperator(
        task_id="save",
        video_task_id=dict(task),
        destination=path.as_uri(),
        timeout=TIMEOUT,
        do_xcom_push=False,
    )
    _ = operator.hook.settings
    return lambda: operator.execute({})


def huggingface_hub(task: Mapping[str, Any], path: Path) -> Download:
    """Prepare its function for a URL, with the rename that its download of a model does."""
    from huggingface_hub.file_download import http_get

    def download() -> None:
        incomplete = path.with_suffix(".incomplete")
        with incomplete.open("wb") as file:
            http_get(task["video_url"], file)
        incomplete.replace(path)

    return download


def pooch(task: Mapping[str, Any], path: Path) -> Download:
    """Prepare a download without a checksum, since the service publishes none."""
    import pooch

    registry = pooch.create(
        path.parent,
        "",
        registry={path.name: None},
        urls={path.name: task["video_url"]},
        retry_if_failed=RETRIES,
    )
    return lambda: registry.fetch(path.name)


def fsspec(task: Mapping[str, Any], path: Path) -> Download:
    """Prepare its file system for HTTP, which has no retries."""
    import fsspec

    files = fsspec.filesystem("http", encoded=True)
    return lambda: files.get_file(task["video_url"], str(path))


TOOLS: dict[str, Callable[[Mapping[str, Any], Path], Download]] = {
    tool.__name__: tool for tool in (manxue, huggingface_hub, pooch, fsspec)
}


def main() -> None:
    tool, task, path = sys.argv[1:]
    download = TOOLS[tool](json.loads(task), Path(path))
    before = memory("VmRSS")
    began = time.perf_counter()
    download()
    seconds = time.perf_counter() - began
    # `getrusage` is not used, since its peak includes the parent process before exec.
    print(json.dumps({"seconds": seconds, "mebibytes": memory("VmHWM") - before}))


def memory(kind: str) -> float:
    """Return this process's ``VmRSS``, or its peak ``VmHWM``, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{kind}:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
