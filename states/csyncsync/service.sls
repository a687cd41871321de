# csync2 is run for its peers; units push what nobody else has pushed (group_present enables a group's timer).
csync2 has a group of its own:
  group.present:
    - name: csync2
    - gid: {{ salt['csyncsync.user_number']() }}

csync2 has a user of its own:
  user.present:
    - name: csync2
    - uid: {{ salt['csyncsync.user_number']() }}
    - gid: {{ salt['csyncsync.user_number']() }}
    - fullname: csync2 while it works on files
    - home: /nonexistent
    - createhome: False
    - shell: /usr/sbin/nologin
    - require:
      - group: csync2 has a group of its own

What is known of the groups is for root alone:
  file.directory:
    - names:
      - /var/lib/csyncsync
      - /var/lib/csync2
    - user: root
    - group: root
    - mode: '0700'

The environment of these states is known:
  file.managed:
    - name: /var/lib/csyncsync/salt.env
    - contents: {{ saltenv | tojson }}
    - mode: '0600'
    - require:
      - file: What is known of the groups is for root alone

{%- set confine = (pillar.get('csyncsync') or {}).get('confine', True) if pillar.get('csyncsync') is mapping else True %}
{%- if confine is not boolean %}

csync2 is confined or not:
  test.fail_without_changes:
    - name: {{ ('csyncsync:confine ' ~ confine | tojson ~ ' is neither true nor false') | tojson }}
{%- elif confine %}

csync2 is confined:
  file.absent:
    - name: /var/lib/csyncsync/csync2.unconfined
{%- else %}

csync2 is run unconfined, as the pillar has it:
  file.managed:
    - name: /var/lib/csyncsync/csync2.unconfined
    - contents: 'csyncsync:confine is false in the pillar.'
    - mode: '0600'
    - require:
      - file: What is known of the groups is for root alone
{%- endif %}

{%- for unit in ['csyncsync-server.service', 'csyncsync-push@.service', 'csyncsync-watch.service', 'csyncsync-full@.service', 'csyncsync-full@.timer',
      'csyncsync-action@.path', 'csyncsync-action@.service'] %}

The unit {{ unit }} is there:
  file.managed:
    - name: /etc/systemd/system/{{ unit }}
    - source: salt://csyncsync/files/{{ unit }}.jinja
    - template: jinja
    - onchanges_in:
      - module: systemd reads its units again
{%- endfor %}

{%- set before = ['/var/lib/csyncsync/watch.lock', '/etc/systemd/system/csync2.socket.d/csyncsync.conf', '/etc/systemd/system/csync2@.service.d/csyncsync.conf',
      '/etc/systemd/system/csync2-died@.service'] %}
{#- A directory of that name is a group's. #}
{%- for name in ['/var/lib/csyncsync/unconfined', '/var/lib/csyncsync/saltenv'] if salt['file.file_exists'](name) %}
{%- do before.append(name) %}
{%- endfor %}

Units of older versions are gone:
  file.absent:
    - names: {{ before | tojson }}
    - onchanges_in:
      - module: systemd reads its units again

systemd reads its units again:
  module.run:
    - service.systemctl_reload: []

csync2 is not run by its own socket:
  service.dead:
    - name: csync2.socket
    - enable: False
    - require:
      - module: systemd reads its units again

csync2 is run for its peers:
  service.running:
    - name: csyncsync-server
    - enable: True
    - require:
      - service: csync2 is not run by its own socket
    - watch:
      - file: The unit csyncsync-server.service is there

The watcher runs:
  service.running:
    - name: csyncsync-watch
    - enable: True
    - require:
      - module: systemd reads its units again
    - watch:
      - file: The unit csyncsync-watch.service is there
