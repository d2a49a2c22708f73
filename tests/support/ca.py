"""A certificate authority as Consul's: EC P-256, leaves with one SPIFFE URI and no DNS name."""

from __future__ import annotations

import datetime
import itertools

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleetmesh.model.identity import SpiffeId
from fleetmesh.model.snapshot import Leaf

TRUST_DOMAIN = "11111111-2222-3333-4444-555555555555.consul"

_DAY = datetime.timedelta(days=1)
_serials = itertools.count(1000)


def spiffe(service: str, trust_domain: str = TRUST_DOMAIN, datacenter: str = "dc1") -> SpiffeId:
    return SpiffeId(trust_domain, datacenter, service)


class Authority:
    """One root, or with a `parent` an intermediate below it, as a secondary datacenter has one.
    `root` is the root's certificate in PEM, `between` those that stand between it and the leaves.
    """

    def __init__(self, trust_domain: str = TRUST_DOMAIN, parent: Authority | None = None) -> None:
        self.trust_domain = trust_domain
        self._key = ec.generate_private_key(ec.SECP256R1())
        title = "Consul CA" if parent is None else "Consul CA of a secondary datacenter"
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
        now = datetime.datetime.now(datetime.UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(parent._name if parent else self._name)
            .public_key(self._key.public_key())
            .serial_number(next(_serials))
            .not_valid_before(now - _DAY)
            .not_valid_after(now + 365 * _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]
                ),
                critical=False,
            )
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(parent._key if parent else self._key, hashes.SHA256())
        )
        own = self._certificate.public_bytes(serialization.Encoding.PEM).decode()
        self.root: str = parent.root if parent else own
        self.between: str = own + parent.between if parent else ""

    def leaf(
        self, service: str, *, uri: str | None = None, life: datetime.timedelta = 3 * _DAY
    ) -> Leaf:
        """A leaf of `service`. `uri` replaces its SPIFFE ID, a negative `life` is over already."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        begin = now - _DAY
        end = now + life
        serial = next(_serials)
        name = uri if uri is not None else str(spiffe(service, self.trust_domain))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(serial)
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name)]),
                critical=True,
            )
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
                ),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return Leaf(
            serial=f"{serial:x}",
            not_before=begin.timestamp(),
            not_after=end.timestamp(),
            chain=certificate.public_bytes(serialization.Encoding.PEM).decode() + self.between,
            key=key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ).decode(),
        )
