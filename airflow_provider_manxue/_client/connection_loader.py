"""Loading an Airflow connection, on an event loop or on a worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._core.connection import missing_connection, parse_connection
from airflow_provider_manxue.exceptions import ManxueError, ManxueTransientError

if TYPE_CHECKING:
    from airflow_provider_manxue.models import ManxueSettings


async def load_connection(conn_id: str) -> ManxueSettings:
    """
    Read an Airflow connection on an event loop.

    :raises ManxueConfigurationError: if it is missing or a field of it cannot be used.
    :raises ManxueTransientError: if the connection could not be loaded just now.
    """
    try:
        connection = await _get_connection(conn_id)
    except ManxueError:
        raise
    except Exception as error:  # noqa: BLE001
        # The next poll may succeed. The text of the error is left out, as it may hold a part of the connection.
        raise unreadable_connection(conn_id, error) from None
    return await asyncio.to_thread(to_settings, conn_id, connection)


def to_settings(conn_id: str, connection: Any) -> ManxueSettings:
    """
    Parse the fields of an Airflow connection.

    :raises ManxueConfigurationError: if a field of it cannot be used.
    """
    return parse_connection(
        conn_id,
        host=connection.host,
        password=connection.password,
        port=connection.port,
        schema=connection.schema,
        extra=connection.extra,
    )


async def _get_connection(conn_id: str) -> Any:
    from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson
    from airflow.providers.common.compat.sdk import AirflowNotFoundException

    try:
        connection = await get_async_connection(conn_id)
    except AirflowNotFoundException:
        raise missing_connection(conn_id) from None
    # Makes Airflow mask the values in its logs. It reads text that is not JSON as no fields.
    await get_async_extra_dejson(connection)
    return connection


def unreadable_connection(conn_id: str, error: Exception) -> ManxueTransientError:
    """Return the error for a connection that Airflow could not read just now."""
    return ManxueTransientError(f"Airflow could not read the connection {conn_id!r}: {type(error).__name__}")
