# Take csyncsync off a host: salt web9 state.apply csyncsync.absent. Synchronized files and the package stay.
Changes are no longer watched for:
  beacon.absent:
    - name: csyncsync
    - save: True

csync2 no longer listens:
  service.dead:
    - name: csync2.socket
    - enable: False
{%- for group in (salt['csyncsync.installed']() if 'csyncsync.installed' in salt else []) %}

The group {{ group }} is checked no more:
  service.dead:
    - name: csyncsync-full@{{ group }}.timer
    - enable: False

The group {{ group }} is no longer on this host:
  csyncsync.group_absent:
    - name: {{ group | tojson }}
{%- endfor %}

The other hosts forget this host:
  module.run:
    - mine.delete:
      - fun: csyncsync.member
