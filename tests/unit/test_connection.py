"""Parsing of an Airflow connection. The rules and their reasons are in docs/connection.md."""

import dataclasses
import os
import re

import pytest

from airflow_provider_manxue._core.connection import (
    DEFAULT_BASE_URL,
    DEFAULT_CONN_ID,
    FORM_LABELS,
    is_loopback,
    missing_connection,
    parse_connection,
)
from airflow_provider_manxue.exceptions import ManxueConfigurationError, ManxueConnectionNotFoundError
from airflow_provider_manxue.models import ManxueSettings

KEY = "sk-very-secret-key"
PREFIX = "/kyyReactApiServer"
LONGEST_NAME = ".".join(["a" * 61, *["b" * 63] * 3])
"""A host name of 253 characters, without its trailing dot."""

EXTRA = (
    "request_timeout",
    "verify",
    "ca_bundle",
    "proxy",
    "allow_http",
    "requests_per_second",
    "max_connections",
    "busy_codes",
)


SENTENCES = r"Connection 'my_conn', field '.+'( \([A-Z][\w ()]+\))?: (?!None).+\. (?!None)[A-Z][a-z].*[.?]"
"""Form of an error: the problem, and then the remedy."""


def labelled(field):
    """Return a field as errors name it, with the label of the connection form."""
    return f"field {field!r} ({FORM_LABELS[field]})" if field in FORM_LABELS else f"field {field!r}"


def settings_of(**fields):
    return parse_connection("my_conn", **{"host": None, "password": KEY, **fields})


def error_of(**fields):
    with pytest.raises(ManxueConfigurationError) as caught:
        settings_of(**fields)
    text = str(caught.value)
    assert KEY not in text
    assert re.fullmatch(SENTENCES, text, re.DOTALL), text
    return text


def test_key_alone_is_a_valid_connection():
    assert settings_of() == ManxueSettings(
        base_url=DEFAULT_BASE_URL,
        api_key=KEY,
        request_timeout=30.0,
        requests_per_second=10.0,
        max_connections=10,
        verify=True,
        ca_bundle=None,
        proxy=None,
    )


def test_default_base_url_is_the_documented_one():
    assert DEFAULT_BASE_URL == "https://zcbservice.aizfw.cn/kyyReactApiServer"


# --- the host -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [None, "", "  ", "\n"])
def test_empty_host_means_the_public_service(host):
    assert settings_of(host=host).base_url == DEFAULT_BASE_URL


@pytest.mark.parametrize("scheme", ["", "https://", "HTTPS://"])
@pytest.mark.parametrize(
    "authority", ["zcbservice.aizfw.cn", "zcbservice.aizfw.cn:8443", "[2001:db8::1]:8443", "10.0.0.7"]
)
@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/v1",
        "/v1/",
        PREFIX,
        f"{PREFIX}/",
        f"{PREFIX}//",
        f"{PREFIX}/v1",
        f"{PREFIX}/v1/",
        f"{PREFIX}//v1//",
        f"{PREFIX}/v1/result",
        f"{PREFIX}/v1/result/",
        f"{PREFIX}/v1/result/proj_1",
        f"{PREFIX}/v1/sd2_manxue/videos",
        f"{PREFIX}/v1/result/{{id}}",
    ],
)
def test_host_may_hold_any_part_of_the_base_url(scheme, authority, path):
    assert settings_of(host=f" {scheme}{authority}{path} ").base_url == f"https://{authority}{PREFIX}"


@pytest.mark.parametrize(
    ("host", "base_url"),
    [
        ("https://proxy.example.com/manxue", "https://proxy.example.com/manxue"),
        ("https://proxy.example.com/a/b/v1/", "https://proxy.example.com/a/b"),
        ("https://proxy.example.com/v10", "https://proxy.example.com/v10"),
        ("https://proxy.example.com/v1/other", "https://proxy.example.com/v1/other"),
        ("https://proxy.example.com/v1.example", "https://proxy.example.com/v1.example"),
        ("https://proxy.example.com/prev1", "https://proxy.example.com/prev1"),
        ("https://proxy.example.com/.well-known", "https://proxy.example.com/.well-known"),
    ],
)
def test_custom_path_prefix_is_preserved(host, base_url):
    assert settings_of(host=host).base_url == base_url


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({"host": "h.example.com", "port": 8443}, "https://h.example.com:8443"),
        ({"host": "https://h.example.com", "port": 8443}, "https://h.example.com:8443"),
        ({"host": "[2001:db8::1]", "port": 8443}, "https://[2001:db8::1]:8443"),
        ({"host": "h.example.com", "port": 65535}, "https://h.example.com:65535"),
        ({"host": "h.example.com:9443", "port": 8443}, "https://h.example.com:9443"),
        ({"host": "h.example.com", "port": 0}, "https://h.example.com"),
        ({"host": "h.example.com", "port": 443}, "https://h.example.com"),
        ({"host": "h.example.com", "port": 80}, "https://h.example.com:80"),
        ({"host": "http://localhost", "port": 80}, "http://localhost"),
        ({"host": "http://localhost:8080", "port": 443}, "http://localhost:8080"),
        ({"host": "", "port": 443}, DEFAULT_BASE_URL.removesuffix(PREFIX)),
        ({"host": "", "port": 0}, DEFAULT_BASE_URL.removesuffix(PREFIX)),
        ({"host": "h.example.com."}, "https://h.example.com."),
        ({"host": f"{'a' * 63}.example.com"}, f"https://{'a' * 63}.example.com"),
        ({"host": LONGEST_NAME}, f"https://{LONGEST_NAME}"),
        ({"host": f"{LONGEST_NAME}."}, f"https://{LONGEST_NAME}."),
        ({"host": "h.example.com", "schema": "https"}, "https://h.example.com"),
        ({"host": "h.example.com", "schema": "HTTPS"}, "https://h.example.com"),
        ({"host": "localhost", "schema": "http", "port": 8080}, "http://localhost:8080"),
        ({"host": "https://localhost", "schema": "http"}, "https://localhost"),
        ({"host": "http://localhost", "schema": "https"}, "http://localhost"),
    ],
)
def test_port_and_schema_complete_the_host(fields, base_url):
    """They do not override the host where it holds a port or a scheme of its own."""
    assert settings_of(**fields).base_url == base_url + PREFIX


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"host": "https://"}, "host"),
        ({"host": "://h"}, "host"),
        ({"host": "https:///path"}, "host"),
        ({"host": "ftp://h.example.com"}, "host"),
        ({"host": "file:///etc/passwd"}, "host"),
        ({"host": "https://h example.com"}, "host"),
        ({"host": "https://h.example.com\\evil.example.com"}, "host"),
        ({"host": "https://exämple.com"}, "host"),
        ({"host": "https://h.example.com:port"}, "host"),
        ({"host": "https://h.example.com:70000"}, "host"),
        ({"host": "https://h.example.com:-1"}, "host"),
        ({"host": "https://h..example.com"}, "host"),
        ({"host": "https://.example.com"}, "host"),
        ({"host": "https://example.com.."}, "host"),
        ({"host": f"https://{'a' * 64}.example.com"}, "host"),
        ({"host": f"a{LONGEST_NAME}"}, "host"),
        ({"host": "https://h.example.com:0"}, "host"),
        ({"host": "https://h.example.com:"}, "host"),
        ({"host": "https://h.example.com:", "port": 8443}, "host"),
        ({"host": "https://[::1"}, "host"),
        ({"host": "::1"}, "host"),
        ({"host": "https://[not-an-address]"}, "host"),
        ({"host": "https://h.example.com/a b"}, "host"),
        ({"host": "https://h.example.com/a\\b"}, "host"),
        ({"host": "https://h.example.com/ä"}, "host"),
        ({"host": "https://h.example.com/a/../b"}, "host"),
        ({"host": "https://h.example.com/a/.."}, "host"),
        ({"host": "https://h.example.com/./a"}, "host"),
        ({"host": "", "port": 8443}, "host"),
        ({"host": "h.example.com", "port": -1}, "port"),
        ({"host": "h.example.com", "port": 65536}, "port"),
        ({"host": "h.example.com", "schema": "ftp"}, "schema"),
        ({"host": "h.example.com", "schema": "https://"}, "schema"),
    ],
)
def test_bad_address_is_reported_with_its_field(fields, field):
    error = error_of(**fields)

    assert error.startswith(f"Connection 'my_conn', {labelled(field)}: ")


@pytest.mark.parametrize("query", ["?", "#", "?a=b", "#part", f"?key={KEY}", f"#{KEY}"])
def test_host_with_a_query_is_rejected_without_quote(query):
    """The query may hold the key."""
    assert "field 'host' (Base URL): it holds more than a base URL" in error_of(
        host=f"https://h.example.com/base{query}"
    )


@pytest.mark.parametrize(
    "host",
    [
        f"https://user:{KEY}@h.example.com",
        f"https://{KEY}@h.example.com",
        f"{KEY}@h.example.com",
        f"https://user:{KEY}@h.example.com:bad",
        f"https://user:{KEY}@[h",
        f"ftp://user:{KEY}@h.example.com",
        "https://@h.example.com",
    ],
)
def test_host_with_a_password_is_rejected_without_quote(host):
    assert (
        "field 'host' (Base URL): it holds a user name or a password. Put the API key into its own field."
        in error_of(host=host)
    )


# --- plain HTTP -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authority",
    ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:8080", "127.8.8.8", "[::1]", "[::1]:8080"],
)
def test_plain_http_to_loopback_is_allowed(authority):
    assert settings_of(host=f"http://{authority}").base_url == f"http://{authority}{PREFIX}"


FOREIGN = ["h.example.com", "10.0.0.7", "0.0.0.0", "localhost.example.com", "127.0.0.1.example.com", "[2001:db8::1]", "128.0.0.1"]  # fmt: skip


@pytest.mark.parametrize("authority", FOREIGN)
@pytest.mark.parametrize("extra", [{}, {"allow_http": False}, {"allow_http": "false"}, {"allow_http": None}])
def test_plain_http_to_another_host_is_rejected(authority, extra):
    for fields in ({"host": f"http://{authority}"}, {"host": authority, "schema": "http"}):
        error = error_of(**fields, extra=extra)

        assert "field 'host'" in error
        assert "unencrypted" in error
        assert "allow_http" in error


@pytest.mark.parametrize("authority", FOREIGN)
@pytest.mark.parametrize("allowed", [True, "true", "True", " TRUE "])
def test_allow_http_allows_plain_http(authority, allowed):
    settings = settings_of(host=f"http://{authority}", extra={"allow_http": allowed})

    assert settings.base_url == f"http://{authority}{PREFIX}"


@pytest.mark.parametrize(
    ("hostname", "loopback"),
    [
        ("localhost", True),
        ("LocalHost", True),
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("", False),
        ("example.com", False),
        ("127.1", False),
        ("::", False),
        ("0.0.0.0", False),
    ],
)
def test_loopback_is_recognized_without_dns(hostname, loopback):
    assert is_loopback(hostname) is loopback


# --- the key --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", [KEY, f" {KEY}", f"{KEY}\n", f"\t{KEY}\r\n"])
def test_key_is_stripped(password):
    assert settings_of(password=password).api_key == KEY


@pytest.mark.parametrize("password", [None, "", "  ", "\n"])
def test_missing_key_is_reported(password):
    error = error_of(password=password)

    assert "field 'password' (API key): no API key is set" in error


@pytest.mark.parametrize(
    "password",
    [
        f"Bearer {KEY}",
        f"{KEY}\nX-Other: 1",
        f"{KEY}\r\nX-Other: 1",
        f"{KEY}\x00",
        f"{KEY}\x7f",
        f"{KEY}é",
        f"{KEY}\u200b",
    ],
)
def test_key_unfit_for_a_header_is_rejected(password):
    error = error_of(password=password)

    assert "field 'password'" in error
    assert "the API key holds a space, a line break or a character outside of ASCII. Copy the key" in error
    assert "without the word 'Bearer'" in error


def test_settings_repr_hides_key_and_proxy_password():
    shown = repr(settings_of(extra={"proxy": "http://user:hidden@proxy:3128"}))

    assert KEY not in shown
    assert "hidden" not in shown


def test_settings_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings_of().base_url = "https://evil.example.com"


# --- extra fields ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [None, {}, dict.fromkeys(EXTRA), dict.fromkeys(EXTRA, "")])
def test_empty_extra_field_means_its_default(extra):
    """Airflow's connection form may store a field that was left empty as null or as an empty text."""
    assert settings_of(extra=extra) == settings_of()


NUMBERS = {
    "request_timeout": (30, 0.1, 600),
    "requests_per_second": (10, 0.01, 10_000),
    "max_connections": (10, 1, 1000),
}


@pytest.mark.parametrize(
    ("name", "value", "number"),
    [
        ("request_timeout", 0.1, 0.1),
        ("request_timeout", 5, 5.0),
        ("request_timeout", "12.5", 12.5),
        ("request_timeout", " 7 ", 7.0),
        ("request_timeout", 600, 600.0),
        ("requests_per_second", 0.01, 0.01),
        ("requests_per_second", "2.5", 2.5),
        ("requests_per_second", 10_000, 10_000.0),
        ("max_connections", 1, 1),
        ("max_connections", "20", 20),
        ("max_connections", 50.0, 50),
        ("max_connections", 1000, 1000),
    ],
)
def test_number_is_parsed_from_number_or_text(name, value, number):
    """Airflow's connection form may store a number as text. The least and greatest values are the bounds."""
    read = getattr(settings_of(extra={name: value}), name)

    assert read == number
    assert type(read) is type(number)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value", [0, 0.009, -1, 10_000.1, 10**400, "soon", "nan", "inf", "-inf", True, False, [], {}, [30]]
)
def test_bad_number_is_rejected_with_its_bounds(name, value):
    default, least, most = NUMBERS[name]

    error = error_of(extra={name: value})

    assert error.startswith(f"Connection 'my_conn', {labelled(name)}: {value!r} is not a number ")
    assert error.endswith(
        f"is not a number from {least:g} to {most:g}. Set such a number, or leave it empty for {default}."
    )


@pytest.mark.parametrize("value", [2.5, "2.5", 1.0001])
def test_fractional_max_connections_is_rejected(value):
    error = error_of(extra={"max_connections": value})

    assert (
        f"field 'max_connections' (Connections): {float(value):g} is not a whole number. Set a whole number, or "
        "leave it empty for 10." in error
    )


@pytest.mark.parametrize(
    ("value", "switch"), [(True, True), (False, False), ("true", True), ("False", False), (" FALSE ", False)]
)
def test_verify_is_parsed_from_bool_or_text(value, switch):
    """A connection in an environment variable or a secrets backend often has texts."""
    assert settings_of(extra={"verify": value}).verify is switch


@pytest.mark.parametrize(("name", "default"), [("verify", "true"), ("allow_http", "false")])
@pytest.mark.parametrize("value", ["yes", "no", "1", 0, 1, "off", " ", [], {"a": 1}])
def test_bad_switch_is_rejected(name, default, value):
    """A guess could turn off the verification of certificates."""
    error = error_of(extra={name: value})

    assert (
        f"{labelled(name)}: {value!r} is neither true nor false. Set one of them, or leave it empty for {default}."
        in error
    )


def test_ca_bundle_may_be_a_file(tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")

    assert settings_of(extra={"ca_bundle": str(bundle)}).ca_bundle == str(bundle)


@pytest.mark.parametrize("value", ["/no/such/file.pem", os.sep, "a\0b", "a" * 5000, 5, True, ["a.pem"], {}])
def test_ca_bundle_that_is_not_a_file_is_rejected(value):
    error = error_of(extra={"ca_bundle": value})

    assert "field 'ca_bundle'" in error
    assert "PEM" in error


def test_unreadable_ca_bundle_is_rejected(monkeypatch, tmp_path):
    def forbidden(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.stat", forbidden)

    assert "field 'ca_bundle'" in error_of(extra={"ca_bundle": str(tmp_path / "ca.pem")})


@pytest.mark.parametrize(
    "value",
    [
        "http://proxy:3128",
        "http://proxy:3128/",
        " http://proxy.example.com ",
        "http://user:pass@proxy:3128",
        "http://user:p%40@[::1]:3128",
    ],
)
def test_proxy_is_parsed(value):
    assert settings_of(extra={"proxy": value}).proxy == value.strip()


@pytest.mark.parametrize(
    "value",
    [
        "proxy:3128",
        "https://u:hidden@proxy",
        "socks5://u:hidden@proxy",
        "http://",
        "http://u:hidden@p/path",
        "http://u:hidden@p?q",
        "http://u:hidden p",
        "http://u:hidden@proxy:port",
        "http://u:hidden@proxy:0",
        "http://u:hidden@proxy:99999",
        "http://u:hidden@[::1:3128",
        "http://u:hidden@a..b:3128",
        f"http://u:hidden@{'a' * 64}",
        5,
        True,
        [],
    ],
)
def test_bad_proxy_is_rejected_without_quote(value):
    """The URL may hold a password."""
    error = error_of(extra={"proxy": value})

    assert ": it is not the URL of an HTTP proxy. Use the form" in error

    assert "field 'proxy'" in error
    assert "http://proxy.example.com:3128" in error
    assert "hidden" not in error


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("request_timout", "Remove it, or rename it to 'request_timeout'."),
        ("timeout", "Remove it, or rename it to 'request_timeout'."),
        ("Verify", "Remove it, or rename it to 'verify'."),
        ("proxies", "Remove it, or rename it to 'proxy'."),
        ("allow_https", "Remove it, or rename it to 'allow_http'."),
        (
            "zzz",
            f"Remove it, or use one of: {', '.join(sorted(EXTRA))}.",
        ),
    ],
)
def test_unknown_extra_field_is_rejected_with_a_hint(name, hint):
    error = error_of(extra={name: KEY})

    assert error == f"Connection 'my_conn', field {name!r}: this extra field is unknown. {hint}"


@pytest.mark.parametrize("extra", [["verify"], [["verify", False]], '["verify"]', '"text"', "5", 5])
def test_extra_that_is_not_an_object_is_rejected(extra):
    assert "field 'extra': it is not a JSON object" in error_of(extra=extra)


@pytest.mark.parametrize("extra", ['{"verify": false,}', f"key={KEY}", "{", "[" * 100_000])
def test_extra_that_is_not_json_is_rejected(extra):
    assert "field 'extra': it is not JSON" in error_of(extra=extra)


@pytest.mark.parametrize("extra", ["", " ", "{}", "null"])
def test_empty_extra_text_means_the_defaults(extra):
    assert settings_of(extra=extra) == settings_of()


def test_extra_text_is_parsed():
    assert settings_of(extra='{"verify": false}').verify is False


# --- a missing connection -------------------------------------------------------------------------------


def test_missing_connection_error_states_the_remedy():
    error = missing_connection(DEFAULT_CONN_ID)

    assert isinstance(error, ManxueConnectionNotFoundError)
    assert "'manxue_default' does not exist" in str(error)
    assert "type 'manxue'" in str(error)


@pytest.mark.parametrize(
    ("value", "codes"),
    [
        ("1302", {"1302"}),
        (" 1302, queue_full ,", {"1302", "queue_full"}),
        (1302, {"1302"}),
        ([1302, "queue_full"], {"1302", "queue_full"}),
        ("[1302, 1303]", {"1302", "1303"}),
        (" [1302, 'queue_full']", {"1302", "queue_full"}),
        ('["1302"]', {"1302"}),
        ("[]", set()),
        (None, set()),
        ("", set()),
        ([], set()),
    ],
)
def test_busy_codes_may_be_a_list_or_text(value, codes):
    assert settings_of(extra={"busy_codes": value}).busy_codes == codes


@pytest.mark.parametrize(
    "value", [True, 1.5, {"a": 1}, [True], [[1]], [None], "[1302", "[1302, queue_full]", f"[0x{'f' * 5000}]"]
)
def test_bad_busy_codes_are_rejected(value):
    error = error_of(extra={"busy_codes": value})
    assert re.fullmatch(SENTENCES, error)
    assert "busy_codes" in error
    assert ": it is not a list of error codes. Use the form" in error
