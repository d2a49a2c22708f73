"""Two releases of the agent on one host: the one that was rolled out, and its copy by another name.

Switching is what the role does for an upgrade and for a rollback: the link `current`, then a
restart of the unit. The copy has its own version, environment and files.
"""

from __future__ import annotations

from tests.support.hosts import Host, eventually

HOME = "/opt/fleetmesh"
SUFFIX = ".chaos"

_COPY = """\
set -e
cd {home}/releases
[ -e {new}/.complete ] && exit 0
rm -rf {new} && cp -a {old} {new} && rm {new}/.complete
grep -rlI {home}/releases/{old} {new}/bin {new}/pyvenv.cfg \
  | xargs sed -i 's#{home}/releases/{old}#{home}/releases/{new}#g'
sed -i 's/^Version: .*/Version: {new}/' {new}/lib/*/site-packages/fleetmesh-*.dist-info/METADATA
echo {new} > {new}/.complete
"""


def release_of(host: Host) -> str:
    return host.output(f"basename $(readlink {HOME}/current)")


def other_release(host: Host) -> str:
    """The release that `current` is not; it is made if there is none."""
    now = release_of(host)
    if now.endswith(SUFFIX):
        return now.removesuffix(SUFFIX)
    host.run(_COPY.format(home=HOME, old=now, new=now + SUFFIX), timeout=120)
    return now + SUFFIX


def restore(host: Host) -> None:
    """Run what was rolled out, and forget the copy."""
    now = release_of(host)
    if now.endswith(SUFFIX):
        switch_release(host, now.removesuffix(SUFFIX))
    host.run(f"rm -rf {HOME}/releases/*{SUFFIX}")


def switch_release(host: Host, release: str) -> str:
    """Run this one; the release before. Raises AssertionError if the agent that serves then is
    another."""
    before = release_of(host)
    host.run(
        f"ln -sfn releases/{release} {HOME}/current.new && mv -T {HOME}/current.new {HOME}/current "
        "&& systemctl restart fleetmesh-agent"
    )
    host.wait_ready()
    eventually(lambda: host.status()["version"] == release, 10, f"{host.name} runs {release}")
    return before
