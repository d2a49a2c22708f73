"""Who a service is, and what may be said of its calls."""

from __future__ import annotations

import enum

import msgspec

WILDCARD = "*"


class SpiffeId(msgspec.Struct, frozen=True):
    """A Consul service identity, `spiffe://<trust domain>/ns/<ns>/dc/<dc>/svc/<service>`."""

    trust_domain: str
    datacenter: str
    service: str
    namespace: str = "default"

    def __str__(self) -> str:
        return (
            f"spiffe://{self.trust_domain}/ns/{self.namespace}"
            f"/dc/{self.datacenter}/svc/{self.service}"
        )

    @classmethod
    def parse(cls, uri: str) -> SpiffeId | None:
        """The identity in `uri`; None when it is not a Consul service identity.

        Newer servers may put `/ap/<partition>` first; a partition other than `default` is
        somebody else's and gives None.
        """
        scheme, _, rest = uri.partition("://")
        trust_domain, *parts = rest.split("/")
        if len(parts) == 8 and parts[:2] == ["ap", "default"]:
            parts = parts[2:]
        if scheme != "spiffe" or not trust_domain or len(parts) != 6:
            return None
        ns_key, namespace, dc_key, datacenter, svc_key, service = parts
        if (ns_key, dc_key, svc_key) != ("ns", "dc", "svc"):
            return None
        if not (namespace and datacenter and service):
            return None
        return cls(trust_domain.lower(), datacenter, service, namespace)


class Action(enum.StrEnum):
    ALLOW = "allow"
    DENY = "deny"
