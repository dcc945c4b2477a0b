"""Which instance this is. Root asks no network: DMI, cloud-init's instance data, else a hash of the machine-id. The
reporter adds what the instance metadata service says (version 2 only), which root never believes.

Sources: the EC2 User Guide, "Use the Instance Metadata Service to access instance metadata"; cloud-init's
"Instance metadata" (instance-data.json, `v1`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ..config import Config
from ..host import Host, HostError
from ..model import Seen

_DATA = "/run/cloud-init/instance-data.json"
_DMI = "/sys/class/dmi/id"
_IMDS = "http://169.254.169.254"
#: The session token lives so long; to connect, and between two bytes; for all answers together (seconds).
_TOKEN_SECONDS = 60
_TIMEOUT, _WHOLE = 1.0, 5.0
_CAP = 16 << 10
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def local(host: Host) -> dict[str, Any]:
    """`id` and its `source`, and of `region`, `az`, `type`, `ami` what cloud-init has written down."""
    from ..observe import instance  # much is imported with it, which the reporter needs in no usual case

    found: dict[str, Any] = {}
    try:
        fact = instance.identity(host)
    except HostError:
        fact = None
    if isinstance(fact, Seen):
        found = {"id": fact.value, "source": {"/sys": "dmi", "/etc": "machine-id"}.get(fact.where[:4], "cloud-init")}
    try:
        data = json.loads(host.read(_DATA, cap=1 << 20))
        about = data["v1"]
        meta = data.get("ds", {}).get("meta_data", {})
        said = {
            "region": about.get("region"),
            "az": about.get("availability_zone"),
            "type": meta.get("instance-type"),
            "ami": meta.get("ami-id"),
        }
    except (HostError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return found  # no cloud-init, or no instance data that it can be read from
    return {**found, **_plain(said)}


def _plain(said: Mapping[str, Any]) -> dict[str, str]:
    """What looks like an identifier: anybody in the path may have written it."""
    return {name: text for name, text in said.items() if isinstance(text, str) and _PLAIN.fullmatch(text)}


def endpoint(host: Host, config: Config) -> str:
    """The metadata service's URL; empty where there is none, or it is not to be asked."""
    if config.identity_imds != "auto":
        return "" if config.identity_imds == "off" else config.identity_imds.rstrip("/")
    for name, start in (("sys_vendor", b"amazon ec2"), ("product_uuid", b"ec2"), ("board_asset_tag", b"i-")):
        try:
            if host.read(f"{_DMI}/{name}", cap=4096).strip().lower().startswith(start):
                return _IMDS
        except HostError:
            continue  # not there, or root's only: the next one
    return ""


def imds(url: str, *, signed: bool = False) -> dict[str, Any]:
    """What IMDSv2 says of this instance; empty where it does not answer. `signed`: the document and its signature, too.

    No proxy, no redirect, one second between two bytes and five for all, 16 KiB an answer. A hop limit of 1 keeps
    containers out: so be it.
    """
    import requests
    import urllib3

    from .delivery import TooSlow, deadline, session

    expected = (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, TooSlow, OSError)
    with session() as made:
        try:
            with deadline(_WHOLE):
                found = _ask(made, url, signed=signed)
        except (*expected, ValueError, AttributeError, RecursionError):
            return {}
    return {**found, "source": "imds"} if found else {}


def _ask(session: Any, url: str, *, signed: bool) -> dict[str, Any]:
    headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
    token = _fetch(session, "PUT", f"{url}/latest/api/token", headers)
    # The header takes a token as it came; one with a line break in it is none.
    headers = {"X-aws-ec2-metadata-token": token.strip()}
    text = _fetch(session, "GET", f"{url}/latest/dynamic/instance-identity/document", headers)
    document = json.loads(text)
    found: dict[str, Any] = _plain(
        {
            "id": document.get("instanceId"),
            "az": document.get("availabilityZone"),
            "region": document.get("region"),
            "ami": document.get("imageId"),
            "type": document.get("instanceType"),
            "account": document.get("accountId"),
        }
    )
    if signed:
        path = "/latest/dynamic/instance-identity/rsa2048"
        found.update(document=text, signature=_fetch(session, "GET", url + path, headers))
    return found


def _fetch(session: Any, method: str, url: str, headers: Mapping[str, str]) -> str:
    """Raises requests' exceptions, urllib3's while the body is read, and ValueError."""
    response = session.request(
        method, url, headers=headers, timeout=(_TIMEOUT, _TIMEOUT), allow_redirects=False, stream=True
    )
    try:
        if response.status_code != 200:
            raise ValueError(f"{url}: {response.status_code}")
        body = response.raw.read(_CAP + 1, decode_content=False)
    finally:
        response.close()
    if len(body) > _CAP:
        raise ValueError(f"{url}: an answer over {_CAP} bytes")
    return str(body.decode())
