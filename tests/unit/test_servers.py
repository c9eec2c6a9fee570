"""Temporary PostgreSQL and Redis servers: data after a restart, and clean-up."""

import signal

import pytest

from dev.local_airflow import is_listening, query_postgres
from dev.servers import PostgresServer, RedisServer, ServerError, found, postgres_programs

pytestmark = pytest.mark.once


def is_installed(look_up):
    try:
        look_up()
    except ServerError:
        return False
    return True


@pytest.mark.skipif(not is_installed(postgres_programs), reason="PostgreSQL is not installed")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGQUIT], ids=["in order", "crash"])
def test_postgres_preserves_data_on_restart_then_cleans_up(ending):
    with PostgresServer() as server:
        query_postgres(server.url, "CREATE TABLE kept AS SELECT 7 AS number")
        server.stop(ending)
        assert not is_listening(server.port)
        server.start()
        assert query_postgres(server.url, "SELECT number FROM kept") == [(7,)]

    assert not server.folder.exists()
    assert not is_listening(server.port)


@pytest.mark.skipif(not is_installed(lambda: found("redis-server")), reason="Redis is not installed")
def test_redis_requires_the_password_and_cleans_up():
    import socket

    with RedisServer() as server, socket.create_connection(("127.0.0.1", server.port)) as stranger:
        stranger.sendall(b"KEYS *\r\n")
        assert stranger.recv(100).startswith(b"-NOAUTH")

    assert not server.folder.exists()
    assert not is_listening(server.port)


def test_error_names_the_missing_program_and_remedy():
    with pytest.raises(ServerError, match=r"no-such-server is not installed\. On Debian: apt-get install"):
        found("no-such-server")
