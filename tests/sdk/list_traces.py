"""Reads a running server with Huawei's own SDK: pip install huaweicloudsdkcts.

Usage: list_traces.py http://127.0.0.1:PORT PROJECT_ID

Sends traces of odd types over the native API, then lists them page by page with the SDK and
checks every type that the SDK parsed. Exits 0 if all is as Huawei's clients expect it.
"""

import json
import os
import sys
import tempfile
import time
import urllib.request

# The SDK writes an id into the home folder and honours proxies.
os.environ["HOME"] = tempfile.mkdtemp()
os.environ["NO_PROXY"] = "127.0.0.1"

from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.exceptions.exceptions import ClientRequestException
from huaweicloudsdkcts.v3 import CtsClient, ListTracesRequest

COUNT = 25


def get(url):
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def main(server, project):
    catalog = get(f"{server}/api/v1/accounts")
    account = next(
        one["id"]
        for one in catalog["accounts"]
        if any(own["id"] == project for own in one["projects"])
    )
    batch = f"sdk-{time.time_ns()}"
    now = time.time_ns() // 1_000_000
    traces = [
        {
            "trace_id": f"{batch}-{number}",
            "time": now + number,
            "domain_id": account,
            "project_id": project,
            "service_type": "ECS",
            "resource_type": "ecs",
            "trace_name": "createServer",
            "trace_status": "normal",
            "trace_type": "ApiCall",
            "resource_name": batch,
            "code": 200,
            "request": {"name": "a", "size": 12345678901234567890},
            "response": None,
            "read_only": "false",
            "user": {
                "name": "张 三/x",
                "domain": {"id": account, "name": "n"},
                "principal_is_root_user": False,
                "session_context": {"attributes": {"created_at": now, "mfa_authenticated": True}},
            },
        }
        for number in range(COUNT)
    ]
    body = json.dumps(traces).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{server}/api/v1/traces", body, headers)
    with urllib.request.urlopen(request) as answer:
        assert json.load(answer)["accepted"] == COUNT

    credentials = BasicCredentials("AK", "SK", project)
    builder = CtsClient.new_builder().with_credentials(credentials).with_endpoint(server)
    client = builder.build()
    deadline = time.time() + 20
    while True:
        found = pages(client, batch, now)
        if len(found) == COUNT or time.time() > deadline:
            break
    assert len(found) == COUNT, f"{len(found)} of {COUNT} were found"
    assert [one.trace_id for one in found] == [f"{batch}-{n}" for n in reversed(range(COUNT))]
    for number, one in zip(reversed(range(COUNT)), found):
        assert one.code == "200", one.code
        assert one.request == '{"name":"a","size":12345678901234567890}', one.request
        assert one.response is None, one.response
        assert one.read_only is False, one.read_only
        assert one.time == now + number, one.time
        assert isinstance(one.record_time, int), one.record_time
        assert one.trace_rating == "normal", one.trace_rating
        assert one.user.name == "张 三/x", one.user
        assert one.user.principal_is_root_user == "false", one.user
        attributes = one.user.session_context.attributes
        assert attributes.created_at == str(now), attributes
        assert attributes.mfa_authenticated == "true", attributes
    by_id = ListTracesRequest(trace_type="system", trace_id=f"{batch}-7", user="nobody")
    assert [one.trace_id for one in client.list_traces(by_id).traces] == [f"{batch}-7"]
    by_user = ListTracesRequest(trace_type="system", user="张 三/x", limit=1)
    assert len(client.list_traces(by_user).traces) == 1
    try:
        client.list_traces(ListTracesRequest(trace_type="system", limit=999))
        raise AssertionError("a limit of 999 was taken")
    except ClientRequestException as error:
        assert (error.status_code, error.error_code) == (400, "CTS.0300"), error
        assert error.request_id and "1 to 200" in error.error_msg, error
    print(f"{COUNT} traces, all as the SDK expects them")


def pages(client, batch, now):
    query = ListTracesRequest(trace_type="system", limit=10, resource_name=batch)
    query._from, query.to = now - 60_000, now + 600_000
    found = []
    while True:
        page = client.list_traces(query)
        assert page.meta_data.count == len(page.traces)
        found.extend(page.traces)
        if not page.meta_data.marker:
            return found
        assert page.meta_data.marker == page.traces[-1].trace_id
        query.next = page.meta_data.marker


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"), sys.argv[2])
