"""The schema: every setting of TENT with its type, default, unit, limits and one line of help.

This is the only place where a setting is defined. The engine, the store, the directory and the connectors read the
`Config` tree; the documentation (docs/config.md) is made from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from tent_core.config.values import Kind, format_size, parse_size

__all__ = [
    "SECTIONS",
    "ClusterConfig",
    "Config",
    "DirectoryConfig",
    "Effective",
    "EngineConfig",
    "LogConfig",
    "NativeValue",
    "NodeConfig",
    "RailsConfig",
    "RdmaConfig",
    "RecorderConfig",
    "Setting",
    "ShmConfig",
    "StoreConfig",
    "TcpConfig",
    "settings",
    "show_value",
]

NativeValue: TypeAlias = int | str | bool | list[str] | dict[str, int]

_HUGE = 1 << 50
_DAY_MS = 86_400_000


@dataclass(frozen=True)
class Setting:
    """What the schema knows of one key."""

    kind: Kind
    help: str
    unit: str = ""
    low: int | None = None
    high: int | None = None
    choices: tuple[str, ...] = ()
    secret: bool = False
    url: bool = False


def _make(default: object, meta: Setting) -> Any:
    return field(default=default, metadata={"setting": meta}, repr=not (meta.secret or meta.url))


def text(
    default: str, help: str, *, choices: tuple[str, ...] = (), secret: bool = False, url: bool = False
) -> Any:
    return _make(default, Setting(Kind.text, help, choices=choices, secret=secret, url=url))


def integer(default: int, unit: str, help: str, *, low: int = 0, high: int = 2**31 - 1) -> Any:
    return _make(default, Setting(Kind.integer, help, unit=unit, low=low, high=high))


def size(default: str, help: str, *, low: str = "1", high: int = _HUGE) -> Any:
    return _make(parse_size(default), Setting(Kind.size, help, unit="bytes", low=parse_size(low), high=high))


def flag(default: bool, help: str) -> Any:
    return _make(default, Setting(Kind.flag, help))


def names(help: str) -> Any:
    return _make((), Setting(Kind.names, help))


@dataclass(frozen=True)
class ClusterConfig:
    id: str = text("default", "Name of the cluster. Nodes of another cluster are refused.")
    secret: str = text("", "Secret that all nodes of the cluster share. Prefer secret_file.", secret=True)
    secret_file: str = text("", "File that holds the secret; readable by its owner only.")


@dataclass(frozen=True)
class NodeConfig:
    name: str = text(
        "", "Name of this node in the directory; empty: made from host, process and random bits."
    )
    host_identity: str = text("", "Nodes with the same identity share memory; empty: the kernel's boot id.")
    bind: tuple[str, ...] = names(
        "Addresses or interfaces to listen on; empty: every rail when there is a secret, else loopback."
    )
    advertise: tuple[str, ...] = names("Addresses told to peers instead of those bound (NAT, containers).")
    port: int = integer(0, "", "TCP port to listen on; 0: any free one.", high=65535)


@dataclass(frozen=True)
class RailsConfig:
    include: tuple[str, ...] = names(
        "Interfaces to use as rails, by name or pattern (eth*); empty: all. Where node.bind names none."
    )
    exclude: tuple[str, ...] = _make(
        ("docker*", "br-*", "virbr*", "veth*", "cni*", "flannel*", "cali*", "tun*", "wg*"),
        Setting(Kind.names, "Interfaces that are no rails, by name or pattern."),
    )
    rates: tuple[str, ...] = names(
        "What rails carry, where you know it: eth0=25Gbit. Of others the link speed is believed until use shows it."
    )
    share: bool = flag(
        False,
        "Engines of one host and user tell each other what they have in flight over each rail, where all of them are "
        "told to. Loopback is not shared.",
    )


@dataclass(frozen=True)
class DirectoryConfig:
    url: str = text(
        "",
        "redis://, rediss://, unix://, redis+cluster:// or redis+sentinel:// URL; empty: embedded.",
        url=True,
    )
    timeout_ms: int = integer(
        100, "ms", "Bound of one directory operation; beyond it look-ups miss.", low=1, high=60_000
    )
    node_ttl_ms: int = integer(
        10_000, "ms", "A node's record disappears so long after its last sign of life.", low=500, high=_DAY_MS
    )
    embedded_dir: str = text(
        "", "Folder of the embedded directory; empty: one under the user's runtime folder."
    )


@dataclass(frozen=True)
class StoreConfig:
    capacity: int = size("1GiB", "Memory that this node gives to cached pages; 0: none.", low="0")
    extent: int = size(
        "64MiB", "Memory is filled, lent and reclaimed in pieces of this size.", low="1MiB", high=16 << 30
    )
    prefault: bool = flag(True, "Touch the memory in the background, so that the first put is not slow.")
    check: bool = flag(True, "Verify the page check of every page read. Off only for measurements.")
    ttl_s: int = integer(
        0, "s", "Pages in this node's memory are misses so long after they came; 0: no limit.", high=_DAY_MS
    )
    tenant: str = text(
        "", "Whose pages this process puts and finds; other tenants' pages are never found. Empty: nobody's."
    )
    tenant_quota_percent: int = integer(
        0, "%", "Share of this node's memory that one tenant's pages may take; 0: any.", high=100
    )
    place: str = text(
        "auto",
        "Where puts go: own: this process's memory; node: the 'tent node' of this host; auto: that where there is one, "
        "else own.",
        choices=("auto", "own", "node"),
    )
    ssd_path: str = text(
        "", "Folder for pages that leave this node's memory, on a disk of this host; empty: they are dropped."
    )
    ssd_capacity: int = size("16GiB", "Room taken in store.ssd_path, all of it at the start.", low="1MiB")
    ssd_timeout_ms: int = integer(
        1_000, "ms", "A page that the disk does not bring in so long is a miss.", low=1, high=600_000
    )
    ssd_io: str = text(
        "auto",
        "How the disk is used: io_uring where the kernel allows it, else threads; or one of them.",
        choices=("auto", "uring", "threads"),
    )
    fan_out: int = integer(
        0,
        "",
        "A page of another host that is read so often lately gets a copy on this host; 0: none does.",
        high=1_000_000,
    )
    replicas: int = integer(
        1, "", "Copies of each page that this node puts into its own memory, on as many hosts.", low=1, high=8
    )


@dataclass(frozen=True)
class EngineConfig:
    deadline_ms: int = integer(30_000, "ms", "Deadline of a transfer that names none.", low=1, high=_DAY_MS)
    session_lease_ms: int = integer(
        3_000, "ms", "A peer that cannot renew for so long is fenced off.", low=100, high=600_000
    )
    heartbeat_ms: int = integer(
        10, "ms", "Between heartbeats to a peer with work in flight.", low=1, high=60_000
    )
    idle_heartbeat_ms: int = integer(
        1_000, "ms", "Between heartbeats to a peer used lately.", low=1, high=600_000
    )
    spin_us: int = integer(
        50,
        "us",
        "How long a waiter, and the progress thread after news, spins before it sleeps.",
        high=1_000_000,
    )
    copy_threads: int = integer(
        0, "", "Threads that copy large ranges; 0: from the number of cores.", high=256
    )
    inline_bytes: int = size(
        "256KiB", "Up to this size a memory copy is done by the submitting thread.", low="0", high=1 << 30
    )
    slice_min: int = size("64KiB", "Smallest slice of a larger transfer.", low="4KiB", high=1 << 30)
    slice_max: int = size("4MiB", "Largest slice.", low="4KiB", high=1 << 30)
    policy: str = text(
        "water",
        "How slices are spread. Others than water are for comparison: 'tent bench rails'. Fixed: by 'rails.rates'.",
        choices=("water", "robin", "paper", "fixed"),
    )
    hedge_percent: int = integer(
        0,
        "",
        "Of the bytes, so many may move early from a link that is late to one that is idle; 0: none.",
        high=100,
    )
    quarantine: int = size(
        "64MiB", "Memory lent to one writer that may wait for proof that it is gone.", low="0"
    )
    connect_timeout_ms: int = integer(
        2_000, "ms", "Bound of connecting to a peer, handshake included.", low=1, high=600_000
    )


@dataclass(frozen=True)
class TcpConfig:
    enabled: bool = flag(True, "Use TCP.")
    congestion: str = text("cubic", "Congestion control of bulk connections; empty: the kernel's default.")
    sndbuf: int = size("4MiB", "Kernel send buffer of a bulk connection.", low="4KiB", high=1 << 30)
    connections: int = integer(
        1,
        "",
        "Bulk connections between two rails, each with its own health; more help where one stream cannot fill a rail.",
        low=1,
        high=64,
    )
    idle_close_ms: int = integer(
        60_000, "ms", "Connections for data are closed after so long without work.", low=1, high=_DAY_MS
    )
    max_connections: int = integer(
        0,
        "",
        "Above so many connections the one that has been idle longest is closed, and made again on use; "
        "0: half of the open files that the process may have (`ulimit -n`).",
        low=0,
        high=1 << 20,
    )
    rcvbuf: int = size("4MiB", "Kernel receive buffer of a bulk connection.", low="4KiB", high=1 << 30)
    notsent_lowat: int = size(
        "256KiB",
        "Unsent bytes that a socket may hold; bytes in it are bound to its link.",
        low="4KiB",
        high=1 << 30,
    )


@dataclass(frozen=True)
class ShmConfig:
    enabled: bool = flag(True, "Use shared memory between nodes of one host.")
    pull: bool = flag(
        True, "Read private memory of same-host peers with process_vm_readv where the kernel allows it."
    )


@dataclass(frozen=True)
class RdmaConfig:
    enabled: bool = flag(
        True,
        "Use RDMA (RoCE v2) on rails whose address an RDMA port has, towards peers that have one, too.",
    )
    mtu: int = integer(0, "bytes", "Largest RoCE packet: 256 to 4096; 0: what the port has.", high=4096)
    traffic_class: int = integer(0, "", "Traffic class of the packets: the DSCP, shifted by two.", high=255)
    service_level: int = integer(0, "", "Service level of the packets.", high=15)
    pkey_index: int = integer(0, "", "Index of the partition key in the port's table.", high=65535)
    queue_depth: int = integer(
        256, "", "Requests that one queue pair may have under way.", low=16, high=16_384
    )
    timeout: int = integer(
        14, "", "The adapter sends again after 4.096 us * 2^this: 14 is 67 ms.", low=8, high=24
    )
    retry_count: int = integer(
        3,
        "",
        "So often, before it gives a queue pair up. TENT gives up earlier; 7 would mean for ever.",
        high=6,
    )


@dataclass(frozen=True)
class LogConfig:
    level: str = text(
        "warning", "Least severe messages to log.", choices=("debug", "info", "warning", "error")
    )
    interval_s: int = integer(
        10, "s", "A message that repeats is logged at most once in so long.", high=86_400
    )


@dataclass(frozen=True)
class RecorderConfig:
    memory: int = size(
        "4MiB",
        "Memory of the flight recorder; what is older is written over. 0: none.",
        low="0",
        high=1 << 30,
    )
    dir: str = text("", "Folder that a recording goes to when a link goes down; empty: none is written then.")
    interval_s: int = integer(60, "s", "At most one recording of a fault is written in so long.", high=86_400)
    keep: int = integer(
        16, "", "So many recordings are kept in recorder.dir, the newest.", low=1, high=10_000
    )
    signal: bool = flag(
        False,
        "Write a recording on SIGUSR2 (to recorder.dir, else to the temporary folder), where nobody handles it yet.",
    )


class Effective(NamedTuple):
    """One row of the effective configuration, fit to print: secrets and passwords are replaced."""

    key: str
    value: str
    origin: str
    unit: str
    help: str


@dataclass(frozen=True)
class Config:
    """The whole configuration: immutable, safe to share between threads. Sizes are bytes, durations as named."""

    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    node: NodeConfig = field(default_factory=NodeConfig)
    rails: RailsConfig = field(default_factory=RailsConfig)
    directory: DirectoryConfig = field(default_factory=DirectoryConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    tcp: TcpConfig = field(default_factory=TcpConfig)
    shm: ShmConfig = field(default_factory=ShmConfig)
    rdma: RdmaConfig = field(default_factory=RdmaConfig)
    log: LogConfig = field(default_factory=LogConfig)
    recorder: RecorderConfig = field(default_factory=RecorderConfig)
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def get(self, key: str) -> Any:
        """The value of ``"section.key"``. Raises ``KeyError`` for a key that the schema does not have."""
        section, _, name = key.partition(".")
        if key not in settings():
            raise KeyError(key)
        return getattr(getattr(self, section), name)

    def origin(self, key: str) -> str:
        """Where the value of ``key`` came from: ``default``, a file, ``argument`` or ``environment NAME``."""
        return self.origins.get(key, "default")

    def effective(self) -> list[Effective]:
        """Every setting with its value and origin, in the order of the schema, secrets replaced."""
        return [
            Effective(key, show_value(meta, self.get(key)), self.origin(key), meta.unit, meta.help)
            for key, meta in settings().items()
        ]

    def native(self) -> dict[str, NativeValue]:
        """What the native engine is given: flat ``section.key``; sizes in bytes, durations in their unit.

        ``cluster.secret`` is the resolved secret (its file read, or the user's own key, made when there is none);
        ``node.host_identity`` is filled in; ``node.bind`` is the list of addresses to listen on, one a rail, or
        empty: the engine looks for rails itself. Contains
        the secret: never print it. Raises ConfigError when the secret's file cannot be used.
        """
        from tent_core.config.resolve import native_values

        return native_values(self)


SECTIONS: dict[str, type] = {
    "cluster": ClusterConfig,
    "node": NodeConfig,
    "rails": RailsConfig,
    "directory": DirectoryConfig,
    "store": StoreConfig,
    "engine": EngineConfig,
    "tcp": TcpConfig,
    "shm": ShmConfig,
    "rdma": RdmaConfig,
    "log": LogConfig,
    "recorder": RecorderConfig,
}


def _index() -> dict[str, Setting]:
    return {
        f"{section}.{item.name}": item.metadata["setting"]
        for section, cls in SECTIONS.items()
        for item in dataclasses.fields(cls)
    }


_SETTINGS = _index()


def settings() -> Mapping[str, Setting]:
    """``section.key`` -> what the schema knows of it, in the order of the documentation."""
    return _SETTINGS


def hide_password(url: str) -> str:
    """A URL without its user and password, fit to print."""
    scheme, mark, rest = url.partition("://")
    if mark and "@" in rest:
        return f"{scheme}://***@{rest.rsplit('@', 1)[1]}"
    return url


def show_value(meta: Setting, value: Any) -> str:
    """A value as one would write it in a file, secrets and passwords replaced."""
    if meta.secret:
        return "(set, not shown)" if value else ""
    if meta.url:
        return hide_password(str(value))
    if meta.kind is Kind.size:
        return format_size(value)
    if meta.kind is Kind.flag:
        return "true" if value else "false"
    if meta.kind is Kind.names:
        return ",".join(value)
    return str(value)
