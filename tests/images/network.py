"""The networks of a Compose file as Linux network namespaces, one per service, joined by bridges.

A bridge is what an `internal` network of Docker is, without Docker's own address on it: no host, no gateway, no DNS.
"""

import subprocess
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["Port", "commands", "hosts", "plan", "remove", "set_up"]


class Port(NamedTuple):
    """The place of a service in a network.

    Attributes:
        network: Name in the Compose file.
        service: Name in the Compose file.
        address: IPv4 address with the length of its prefix.
        device: Name of the interface in the service's namespace.
    """

    network: str
    service: str
    address: str
    device: str


def plan(compose: Mapping[str, Any]) -> list[Port]:
    """Give every service an address in each of its networks; a service without networks gets none.

    Raises:
        ValueError: A service names a network that does not exist or is not internal.
    """
    ports = []
    for number, network in enumerate(sorted(compose["networks"])):
        if compose["networks"][network] != {"internal": True}:
            raise ValueError(f"network {network} is not internal: only such networks can be built here.")
        members = sorted(
            name for name, service in compose["services"].items() if network in service.get("networks", ())
        )
        for place, service in enumerate(members, start=2):
            ports.append(Port(network, service, f"10.77.{number}.{place}/24", f"n{number}"))
    for name, service in compose["services"].items():
        if missing := set(service.get("networks", ())) - set(compose["networks"]):
            raise ValueError(f"service {name} names the network {missing.pop()}, which the file does not define.")
    return ports


def hosts(ports: list[Port], service: str) -> str:
    """The file /etc/hosts of a service: itself, and each member of its networks by name, as Docker's DNS answers."""
    networks = {port.network for port in ports if port.service == service}
    lines = [f"{port.address.split('/')[0]} {port.service}" for port in ports if port.network in networks]
    return "\n".join(["127.0.0.1 localhost", *lines]) + "\n"


def commands(ports: list[Port], services: Mapping[str, Any], prefix: str) -> list[list[str]]:
    """The calls of ip and sysctl that make the networks.

    Args:
        ports: From `plan`.
        services: The services of the Compose file.
        prefix: Start of the namespaces' names; that of a service ends in its name, the joining one in `switch`.
    """
    switch = f"{prefix}switch"
    inside = {name: ["ip", "netns", "exec", f"{prefix}{name}"] for name in ["switch", *services]}
    calls = [["ip", "netns", "add", f"{prefix}{name}"] for name in inside]
    calls += [[*inside[name], "ip", "link", "set", "lo", "up"] for name in services]
    for network in sorted({port.network for port in ports}):
        number = next(port.device for port in ports if port.network == network)
        calls.append([*inside["switch"], "ip", "link", "add", f"b{number}", "type", "bridge"])
        calls.append([*inside["switch"], "ip", "link", "set", f"b{number}", "up"])
    for index, port in enumerate(ports):
        here, there = inside[port.service], inside["switch"]
        peer = ["peer", "name", f"v{index}", "netns", switch]
        calls.append([*here, "ip", "link", "add", port.device, "type", "veth", *peer])
        calls.append([*here, "ip", "address", "add", port.address, "dev", port.device])
        calls.append([*here, "ip", "link", "set", port.device, "up"])
        calls.append([*there, "ip", "link", "set", f"v{index}", "master", f"b{port.device}", "up"])
    for name, service in services.items():
        for key, value in service.get("sysctls", {}).items():
            calls.append([*inside[name], "sysctl", "-qw", f"{key}={value}"])
    return calls


def set_up(ports: list[Port], services: Mapping[str, Any], prefix: str) -> None:
    """Make the namespaces and their links."""
    for call in commands(ports, services, prefix):
        subprocess.run(call, check=True)


def remove(prefix: str) -> None:
    """Remove the namespaces whose names start with `prefix`."""
    lines = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout.splitlines()
    for name in (line.split()[0] for line in lines if line.startswith(prefix)):
        subprocess.run(["ip", "netns", "delete", name], check=True)
