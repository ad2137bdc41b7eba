"""Redis Cluster losing nodes and moving slots, Sentinel failing over, TLS."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from tent_core.errors import DirectoryUnavailable
from tent_metadata import Directory
from tent_metadata.cluster import slot_of_bucket

NAMESPACE = bytes(range(16))


def page_of_each_bucket() -> list[tuple[bytes, bytes]]:
    return [(bytes([bucket]) + os.urandom(15), b"record of %d" % bucket) for bucket in range(256)]


def test_a_lost_shard_costs_its_pages_and_no_others(
    own_cluster: list[Any],
    cluster_address: Any,
    opened: Callable[..., Directory],
    eventually: Callable[..., Any],
) -> None:
    directory = opened(cluster_address(own_cluster))
    pages = page_of_each_bucket()
    assert directory.publish(NAMESPACE, pages, 0) == [True] * 256
    asked = [digest for digest, _ in pages]
    lost = {i for i in range(256) if slot_of_bucket(i) < 5461}
    assert 0 < len(lost) < 256
    own_cluster[0].stop()

    def only_the_lost_are_missing() -> bool:
        try:
            records, _ = directory.lookup(NAMESPACE, asked)
        except DirectoryUnavailable:
            return False
        return {i for i, record in enumerate(records) if record is None} == lost

    eventually(only_the_lost_are_missing, "the other shards answer")
    results = directory.publish(NAMESPACE, pages, 0)
    assert {i for i, result in enumerate(results) if result is False} == lost
    with pytest.raises(DirectoryUnavailable):
        directory.clear(NAMESPACE)
    with pytest.raises(DirectoryUnavailable):
        directory.unpublish([pages[min(lost)]])
    own_cluster[1].stop()
    own_cluster[2].stop()
    with pytest.raises(DirectoryUnavailable):
        directory.lookup(NAMESPACE, asked)


def test_a_shard_that_stands_still_takes_nothing_from_the_others(
    own_cluster: list[Any], cluster_address: Any, opened: Callable[..., Directory], stand_still: Any
) -> None:
    directory = opened(cluster_address(own_cluster), timeout_ms=1000)
    pages = page_of_each_bucket()
    assert directory.publish(NAMESPACE, pages, 0) == [True] * 256
    lost = {i for i in range(256) if slot_of_bucket(i) < 5461}
    with stand_still(own_cluster[0]):
        for _ in range(3):  # the first waits for it, the others need not
            records, _ = directory.lookup(NAMESPACE, [digest for digest, _ in pages])
            assert {i for i, record in enumerate(records) if record is None} == lost
    assert directory.counters()["failures:timeout"] >= 1


def test_a_half_done_clear_is_completed_by_whoever_sees_it(
    cluster_url: str, lasting_cluster: list[Any], opened: Callable[..., Directory]
) -> None:
    directory = opened(cluster_url)
    for node in lasting_cluster:  # one bucket only has heard of the clear
        try:
            node.client().set("tent:test:{07}:g:" + NAMESPACE.hex(), 5)
        except redis.exceptions.RedisError:
            continue
    old, new = (bytes([7]) * 16, b"a"), (bytes([8]) * 16, b"b")
    assert directory.lookup(NAMESPACE, [new[0]]) == ([None], 0)
    assert directory.publish(NAMESPACE, [old], 0) == [False]
    records, generation = directory.lookup(NAMESPACE, [new[0]])
    assert (records, generation) == ([None], 5), "it was told when its publishing was refused"
    directory.publish(NAMESPACE, [new], 5)
    assert opened(cluster_url).lookup(NAMESPACE, [new[0]]) == ([b"b"], 5), "and spread it"
    assert directory.clear(NAMESPACE) == 6


def test_a_slot_that_moves_is_followed(
    own_cluster: list[Any], cluster_address: Any, opened: Callable[..., Directory]
) -> None:
    directory = opened(cluster_address(own_cluster))
    pages = page_of_each_bucket()
    assert directory.clear(NAMESPACE) == 1
    directory.publish(NAMESPACE, pages, 1)
    bucket = next(i for i in range(256) if slot_of_bucket(i) < 5461)
    slot, (digest, record) = slot_of_bucket(bucket), pages[bucket]
    source, target = own_cluster[0].client(), own_cluster[1].client()
    ids = [client.execute_command("CLUSTER MYID").decode() for client in (source, target)]
    target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
    source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
    fresh = (bytes([bucket]) + os.urandom(15), b"fresh")
    assert directory.publish(NAMESPACE, [fresh], 1) == [False], "neither shard has all of its keys"
    assert directory.lookup(NAMESPACE, [digest, fresh[0]]) == ([None, None], 1), "a miss, for now"
    keys = source.execute_command("CLUSTER GETKEYSINSLOT", slot, 1000)
    for key in keys:
        source.execute_command("MIGRATE", "127.0.0.1", own_cluster[1].port, key, 0, 5000)
    assert directory.lookup(NAMESPACE, [digest])[0] == [record], "ASK is followed"
    for client in (target, source, own_cluster[2].client()):
        client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])
    assert directory.lookup(NAMESPACE, [digest])[0] == [record], "MOVED is followed"
    assert directory.lookup(NAMESPACE, [d for d, _ in pages])[0] == [r for _, r in pages]
    assert directory.counters()["topology:ask"] > 0
    assert directory.counters()["topology:moved"] > 0


def test_any_node_of_a_cluster_will_do_to_find_the_others(
    cluster_url: str,
    lasting_cluster: list[Any],
    opened: Callable[..., Directory],
    tcp_port: Callable[[], int],
) -> None:
    one = f"redis://127.0.0.1:{lasting_cluster[2].port}?cluster=1"
    some_dead = f"redis+cluster://127.0.0.1:{tcp_port()},127.0.0.1:{lasting_cluster[1].port}"
    pages = page_of_each_bucket()
    assert opened(one).publish(NAMESPACE, pages, 0) == [True] * 256
    assert opened(some_dead).lookup(NAMESPACE, [d for d, _ in pages])[0] == [r for _, r in pages]


def test_sentinel_names_the_master_and_its_successor(
    make_server: Callable[..., Any], opened: Callable[..., Directory], eventually: Callable[..., Any],
    tcp_port: Callable[[], int],
) -> None:  # fmt: skip
    fast = ("repl-diskless-sync-delay 0", "repl-ping-replica-period 1")
    master = make_server(*fast, "requirepass pw", "masterauth pw", port=tcp_port())
    replica = make_server(
        *fast, "requirepass pw", "masterauth pw", f"replicaof 127.0.0.1 {master.port}", port=tcp_port()
    )
    watched = (
        f"sentinel monitor mine 127.0.0.1 {master.port} 2",
        "sentinel auth-pass mine pw",
        "sentinel down-after-milliseconds mine 300",
        "sentinel failover-timeout mine 3000",
    )
    sentinels = [make_server(*watched, port=tcp_port(), sentinel=True) for _ in range(3)]
    places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
    directory = opened(f"redis+sentinel://:pw@{places}/mine")
    page = (b"\x01" * 16, b"record")
    assert directory.publish(NAMESPACE, [page], 0) == [True]
    copy = replica.client(password="pw")
    eventually(lambda: copy.dbsize() > 0, "replicated")

    def sentinels_know_each_other() -> bool:
        clients = [redis.Redis(port=sentinel.port) for sentinel in sentinels]
        state = [client.sentinel_master("mine") for client in clients]
        return all(s["num-other-sentinels"] == 2 and s["num-slaves"] == 1 for s in state)

    eventually(sentinels_know_each_other, "the sentinels met")
    master.stop()
    with pytest.raises(DirectoryUnavailable):
        directory.lookup(NAMESPACE, [page[0]])

    def works_again() -> bool:
        try:
            second = (b"\x02" * 16, b"second")
            return directory.publish(NAMESPACE, [second], 0) == [True]
        except DirectoryUnavailable:
            return False

    eventually(works_again, "the successor takes over")
    assert directory.lookup(NAMESPACE, [page[0]])[0] == [b"record"]
    assert directory.counters()["topology:failover"] == 1


def test_a_service_that_no_sentinel_knows_is_unavailable(
    make_server: Callable[..., Any], opened: Callable[..., Directory], tcp_port: Callable[[], int]
) -> None:
    sentinel = make_server(port=tcp_port(), sentinel=True)
    directory = opened(f"redis+sentinel://127.0.0.1:{sentinel.port}/unknown", timeout_ms=100)
    with pytest.raises(DirectoryUnavailable):
        directory.lookup(NAMESPACE, [bytes(16)])


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """An authority of our own, and what it says of localhost."""
    run = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert"), "-days", "2"]
    subprocess.run([*run, *names, *files], check=True, capture_output=True)
    return tmp_path


def _knows_tls(server: str) -> bool:
    """Asked for TLS with a certificate that is none, a server complains of that, or says that it was built without."""
    wanted = ["--port", "0", "--tls-port", "1", "--tls-auth-clients", "no"]
    wanted += ["--tls-cert-file", os.devnull, "--tls-key-file", os.devnull]
    said = subprocess.run([server, *wanted], capture_output=True, timeout=60, check=False).stdout
    return b"Failed to load certificate" in said


def test_tls_is_verified(
    certificates: Path, make_server: Callable[..., Any], opened: Callable[..., Directory], all_servers: list[str],
    tcp_port: Callable[[], int],
) -> None:  # fmt: skip
    servers = [server for server in all_servers if _knows_tls(server)]
    if not servers:
        pytest.skip("no server here was built with TLS: apt-get install redis-server")
    port = tcp_port()
    options = [f"tls-port {port}", f"tls-cert-file {certificates}/cert", f"tls-key-file {certificates}/key"]
    options += [f"tls-ca-cert-file {certificates}/cert", "tls-auth-clients no"]
    make_server(*options, which=servers[0])
    url = f"rediss://localhost:{port}"
    directory = opened(f"{url}?ssl_ca_certs={certificates}/cert")
    assert directory.publish(NAMESPACE, [(bytes(16), b"x")], 0) == [True]
    assert directory.lookup(NAMESPACE, [bytes(16)]) == ([b"x"], 0)
    stranger = opened(url)
    with pytest.raises(DirectoryUnavailable, match="certificate"):
        stranger.lookup(NAMESPACE, [bytes(16)])
    plain = opened(f"redis://localhost:{port}", timeout_ms=100)
    with pytest.raises(DirectoryUnavailable):
        plain.lookup(NAMESPACE, [bytes(16)])
