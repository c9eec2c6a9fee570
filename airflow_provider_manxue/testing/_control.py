"""The control API under ``/_emulator/``: the emulator's methods over HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aiohttp import web

from airflow_provider_manxue.testing._names import unknown
from airflow_provider_manxue.testing._response import Response
from airflow_provider_manxue.testing._scenarios import SCENARIOS
from airflow_provider_manxue.testing._script import Script

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from airflow_provider_manxue.testing._assets import Asset
    from airflow_provider_manxue.testing._base import BaseEmulator
    from airflow_provider_manxue.testing._tasks import Task


class Control:
    """
    Handler of requests to the control API.

    :param emulator: the emulator to control.
    :param refuse_for: closes the port for some real seconds.
    """

    def __init__(
        self, emulator: BaseEmulator, refuse_for: Callable[[float], Coroutine[Any, Any, None]]
    ) -> None:
        self._emulator = emulator
        self._close_port = refuse_for
        self._reopening: asyncio.Task[None] | None = None
        self._read: dict[str, Callable[[], Any]] = {
            "health": self._health,
            "connection": lambda: json.loads(emulator.airflow_connection_json()),
            "scenarios": lambda: [_described(name) for name in SCENARIOS],
            "tasks": lambda: [_task(task) for task in emulator.tasks.values()],
            "assets": lambda: [_asset(asset) for asset in emulator.assets.values()],
            "requests": lambda: [record.to_json() for record in emulator.requests],
            "ledger": self._ledger,
            "faults_played": lambda: [dataclasses.asdict(fault) for fault in emulator.faults_played],
        }
        self._change: dict[str, Callable[..., Any]] = {
            "add_task": emulator.add_task,
            "add_asset": emulator.add_asset,
            "refuse_file": emulator.refuse_file,
            "set_script": emulator.set_script,
            "set_status": emulator.set_status,
            "advance": emulator.advance,
            "replace_video": emulator.replace_video,
            "video_url": emulator.video_url,
            "fail_next": emulator.fail_next,
            "respond_with": emulator.respond_with,
            "clear_faults": emulator.clear_faults,
            "clear_requests": emulator.clear_requests,
            "set_default_script": self._set_default_script,
            "set_default_asset_script": self._set_default_asset_script,
            "set_api_key": self._set_api_key,
            "advance_clock": emulator.clock.advance,
            "refuse_for": self._refuse_for,
        }

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        """Serve one request."""
        if not _is_local(request.remote):
            return _json(
                403,
                {
                    "error": "Request rejected: it came from another machine. Call the control API on the emulator's machine."
                },
            )
        if "Origin" in request.headers or not _is_here(request.host):
            return _json(
                403,
                {
                    "error": "Request rejected: it came from a page in a browser. Call the control API from a program."
                },
            )
        try:
            result = self._result(request.method, request.path, await request.read())
        except (ValueError, TypeError, RuntimeError) as error:
            return _json(400, {"error": str(error)})
        except KeyError as error:
            return _json(404, {"error": error.args[0]})
        return _json(200, result)

    def _result(self, method: str, path: str, body: bytes) -> Any:
        name = path.removeprefix("/_emulator/")
        if method == "GET" and name in self._read:
            return self._read[name]()
        if method == "POST" and name in self._change:
            return self._change[name](**_arguments(body))
        error = unknown("command", f"{method} {name}", _commands(self._read, self._change))
        raise KeyError(str(error))

    def _health(self) -> dict[str, Any]:
        emulator = self._emulator
        return {"base_url": emulator.base_url, "now": emulator.clock.now(), "seed": emulator.seed}

    def _ledger(self) -> dict[str, Any]:
        ledger = self._emulator.ledger
        return {"billed": ledger.billed, "units": ledger.units, **dataclasses.asdict(ledger)}

    def _set_default_script(self, script: Script | str) -> None:
        self._emulator.default_script = script

    def _set_default_asset_script(self, script: Script | str) -> None:
        self._emulator.default_asset_script = script

    def _set_api_key(self, api_key: str) -> None:
        self._emulator.api_key = api_key

    def _refuse_for(self, seconds: float) -> None:
        # In another task, so that the response to this request is sent before the port is closed.
        self._reopening = asyncio.get_running_loop().create_task(self._refuse_soon(seconds))

    async def _refuse_soon(self, seconds: float) -> None:
        await asyncio.sleep(0.01)
        await self._close_port(seconds)


def _is_here(host: str) -> bool:
    """Return whether a ``Host`` header is a loopback address, to protect against DNS rebinding."""
    try:
        name = urlsplit(f"//{host}").hostname
        return name == "localhost" or _is_local(name)
    except ValueError:
        return False


def _is_local(address: str | None) -> bool:
    return address is not None and ipaddress.ip_address(address).is_loopback


def _arguments(body: bytes) -> dict[str, Any]:
    """
    Return the arguments of a command.

    :raises TypeError: if the body is JSON, but not an object.
    :raises ValueError: if it is not JSON, or an argument is invalid.
    """
    arguments = json.loads(body or b"{}")
    if not isinstance(arguments, dict):
        raise TypeError("The body is not a JSON object. Send the arguments as a JSON object.")
    if isinstance(arguments.get("script"), dict):
        arguments["script"] = Script.from_json(arguments["script"])
    if isinstance(arguments.get("response"), dict):
        arguments["response"] = Response.from_json(arguments["response"])
    return arguments


def _commands(read: Mapping[str, Any], change: Mapping[str, Any]) -> list[str]:
    return [f"GET {name}" for name in read] + [f"POST {name}" for name in change]


def _described(name: str) -> dict[str, str]:
    scenario = SCENARIOS[name]
    return {
        "name": name,
        "place": scenario.place,
        "origin": scenario.origin,
        "description": scenario.description,
    }


def _task(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "status": task.status,
        "model": task.model,
        "created": task.created,
        "actual_duration": task.actual_duration,
        "size": task.video.size,
    }


def _asset(asset: Asset) -> dict[str, Any]:
    return {"id": asset.id, "kind": asset.kind, "url": asset.url, "status": asset.word}


def _json(status: int, value: Any) -> web.Response:
    return web.json_response(value, status=status)
