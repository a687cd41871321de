# csync2 listens, and a timer pushes what nobody else has pushed.
csync2's socket takes any number of connections in a row:
  file.managed:
    - name: /etc/systemd/system/csync2.socket.d/csyncsync.conf
    - source: salt://csyncsync/files/csync2.socket.conf
    - makedirs: True

{%- for unit in ['csyncsync-push@.service', 'csyncsync-full@.service', 'csyncsync-full@.timer'] %}

The unit {{ unit }} is there:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}
    - source: salt://csyncsync/files/{{ unit }}.jinja
    - template: jinja
    - onchanges_in:
      - module: systemd reads its units again
{%- endfor %}

systemd reads its units again:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: csync2's socket takes any number of connections in a row

csync2 listens:
  service.running:
    - name: csync2.socket
    - enable: True
    - require:
      - file: csync2's socket takes any number of connections in a row

{%- set groups = (pillar.get('csyncsync') or {}).get('groups') %}
{%- for group in (groups if groups is mapping else {}) if group | string | regex_match('^([a-z0-9]+)$') %}

The group {{ group }} is checked wholly now and then:
  service.running:
    - name: csyncsync-full@{{ group }}.timer
    - enable: True
{%- endfor %}
