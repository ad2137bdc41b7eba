"""Hosts that are network namespaces, joined by rails: each a pair of interfaces, or with more than two hosts a
switch, whose rate is set by a token bucket.

Host ``h`` of the bed ``name`` is the namespace ``tent-<name>-<h>``; its end of rail ``r`` is the interface
``rail<r>`` with the address ``10.77.<r>.<h+1>/24``. All of it is read back from the kernel, so a bed that one command
made is found by the next, and nothing has to be remembered in files.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tent_core.errors import InvalidArgument, NameInUse, Unsupported
from tent_core.testbed.tools import CommandFailed, ip, ip_json, need_root, tc

__all__ = ["CUTS", "Counters", "Rail", "Testbed"]

CUTS = {
    "down": "the interface of one host goes down",
    "peer-down": "the interfaces of all other hosts go down",
    "blackhole": "packets vanish in both directions, and nobody is told",
    "one-way": "packets that one host sends vanish, and nobody is told",
    "address": "one host loses its address on the rail",
}
_NOBODY = "02:00:00:00:00:01"  # a hardware address that no interface has
_QUEUE = "20ms"
_SETTLES_S = 3.0  # at most, what the kernel takes to notice that a rail is back
_LEAST_BURST = 128 << 10


@dataclass(frozen=True)
class Rail:
    """One host's end of a rail, as it is now."""

    host: int
    rail: int
    address: str  # empty: cut by "address"
    mbit: float  # 0: not shaped
    up: bool
    silent: bool  # what it sends vanishes


@dataclass(frozen=True)
class Counters:
    """Bytes that an interface has sent and received, headers and all."""

    sent: int
    received: int


class Testbed:
    """A bed that exists. Not for several threads at once, other than `run` and `counters`."""

    __test__ = False  # whatever its name begins with

    def __init__(self, name: str, hosts: int, rails: int) -> None:
        """Of a bed that `up` or `find` has seen."""
        self.name = name
        self.hosts = hosts
        self.rails = rails

    # ---- there and gone

    @classmethod
    def up(
        cls, rates_mbit: Sequence[float], *, hosts: int = 2, mtu: int = 1500, name: str = "bed"
    ) -> Testbed:
        """Makes hosts joined by one rail per rate (Mbit/s, 0: as fast as the machine). Raises NameInUse when there is
        such a bed, PermissionDenied without root. A failure half-way leaves nothing."""
        need_root()
        _check(rates_mbit, hosts, mtu, name)
        bed = cls(name, hosts, len(rates_mbit))
        if _namespaces(name):
            raise NameInUse(f"there is a test bed '{name}': 'tent testbed down --name {name}' takes it away")
        try:
            bed._make(mtu)
            for rail, rate in enumerate(rates_mbit):
                bed.shape(rail, rate)
        except BaseException:
            bed.down()
            raise
        return bed

    @classmethod
    def find(cls, name: str = "bed") -> Testbed:
        """The bed that is there under this name. Raises InvalidArgument when there is none."""
        need_root()
        hosts = len([one for one in _namespaces(name) if not one.endswith("-hub")])
        if not hosts:
            raise InvalidArgument(f"there is no test bed '{name}': 'tent testbed up' makes one")
        links = ip_json("-n", f"tent-{name}-0", "link", "show")
        return cls(name, hosts, sum(link["ifname"].startswith("rail") for link in links))

    def down(self) -> None:
        """Takes namespaces and rails away. Idempotent. Processes inside lose their network, not their life."""
        for namespace in _namespaces(self.name):
            try:
                ip("netns", "del", namespace)
            except CommandFailed:
                if namespace in _namespaces(self.name):
                    raise

    def __enter__(self) -> Testbed:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def _make(self, mtu: int) -> None:
        for host in range(self.hosts):
            ip("netns", "add", self.namespace(host))
            ip("-n", self.namespace(host), "link", "set", "lo", "up")
        if self.hosts > 2:
            ip("netns", "add", self._hub)
        for rail in range(self.rails):
            if self.hosts == 2:
                ends = ("type", "veth", "peer", "name", f"rail{rail}", "netns", self.namespace(1))
                ip("link", "add", f"rail{rail}", "netns", self.namespace(0), *ends)
            else:
                self._make_switch(rail, mtu)
            for host in range(self.hosts):
                self._give_address(rail, host)
                ip("-n", self.namespace(host), "link", "set", f"rail{rail}", "mtu", str(mtu), "up")

    def _make_switch(self, rail: int, mtu: int) -> None:
        hub, switch = self._hub, f"switch{rail}"
        ip("-n", hub, "link", "add", switch, "type", "bridge")
        for host in range(self.hosts):
            port = f"p{rail}h{host}"
            ends = ("type", "veth", "peer", "name", port, "netns", hub)
            ip("link", "add", f"rail{rail}", "netns", self.namespace(host), *ends)
            ip("-n", hub, "link", "set", port, "mtu", str(mtu), "master", switch, "up")
        ip("-n", hub, "link", "set", switch, "mtu", str(mtu), "up")

    def _give_address(self, rail: int, host: int) -> None:
        ip(
            "-n",
            self.namespace(host),
            "addr",
            "replace",
            f"{self.address(host, rail)}/24",
            "dev",
            f"rail{rail}",
        )

    # ---- names

    @property
    def _hub(self) -> str:
        return f"tent-{self.name}-hub"

    def namespace(self, host: int) -> str:
        if not 0 <= host < self.hosts:
            raise InvalidArgument(f"there is no host {host}: the bed has hosts 0 to {self.hosts - 1}")
        return f"tent-{self.name}-{host}"

    def address(self, host: int, rail: int) -> str:
        """The address that this end of the rail has, or had before it was cut."""
        self._rail(rail)
        return f"10.77.{rail}.{host + 1}"

    def addresses(self, host: int) -> list[str]:
        return [self.address(host, rail) for rail in range(self.rails)]

    def _rail(self, rail: int) -> str:
        if not 0 <= rail < self.rails:
            raise InvalidArgument(f"there is no rail {rail}: the bed has rails 0 to {self.rails - 1}")
        return f"rail{rail}"

    # ---- rates and faults

    def shape(self, rail: int, mbit: float, *, host: int | None = None) -> None:
        """Sets the rate of both directions (``host``: of what that host sends only). 0: as fast as the machine."""
        if mbit < 0:
            raise InvalidArgument(f"a rate must not be negative: {mbit} Mbit/s")
        device = self._rail(rail)
        for at in range(self.hosts) if host is None else [host]:
            namespace = self.namespace(at)
            if mbit == 0:
                if "tbf" in tc(namespace, "qdisc", "show", "dev", device):
                    tc(namespace, "qdisc", "del", "dev", device, "root")
                continue
            burst = max(_LEAST_BURST, int(mbit * 1e6 / 8 / 1000))
            bucket = ("tbf", "rate", f"{int(mbit * 1000)}kbit", "burst", str(burst), "latency", _QUEUE)
            tc(namespace, "qdisc", "replace", "dev", device, "root", "handle", "1:", *bucket)

    def cut(self, rail: int, how: str = "down", *, host: int = 0) -> None:
        """Breaks a rail; `CUTS` says how it can be done. ``host``: whose end, where that matters."""
        if how not in CUTS:
            raise InvalidArgument(f"'{how}' is no way to cut a rail: {', '.join(CUTS)}")
        device, others = self._rail(rail), [at for at in range(self.hosts) if at != host]
        self.namespace(host)  # there is such a host
        if how == "down":
            self._set_link(device, [host], "down")
        elif how == "peer-down":
            self._set_link(device, others, "down")
        elif how == "address":
            ip("-n", self.namespace(host), "addr", "flush", "dev", device)
        else:
            self._lose(rail, range(self.hosts) if how == "blackhole" else [host])

    def _set_link(self, device: str, hosts: Iterable[int], state: str) -> None:
        for host in hosts:
            ip("-n", self.namespace(host), "link", "set", device, state)

    def _lose(self, rail: int, senders: Iterable[int]) -> None:
        """What these hosts send on the rail goes to a hardware address that nobody has. The others' addresses on other
        rails too: a host answers for them on every rail."""
        for sender in senders:
            others = [to for to in range(self.hosts) if to != sender]
            lost = [self.address(to, rail) for to in others]
            lost += [address for to in others for address in self.addresses(to) if address not in lost]
            for address in lost:
                neighbour = (address, "lladdr", _NOBODY, "dev", self._rail(rail))
                ip("-n", self.namespace(sender), "neigh", "replace", *neighbour, "nud", "permanent")

    def heal(self, rail: int) -> None:
        """Undoes every cut of the rail, and returns when its ends see each other. Its rate stays as it was set last."""
        device = self._rail(rail)
        for host in range(self.hosts):
            ip("-n", self.namespace(host), "link", "set", device, "up")
            self._give_address(rail, host)
            for neighbour in self._lost(host, rail):
                ip("-n", self.namespace(host), "neigh", "del", neighbour, "dev", device)
        until = time.monotonic() + _SETTLES_S
        while not all(self._works(host, rail) for host in range(self.hosts)) and time.monotonic() < until:
            time.sleep(0.001)

    def _works(self, host: int, rail: int) -> bool:
        """The kernel notices up to a second late that the other end of a pair came up, and drops packets until then."""
        link = ip_json("-n", self.namespace(host), "link", "show", "dev", self._rail(rail))[0]
        return "LOWER_UP" in link["flags"] and link["operstate"] == "UP"

    def _lost(self, host: int, rail: int) -> list[str]:
        """Addresses to which this host's packets vanish."""
        known = ip_json("-n", self.namespace(host), "neigh", "show", "dev", self._rail(rail))
        return [one["dst"] for one in known if one.get("lladdr") == _NOBODY]

    # ---- looking

    def counters(self, host: int) -> list[Counters]:
        """Per rail, what the host's interface has carried."""
        found = {}
        for link in ip_json("-n", self.namespace(host), "-s", "link", "show"):
            numbers = link.get("stats64") or link["stats"]
            found[link["ifname"]] = Counters(numbers["tx"]["bytes"], numbers["rx"]["bytes"])
        return [found[f"rail{rail}"] for rail in range(self.rails)]

    def show(self) -> list[Rail]:
        """Every end of every rail."""
        rows = []
        for host in range(self.hosts):
            namespace = self.namespace(host)
            links = {link["ifname"]: link for link in ip_json("-n", namespace, "addr", "show")}
            for rail in range(self.rails):
                link = links[f"rail{rail}"]
                local = [one["local"] for one in link["addr_info"] if one["family"] == "inet"]
                rate = _rate(tc(namespace, "qdisc", "show", "dev", f"rail{rail}"))
                silent = any(self._lost(host, rail))
                state = (rate, "UP" in link["flags"], silent)
                rows.append(Rail(host, rail, local[0] if local else "", *state))
        return rows

    # ---- using

    def environment(self, host: int) -> dict[str, str]:
        """What makes a process a node of this host. Namespaces of one machine share its boot id, its unix sockets and
        its memory: without an identity of its own a node would pass everything through shared memory, unseen."""
        return {
            "TENT_NODE_HOST_IDENTITY": f"{self.namespace(host)}",
            "TENT_NODE_BIND": ",".join(self.addresses(host)),
        }

    def run(self, host: int, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Starts a command on a host, as `subprocess.Popen` with its options would."""
        environment = {**(options.pop("env", None) or os.environ), **self.environment(host)}
        inside = ["ip", "netns", "exec", self.namespace(host), *command]
        return subprocess.Popen(inside, env=environment, **options)


def _check(rates_mbit: Sequence[float], hosts: int, mtu: int, name: str) -> None:
    if not re.fullmatch(r"[a-z0-9]{1,12}", name):
        raise InvalidArgument(f"a test bed's name is 1 to 12 small letters and digits, not {name!r}")
    if not 2 <= hosts <= 64:
        raise InvalidArgument(f"a test bed has 2 to 64 hosts, not {hosts}")
    if not 1 <= len(rates_mbit) <= 64:
        raise InvalidArgument(f"a test bed has 1 to 64 rails, not {len(rates_mbit)}")
    if not 576 <= mtu <= 65535:
        raise InvalidArgument(f"an MTU lies between 576 and 65535, not at {mtu}")
    if not os.path.exists("/proc/self/ns/net"):
        raise Unsupported("this kernel has no network namespaces")


def _namespaces(name: str) -> list[str]:
    """Of one bed, the hub last."""
    pattern = re.compile(rf"tent-{re.escape(name)}-(\d+|hub)")
    found = [one["name"] for one in ip_json("netns", "list")]
    ours = [(match[1], one) for one in found if (match := pattern.fullmatch(one))]
    return [one for _, one in sorted(ours, key=lambda item: (item[0] == "hub", item[0].zfill(4)))]


def _rate(text: str) -> float:
    """The rate in what ``tc qdisc show`` prints, in Mbit/s."""
    match = re.search(r"tbf .*?rate (\d+(?:\.\d+)?)([KMG]?)bit", text)
    return float(match[1]) * {"": 1e-6, "K": 1e-3, "M": 1.0, "G": 1e3}[match[2]] if match else 0.0
