"""What the tests on hosts call by name: the hosts, and the places that all tests know."""

HOSTS = ("web1", "web2", "web3")
SHARED = "/var/www/shared"
PILLAR = "/srv/pillar/csyncsync.sls"
