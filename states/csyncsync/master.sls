# On the master: salt-call --local --file-root=REPO/states state.apply csyncsync.master
# Reactor and key provider, and the runner's and pillar's modules.
{%- set groups_file = salt['pillar.get']('groups_file', '/srv/pillar/csyncsync.sls') %}
{%- set others = salt['file.find']('/etc/salt/master.d', name='*.conf', grep='^(reactor|ext_pillar):', print='path')
      | reject('equalto', '/etc/salt/master.d/csyncsync.conf') | list %}
{%- if others %}

Another file of the master's config has a reactor or an ext_pillar:
  test.show_notification:
    - text: >-
        The last file wins, so only one may have each: merge /etc/salt/master.d/csyncsync.conf into {{ others | join(', ') }}.
{%- endif %}

The master reacts to csyncsync's events and gives out keys:
  file.managed:
    - name: /etc/salt/master.d/csyncsync.conf
    - source: salt://csyncsync/files/master.conf.jinja
    - template: jinja
    - context:
        groups_file: {{ groups_file | tojson }}
        reactor: /etc/salt/csyncsync/reactor.sls

The reactor's file is beside the master's config:
  file.managed:
    - name: /etc/salt/csyncsync/reactor.sls
    - source: salt://csyncsync/files/reactor.sls
    - mode: '0644'
    - dir_mode: '0755'
    - makedirs: True

The groups file can be read by the master alone:
  file.managed:
    - name: {{ groups_file | tojson }}
    - user: {{ (salt['file.get_user']('/etc/salt/pki/master') or 'root') | tojson }}
    - mode: '0600'
    - replace: False
    - create: False

The master has to be restarted:
  test.show_notification:
    - text: >-
        The config changed. Now run: salt-run saltutil.sync_all && systemctl restart salt-master
    - onchanges:
      - file: The master reacts to csyncsync's events and gives out keys
      - file: The reactor's file is beside the master's config
