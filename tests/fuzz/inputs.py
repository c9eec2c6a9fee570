"""The fuzzer's first inputs and its findings. The unit tests run them too."""

from __future__ import annotations

_PROCESSING = (
    b'{"id":"proj_sd2manxue_1234567890","object":"video","created":1761635478,"model":"sd2_manxue_1080p",'
    b'"status":"processing","video_url":null,"error":null}'
)
_COMPLETED = (
    b'{"id":"p","object":"video","created":1761635478,"model":"sd2_manxue_1080p","status":"completed",'
    b'"video_url":"https://x/a.mp4?sig=1","actualDuration":5.17}'
)
_MP4 = b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x08moov" + b"\0\0\0\x0cmdat\1\2\3\4"

SEEDS: dict[str, tuple[bytes, ...]] = {
    "answer": (
        b"200\n\n" + _PROCESSING,
        b"200\n\n" + _COMPLETED,
        b'200\n\n{"id":"p","object":"video","status":"failed","error":{"message":"no","code":7}}',
        b'200\n\n{"code":0,"msg":null,"data":' + _COMPLETED + b"}",
        b'200\n\n{"code":500,"data":null,"msg":"No handler found for ..."}',
        b'200\n\n{"id":"p","object":"image.generation","image_url":"https://x/a.png"}',
        b'404\n\n{"message":"No handler found for GET ..."}',
        b"429\n30\n{}",
        b"503\nFri, 15 Jan 2027 08:01:00 GMT\n<html>busy</html>",
        b"401\n\n",
        b"302\n\n",
        b"200\n\n\0\x08\5\4\6\x13\0\6\0",
    ),
    "order_answer": (
        b'200\n\n{"id":"p","status":"queued"}',
        b'202\n\n{"code":"0","msg":null,"data":{"projectId":"proj_1"}}',
        b'200\n\n{"id":"p","status":"failed","error":"no"}',
        b'200\n\n{"code":400,"msg":"prompt","data":null}',
        b'200\n\n{"code":429,"msg":"busy"}',
        b'400\n\n{"message":"prompt"}',
        b"429\n5\n",
        b"500\n\n",
        b"200\n\n{}",
        b"200\n\n\0\x08\5\4\6\x13\0\6\0",
    ),
    "retry_after": (
        b"120", b"1.5", b"Fri, 15 Jan 2027 08:01:00 GMT", b"Friday, 15-Jan-27 08:01:00 GMT", b"Fri Jan 15 08:01:00 2027",
        b"soon", b"-1", b"10\n20", b"15 Jan 2027 08:01:00 +0100",
    ),
    "text": (b"a plain sentence", b"see https://x/a.mp4?sig=1, then <b>", b"a\r\nb\x1b[0m", b"sk-very-secret-key"),
    "video_task_id": (
        b"proj_sd2manxue_1234567890", b"global task/2", b"..", b"%2e%2e", "视频".encode(), b'{"id":"p"}',
        b'{"code":"0","data":{"projectId":"proj_1"}}', b'{"id":7}', b"[]",
    ),
    "connection": (
        b"", b"https://zcbservice.aizfw.cn/kyyReactApiServer\n\n\n\n{}", b"h.example.com/v1/\n8443\nhttps\n\n",
        b"http://127.0.0.1:8080/v1/result\n\n\n\n", b"http://[::1]\n\n\n\n",
        b'h\n\nhttp\n\n{"allow_http":true,"request_timeout":"30","max_connections":5,"verify":"false"}',
        b'h\n\n\n\n{"proxy":"http://a:b@c:3128","ca_bundle":"/"}', b'h\n\n\n\n{"request_timeot":1}',
    ),
    "order": (
        b'{"prompt":"a","model":"sd2_manxue_1080p","duration":5,"ratio":"16:9"}',
        b'{"prompt":"a","model":"sd2_manxue_1080p","first_image":"https://x/a.png","last_image":"https://x/b.png"}',
        b'{"prompt":"a","model":"sd2_manxue_video_720p","reference_videos":["https://x/a.mp4"],"duration":"4"}',
        b'{"prompt":"a","model":"m","reference_images":"[\\"https://x/a.png\\"]","reference_audios":"asset://a"}',
        b'{"prompt":"","model":null,"duration":99}',
    ),
    "order_record": (
        b'0"proj_1"', b"0null",
        b'0{"state":"intent","id":null,"since":"2026-01-01T00:00:00+00:00","max_tries":1,"fingerprint":{"prompt":"a"}}',
        b'1{"state":"ordered","id":"p","max_tries":1,"fingerprint":{}}',
        b'2{"state":"done","id":"p","max_tries":1}', b'1{"state":"failed","max_tries":1}',
        b'0{"id":"p","fingerprint":{"prompt":"0123456789abcdef","model":"fedcba9876543210"}}',
    ),
    "event": (
        b'{"version":1,"status":"completed","video_task_id":"p","last_answer":"completed","started_at":1.0}',
        b'{"version":1,"video_task_id":"p","status":"failed","message":"no"}',
        b'{"version":1,"status":"begin","reason":"because"}',
        b'{"version":1,"status":"ended","errors":{"p":{"status":"timeout","message":"late"}},"started_at":1}',
        b'{"version":1,"status":"ended","errors":{}}', b"null", b'"success"',
    ),
    "reference": (
        b'{"xcom_task_id":"order","xcom_key":"return_value","xcom_is_mapped":false}\n"p"',
        b'{"xcom_task_id":"order","xcom_key":"return_value","xcom_is_mapped":true}\n["p"]',
        b'[{"xcom_task_id":"order","xcom_key":"id","xcom_is_mapped":false},"b"]\n{"data":{"projectId":"p"}}',
        b'{"xcom_task_id":"a","xcom_key":"b","xcom_is_mapped":false,"xcom_map_index":-1,"xcom_path":["id"]}\n{"id":"p"}',
        b'"p"\nnull', b'["a","b"]\n',
    ),
    "template": (
        b"p", b"{{ ti.xcom_pull('order') }}", b"{{ ti.xcom_pull('order', map_indexes=-1) }}",
        b"{{ task_instance.xcom_pull(task_ids=['a'], key=k)['id'] }}", b"{{ ti.xcom_pull(**a) }}", b"{% if", b"{{ 1 }}",
        b"{{ ti.xcom_pull('a', map_indexes=2).x[0] }}", b"{% if params.a|default('b') %}{{ ds_nodash }}{% endif %}",
        b"{{ logical_date.strftime('%Y') }}", b"{{ macros.ds_add(ds, -1) }}",
    ),
    "wait": (
        b"\3\0\0\x20\x80\0" + b"\0\0\0\1\0\0\3\0\0", b"\3\1\0\x40\0\xff" + b"\x0c\4\0\x0e\7\0\1\0\0", b"\2\0\0\xff\x40\xc0\6\0\0",
        b"\2\0\0\xff\x40\xc0\4\0\6\1\0\7", b"\1\1\2\x60\0\0\1\0\6", b"\5\0\0\x20\0\0\x0c\7\5",
    ),
    "media_answer": (
        b"\0\0\2\0\0\0", b"\1\0\1\0\1\3\0\0\1", b"\2\0\0\0\1\0\0\0\3", b"\3\0\0\0\0\0", b"\4\0\0\0\0\0\6\x09", b"\0\0\0\0\0\0\2\6",
        b"\1\0\1\0\1\4\0\0\1\4\x0a\5\x0b", b"\1\0\1\0\1\3\3\7\0\1\5\x09\x0a",
    ),
    "mp4": (b"\0" + _MP4, b"\1" + _MP4, b"\0" + _MP4[:-1], b"\2" + _MP4, b"\0<html></html>", b"\0" + _MP4 + b"\0\0\0\1free\0\0\0\0\0\0\0\x10"),
    "redirect": (
        b"https://x/a%2fb?s=%3d#f\n/b", b"https://x/a\nhttps://y/b?c", b"https://x/a\nhttp://y/b", b"http://127.1/a\n../b",
        b"https://x/a\n//y/b", b"https://x/a\n", b"ftp://x/a\n/b", b"https://u:p@x/a\n/b", b"https://[::1]:8/a\n?q",
    ),
    "address": (
        b"127.0.0.1", b"localhost", b"127.1", b"0x7f000001", b"0177.0.0.1", b"::1", b"::ffff:10.0.0.1", b"64:ff9b::a00:1",
        b"2002:a00:1::", b"93.184.216.34", b"2606:2800:220:1::1", b"fe80::1%eth0", b"224.0.0.1", b"a.localhost",
    ),
}  # fmt: skip
"""First inputs of each target, from the documentation of the service and of HTTP."""

FINDINGS: dict[str, dict[str, bytes]] = {
    "answer": {
        "a field nested deeper than Airflow can store": b'200\n\n{"id":"p","status":"queued","x":' + b"[" * 600 + b"]" * 600 + b"}",
    },
    "order_answer": {
        "an id that can stand in no URL": b'200\n\n{"id":"a\\u0001b","status":"queued"}',
        "a task beside an error code": b'200\n\n{"code":400,"data":{"id":"p","status":"queued"}}',
    },
    "connection": {
        "text around an address in brackets": b"h <[::2]> x\n\n\n\n",
    },
    "order": {
        "a list in a text nested without end": b'{"prompt":"a","model":"m","reference_images":"' + b"[" * 3000 + b'"}',
    },
    "order_record": {
        "a fingerprint that is a list of pairs": b'0{"id":"p","fingerprint":[[1,2]]}',
    },
    "event": {
        "a success without an id": b'{"version":1,"status":"completed","last_answer":"completed"}',
        "a success whose id is none": b'{"version":1,"status":"completed","video_task_id":".."}',
        "a start that is no number": b'{"version":1,"status":"completed","video_task_id":"p","started_at":NaN}',
        "a start beyond all numbers": b'{"version":1,"status":"ended","errors":{},"started_at":1' + b"0" * 400 + b"}",
        "an error whose status is a list": b'{"version":1,"status":"ended","errors":{"p":{"status":[]}}}',
    },
    "template": {
        "braces in the id of a task": b"{{ ti.xcom_pull('a{{ b }', k=1) }}",
        "braces nested without end": b"{{ ti.xcom_pull(k)" + b"[{" * 400,
    },
    "media_answer": {
        "a part of a video without any bytes": b"\1\0\0\5\3\0\0\1\5\5\0",
    },
    "redirect": {
        "a host with a NUL": b"http://\0003.1/a\n../b",
        "a place with half an address in brackets": b"https://x/a\n//[",
        "a URL that cannot be encoded": b"https://1/\xd0:a\n?q",
    },
    "address": {
        "a NUL": b"2219\0\7",
    },
}  # fmt: skip
"""Inputs of each target that once broke a property, by a description."""
