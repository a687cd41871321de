# csync2 listens; units push what nobody else has pushed (group_present enables a group's timer).
csync2's socket takes any number of connections in a row:
  file.managed:
    - name: /etc/systemd/system/csync2.socket.d/csyncsync.conf
    - source: salt://csyncsync/files/csync2.socket.conf.jinja
    - template: jinja
    - makedirs: True

csync2's connections leave nothing behind, and can be seen:
  file.managed:
    - name: /etc/systemd/system/csync2@.service.d/csyncsync.conf
    - source: salt://csyncsync/files/csync2@.service.conf
    - makedirs: True

{%- for unit in ['csync2-died@.service', 'csyncsync-push@.service', 'csyncsync-watch.service', 'csyncsync-full@.service', 'csyncsync-full@.timer',
      'csyncsync-action@.path', 'csyncsync-action@.service'] %}

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
      - file: csync2's connections leave nothing behind, and can be seen

csync2 listens:
  service.running:
    - name: csync2.socket
    - enable: True
    - require:
      - module: systemd reads its units again
    - watch:
      - file: csync2's socket takes any number of connections in a row

Changes are watched for while there is no master:
  service.running:
    - name: csyncsync-watch
    - enable: True
    - require:
      - module: systemd reads its units again
    - watch:
      - file: The unit csyncsync-watch.service is there
