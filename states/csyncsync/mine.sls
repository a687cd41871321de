include:
  - csyncsync.certificate

The other hosts know this host:
  csyncsync.member_published:
    - require:
      - csyncsync: This host has a certificate for csync2
