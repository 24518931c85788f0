#!/usr/bin/env python3
"""Checks what the Compose schema does not; run by .ci/contrib.

That docker-compose.yml names only what exists, pins what it pulls and publishes nothing but to
loopback; that the files of Prometheus and Grafana are what they should be.
"""

import json
import sys
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
problems = []


def expect(condition, text):
    if not condition:
        problems.append(text)


def load(name):
    return YAML(typ="safe", pure=True).load((ROOT / name).read_text())


def check_service(name, service, compose):
    services, volumes = compose["services"], compose["volumes"]
    image = service.get("image", "")
    tag = image.rpartition(":")[2] if ":" in image else ""
    expect(tag and tag != "latest", f"{name}: image {image!r} is not pinned")
    shared = str(service.get("network_mode", "")).removeprefix("service:")
    if shared not in ("", "none"):
        expect(shared in services, f"{name}: network of {shared}, which is no service")
        expect("ports" not in service, f"{name}: ports belong to {shared}")
    for other in service.get("depends_on", []):
        expect(other in services, f"{name}: depends on {other}, which is no service")
        how = service["depends_on"]
        if isinstance(how, dict) and how[other]["condition"] == "service_healthy":
            expect("healthcheck" in services[other], f"{name}: {other} has no healthcheck")
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        found = (ROOT / source).exists() if source.startswith(".") else source in volumes
        expect(found, f"{name}: volume {source} does not exist")
    for port in service.get("ports", []):
        expect(port.startswith("127.0.0.1:"), f"{name}: port {port} is open to everybody")
    build = service.get("build")
    if build:
        expect((ROOT / build["dockerfile"]).exists(), f"{name}: no {build['dockerfile']}")
    for key, value in service.get("environment", {}).items():
        expect(isinstance(value, str), f"{name}: {key} is no text: quote it")


def main():
    compose = load("docker-compose.yml")
    for name, service in compose["services"].items():
        check_service(name, service, compose)
    used = {
        volume.split(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
    }
    for volume in compose["volumes"]:
        expect(volume in used, f"volume {volume} is not used")

    rules = [rule for group in load("contrib/prometheus/alerts.yml")["groups"]
             for rule in group["rules"]]
    expect(len({rule["alert"] for rule in rules}) == len(rules), "two alerts have one name")
    for rule in rules:
        for part in ("expr", "labels", "annotations"):
            expect(part in rule, f"alert {rule['alert']} has no {part}")
        expect("summary" in rule.get("annotations", {}), f"alert {rule['alert']}: no summary")
        for pair in ("()", "[]", "{}"):
            expect(rule["expr"].count(pair[0]) == rule["expr"].count(pair[1]),
                   f"alert {rule['alert']}: {pair} do not match")
    prometheus = load("contrib/prometheus/prometheus.yml")
    ports = {target.split(":")[1] for job in prometheus["scrape_configs"]
             for one in job["static_configs"] for target in one["targets"]}
    listening = {service["command"][-1].split(":")[1]
                 for name, service in compose["services"].items()
                 if name.startswith("trailproof-")}
    expect(ports == listening, f"Prometheus asks {ports}, the instances listen on {listening}")

    dashboard = json.loads((ROOT / "contrib/grafana/dashboards/trailproof.json").read_text())
    source = load("contrib/grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    load("contrib/grafana/provisioning/dashboards/trailproof.yml")
    for panel in dashboard["panels"]:
        expect(panel["datasource"]["uid"] == source["uid"], f"{panel['title']}: other source")
        expect(panel["targets"], f"{panel['title']}: shows nothing")

    for problem in problems:
        print(f"contrib: {problem}", file=sys.stderr)
    if not problems:
        print(f"contrib: {len(compose['services'])} services, {len(rules)} alerts and "
              f"{len(dashboard['panels'])} panels hold together")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
