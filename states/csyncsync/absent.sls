# Take csyncsync off a host that has left its groups' members: salt web9 state.apply csyncsync.absent
# Synchronized files, the certificate and the package stay.
Changes are no longer watched for:
  beacon.absent:
    - name: csyncsync
    - save: True

Nothing listens or watches any more:
  service.dead:
    - names:
      - csync2.socket
      - csyncsync-server
      - csyncsync-watch
    - enable: False
{%- for group in (salt['csyncsync.installed']() if 'csyncsync.installed' in salt else []) %}

The group {{ group }} is no longer on this host:
  csyncsync.group_absent:
    - name: {{ group | tojson }}
{%- endfor %}

The units of csyncsync are gone:
  file.absent:
    - names:
      - /etc/systemd/system/csyncsync-server.service
      - /etc/systemd/system/csyncsync-push@.service
      - /etc/systemd/system/csyncsync-watch.service
      - /etc/systemd/system/csyncsync-full@.service
      - /etc/systemd/system/csyncsync-full@.timer
      - /etc/systemd/system/csyncsync-action@.path
      - /etc/systemd/system/csyncsync-action@.service

What the watcher and the server were told and have left is gone:
  file.absent:
    - names:
      - /var/lib/csyncsync/salt.env
      - /var/lib/csyncsync/csync2.unconfined
      - /var/lib/csyncsync/csync2.received
      - /var/lib/csyncsync/beacon.json
      - /var/lib/csyncsync/watcher.lock
      - /var/lib/csyncsync/watcher.left
{%- set metrics = '/var/lib/csyncsync/metrics.prom' %}
{%- if salt['file.is_link'](metrics) %}

Its metrics are gone:
  file.absent:
    - names:
      - {{ metrics }}
      - {{ salt['file.readlink'](metrics) | tojson }}
{%- endif %}

{%- if salt['mine.get'](grains['id'], 'csyncsync.member') %}

The mine forgets this host:
  module.run:
    - mine.delete:
      - fun: csyncsync.member
{%- endif %}
